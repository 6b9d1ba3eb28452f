// Converts a GGUF file to a Hugging Face directory: config, tokenizer, tensors.
#include <algorithm>
#include <filesystem>

#include "app/gguf/architecture.h"
#include "app/gguf/config_in.h"
#include "app/gguf/tokenizer_in.h"
#include "app/import/formats.h"
#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "io/gguf.h"
#include "io/model_write.h"
#include "model/config.h"
#include "text/chat_template.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

// One tensor to write: ours, and where its values are.
struct ImportedTensor {
  GgufTensorMap map;
  std::string theirs;  // map.theirs, or the fused tensor that holds it
  const io::GgufTensor* source;
  std::size_t first_row = 0;
};

// Where a tensor's values are; q, k and v may be rows of one tensor.
ImportedTensor find_tensor(const io::GgufFile& file, const GgufTensorMap& map) {
  const std::vector<std::size_t> shape = map.their_shape();
  const auto found = file.tensors().find(map.theirs);
  if (found != file.tensors().end()) {
    QALOF_CHECK(found->second.shape == shape, ErrorKind::kBadInput,
                "{}: tensor {} has shape [{}], expected [{}]", file.path(), map.theirs,
                fmt::join(found->second.shape, ", "), fmt::join(shape, ", "));
    return {map, map.theirs, &found->second};
  }
  for (const char* part : {".attn_q.", ".attn_k.", ".attn_v."}) {
    const std::size_t at = map.theirs.find(part);
    if (at == std::string::npos) continue;
    const std::string name =
        map.theirs.substr(0, at) + ".attn_qkv." + map.theirs.substr(at + std::string(part).size());
    const auto fused = file.tensors().find(name);
    if (fused == file.tensors().end()) continue;
    const std::vector<std::size_t>& whole = fused->second.shape;
    QALOF_CHECK(whole.size() == shape.size() &&
                    whole.back() == (shape.size() == 1 ? whole.back() : shape.back()) &&
                    map.fused_rows + shape[0] <= whole[0],
                ErrorKind::kBadInput, "{}: tensor {} has shape [{}], too small for q, k and v",
                file.path(), name, fmt::join(whole, ", "));
    return {map, name, &fused->second, map.fused_rows};
  }
  fail(ErrorKind::kBadInput, "{}: tensor {} is missing", file.path(), map.theirs);
}

std::vector<ImportedTensor> tensors_to_import(const io::GgufFile& file,
                                              const GgufArchitecture& architecture,
                                              const model::ModelConfig& config) {
  std::vector<ImportedTensor> tensors;
  for (const GgufTensorMap& map : gguf_tensor_maps(architecture, config))
    tensors.push_back(find_tensor(file, map));
  for (const auto& [name, tensor] : file.tensors()) {
    const auto reads = [&source = tensor](const ImportedTensor& one) {
      return one.source == &source;
    };
    const bool is_factors =
        name == kRopeFactors || name == kRopeFactorsLong || name == kRopeFactorsShort;
    QALOF_CHECK(is_factors || std::ranges::any_of(tensors, reads), ErrorKind::kUnsupported,
                "{}: tensor {} is not part of a model of architecture {}", file.path(), name,
                architecture.name);
  }
  return tensors;
}

// Values in Hugging Face's order.
std::vector<float> imported_values(const ImportedTensor& tensor, const std::string& path) {
  const std::vector<std::size_t> shape = tensor.map.their_shape();
  std::size_t count = 1;
  for (const std::size_t extent : shape) count *= extent;
  std::vector<float> values(count);
  if (shape.size() == 1) {
    // A vector is one row, of which fused tensors hold a part.
    std::vector<float> whole(tensor.source->num_elements());
    io::copy_as_f32(*tensor.source, 0, whole);
    std::copy_n(whole.begin() + static_cast<std::ptrdiff_t>(tensor.first_row), count,
                values.begin());
  } else {
    io::copy_as_f32(*tensor.source, tensor.first_row, values);
  }
  check_finite_tensor(values, path, tensor.theirs);
  return values_from_gguf(tensor.map, std::move(values));
}

}  // namespace

ImportResult import_gguf(const ImportOptions& options, Observer& observer) {
  observer.status("opening " + options.source);
  const io::GgufFile file = io::GgufFile::open(options.source);
  const GgufArchitecture& architecture = find_architecture(file);
  Json raw = config_of(file, architecture);
  io::set_config_dtype(raw, options.bf16 ? io::DType::kBF16 : io::DType::kF32);
  const model::ModelConfig config = model::parse_model_config(raw, file.path());
  const std::vector<ImportedTensor> found = tensors_to_import(file, architecture, config);
  const std::map<std::string, std::string> tokenizer = tokenizer_files(file, config.vocab_size);
  if (tokenizer.empty()) observer.warn(file.path() + ": has no tokenizer, nor will the directory");
  const fs::path directory = options.output_dir;
  const std::string prefix = model::decoder_prefix(config, model::ModelClass::kCausalLm);
  std::vector<io::TensorToMake> tensors;
  for (const ImportedTensor& one : found) {
    const bool is_head = one.map.name == model::kLmHeadTensor;
    tensors.push_back({(is_head ? "" : prefix) + one.map.name, one.map.shape,
                       [&one, &file] { return imported_values(one, file.path()); }});
  }
  std::uint64_t done = 0;
  observer.progress("tensors", done, found.size(), "");
  io::write_model_weights(options.output_dir, tensors,
                          options.bf16 ? io::DType::kBF16 : io::DType::kF32,
                          [&] { observer.progress("tensors", ++done, found.size(), ""); });
  for (const auto& [name, text] : tokenizer) write_file_atomic((directory / name).string(), text);
  try {
    text::find_chat_template(options.output_dir);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    observer.warn(fmt::format("the chat template was copied, but this program cannot run it: {}",
                              error.what()));
  }
  // Written last, so that a directory with a config is complete.
  write_file_atomic((directory / "config.json").string(), raw.dump(2) + "\n");
  return {"GGUF file", options.output_dir, {options.output_dir}, found.size()};
}

}  // namespace qalof::app
