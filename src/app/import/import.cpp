// Recognizes a checkpoint's format by its first bytes, guards the output directory, and dispatches.
#include "app/import/import.h"

#include <algorithm>
#include <filesystem>
#include <string_view>

#include "app/hub.h"
#include "app/import/formats.h"
#include "app/output_check.h"
#include "core/error.h"
#include "core/file.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

enum class Format { kSafetensors, kGguf, kPickle, kUnknown };

// The format of a file by its first bytes.
Format format_of(const std::string& path) {
  constexpr std::size_t kMagicBytes = 9;
  const MappedFile file = MappedFile::open(path);
  const std::size_t size = std::min(kMagicBytes, file.bytes().size());
  const std::string_view start(reinterpret_cast<const char*>(file.bytes().data()), size);
  // A .gguf file with another beginning is refused by the reader, with a better message.
  if (start.starts_with("GGUF") || path.ends_with(".gguf")) return Format::kGguf;
  // PyTorch writes zip archives of pickles; old versions wrote bare pickles.
  if (start.starts_with("PK\x03\x04") || start.starts_with("\x80\x02")) return Format::kPickle;
  // Eight bytes of header length, then the JSON header.
  if (start.size() == kMagicBytes && start[8] == '{') return Format::kSafetensors;
  return Format::kUnknown;
}

[[noreturn]] void refuse_pickle(const std::string& path) {
  fail(ErrorKind::kUnsupported,
       "{}: is a pickled PyTorch file, which is not read because it can run code; convert it with "
       "python -c \"import torch, safetensors.torch as s; "
       "s.save_file({{k: v.contiguous() for k, v in torch.load('pytorch_model.bin', "
       "weights_only=True).items()}}, 'model.safetensors')\"",
       path);
}

}  // namespace

ImportResult run_import(const ImportOptions& given, Observer& observer) {
  ImportOptions options = given;
  options.source = local_path(options.source, io::HubUse::kAny, observer);
  QALOF_CHECK(!options.output_dir.empty(), ErrorKind::kUsage, "--output_dir is missing");
  QALOF_CHECK(path_exists(options.source), ErrorKind::kNotFound, "{}: no such file or directory",
              options.source);
  const fs::path output = options.output_dir;
  for (const char* name : {"qalof.json", "config.json"}) {
    QALOF_CHECK(options.overwrite || !path_exists((output / name).string()), ErrorKind::kUsage,
                "{}: holds {} already, --overwrite_output_dir replaces it", options.output_dir,
                name);
  }
  Format format = Format::kSafetensors;
  if (is_directory(options.source)) {
    const std::string pickled = (fs::path(options.source) / "pytorch_model.bin").string();
    const bool has_safetensors =
        path_exists((fs::path(options.source) / "model.safetensors").string()) ||
        path_exists((fs::path(options.source) / "model.safetensors.index.json").string());
    if (!has_safetensors && path_exists(pickled)) refuse_pickle(pickled);
  } else {
    format = format_of(options.source);
  }
  const fs::path written = format == Format::kGguf ? output : output / "base";
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json"})
    check_output_is_no_input((written / name).string(), {options.source});
  const NewDirectory made(options.output_dir);
  switch (format) {
    case Format::kSafetensors:
      return import_original(options, observer);
    case Format::kPickle:
      refuse_pickle(options.source);
    case Format::kGguf:
      return import_gguf(options, observer);
    case Format::kUnknown:
      break;
  }
  fail(
      ErrorKind::kUnsupported,
      "{}: unknown format, expected a GGUF file or a safetensors checkpoint of the original Python "
      "code",
      options.source);
}

}  // namespace qalof::app
