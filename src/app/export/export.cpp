// Options of export, the choice of type and width, and what the exporters share.
#include "app/export/export.h"

#include <algorithm>

#include "app/export/formats.h"
#include "app/output_check.h"
#include "core/error.h"
#include "core/file.h"
#include "io/model_dir.h"
#include "weights/adapter.h"
#include "weights/packed_file.h"
#include "weights/transpose.h"

namespace qalof::app {

namespace {

constexpr Named<ExportFormat> kExportFormats[] = {{"hf", ExportFormat::kHuggingFace},
                                                  {"gguf", ExportFormat::kGguf},
                                                  {"gguf-lora", ExportFormat::kGgufLora}};
constexpr Named<io::GgufType> kExportTypes[] = {
    {"f16", io::GgufType::kF16},   {"bf16", io::GgufType::kBF16}, {"f32", io::GgufType::kF32},
    {"q8_0", io::GgufType::kQ8_0}, {"q4_0", io::GgufType::kQ4_0}, {"q4_1", io::GgufType::kQ4_1}};

bool is_float_type(io::GgufType type) {
  return type == io::GgufType::kF16 || type == io::GgufType::kBF16 || type == io::GgufType::kF32;
}

// The type of a directory's weights; f32 where they have several.
io::GgufType stored_type(const std::string& directory) {
  const io::ModelDir dir = io::ModelDir::open(directory);
  std::optional<io::DType> dtype;
  for (const std::string& name : dir.names()) {
    if (dir.find(name)->shape.size() < 2) continue;
    if (dtype && *dtype != dir.find(name)->dtype) return io::GgufType::kF32;
    dtype = dir.find(name)->dtype;
  }
  if (dtype == io::DType::kBF16) return io::GgufType::kBF16;
  return dtype == io::DType::kF16 ? io::GgufType::kF16 : io::GgufType::kF32;
}

io::GgufType choose_type(const ExportOptions& options) {
  if (options.type) {
    QALOF_CHECK(options.format == ExportFormat::kGguf || is_float_type(*options.type),
                ErrorKind::kUsage, "--type {}: --format {} holds f16, bf16 or f32",
                export_type_name(*options.type),
                options.format == ExportFormat::kHuggingFace ? "hf" : "gguf-lora");
    return *options.type;
  }
  if (options.format == ExportFormat::kGgufLora) return io::GgufType::kF32;
  const io::GgufType stored = stored_type(options.model);
  const bool halves = options.format == ExportFormat::kGguf && stored == io::GgufType::kF32;
  return halves ? io::GgufType::kF16 : stored;
}

// Width that adapters of a type are chosen for: their own rule finds the nearest.
int type_bits(io::GgufType type) {
  if (type == io::GgufType::kQ8_0) return 8;
  return is_float_type(type) ? 32 : 4;
}

int choose_width(const weights::AdapterSet& set, const ExportOptions& options, io::GgufType type) {
  if (!options.bits) return *set.serving_width(type_bits(type));
  if (set.by_width.contains(*options.bits)) return *options.bits;
  std::vector<int> widths;
  for (const auto& [width, adapter] : set.by_width) widths.push_back(width);
  fail(ErrorKind::kUsage, "--bits {}: {}", *options.bits,
       widths == std::vector{0}
           ? fmt::format("{} is a plain PEFT adapter without widths", set.path)
           : fmt::format("{} has adapters of {} bits", set.path, fmt::join(widths, ", ")));
}

void check_export_options(const ExportOptions& options) {
  QALOF_CHECK(!options.output.empty(), ErrorKind::kUsage, "--output is missing");
  QALOF_CHECK(!options.bits || !options.adapter.empty(), ErrorKind::kUsage,
              "--bits: chooses among the widths of an --adapter, none is given");
  QALOF_CHECK(options.format != ExportFormat::kGgufLora || !options.adapter.empty(),
              ErrorKind::kUsage, "--format gguf-lora: writes an --adapter, none is given");
  QALOF_CHECK(!weights::is_packed_file(options.model), ErrorKind::kUnsupported,
              "{}: is a packed file, export reads a model directory with float weights",
              options.model);
  check_output_is_no_input(options.output, {options.model, options.adapter});
}

// Says which adapter it is and what of it stays behind.
void tell_adapter(const weights::AdapterSet& set, int width, Observer& observer) {
  const weights::Adapter& adapter = *set.by_width.at(width);
  if (width != 0) observer.info(fmt::format("{}: the adapter of {} bits", set.path, width));
  if (adapter.learned) {
    observer.warn(
        fmt::format("{}: the learned quantizer values of {} bits are left out, what is written is "
                    "quantized without them",
                    set.path, width));
  }
}

}  // namespace

std::string export_type_name(io::GgufType type) {
  for (const Named<io::GgufType>& known : kExportTypes) {
    if (known.value == type) return known.name;
  }
  return "?";
}

void list_export_options(OptionList& list, ExportOptions& options) {
  list.group("model");
  list.option("--model_name_or_path", options.model, "model directory")->required();
  list.option("--adapter", options.adapter,
              "training output directory or one PEFT directory: merged into the model, or with "
              "gguf-lora written itself");
  list.option("--bits", options.bits,
              "width whose adapter is taken; else that which would serve the type: the highest for "
              "floats",
              "by type");
  list.group("output");
  list.choice("--format", options.format, kExportFormats,
              "hf: a Hugging Face directory; gguf: one file for llama.cpp; gguf-lora: the adapter "
              "for llama.cpp")
      ->required();
  list.choice("--type", options.type, kExportTypes,
              "of matrices; q8_0, q4_0 and q4_1 for gguf alone; default: the model's own, f16 in a "
              "GGUF file where that is f32, and f32 for gguf-lora");
  list.option("--output", options.output, "file, or for hf directory, to write")->required();
  list.flag("--overwrite", options.overwrite, "replace an output that is there");
  list.group("machine");
  list.option("--threads", options.threads, "threads; 0 = QALOF_THREADS, else all");
}

std::vector<float> ExportSource::merged_tensor(const std::string& name) const {
  const std::vector<model::LinearSpec>& linears = base->linears();
  const auto linear = std::find_if(linears.begin(), linears.end(), [&](const auto& spec) {
    return name.size() == spec.name.size() + 7 && name.starts_with(spec.name) &&
           name.ends_with(".weight");
  });
  if (adapter == nullptr || linear == linears.end()) return *base->source().tensor_f32(name);
  const auto index = static_cast<std::size_t>(linear - linears.begin());
  std::vector<float> merged = weights::merged_floats(*base, *adapter, index, parallel);
  return linear->conv1d ? weights::transposed(merged, linear->out, linear->in) : merged;
}

void ExportSource::tell_size(std::uint64_t bytes) const {
  observer.info(fmt::format("{}: {:.1f} MB to write", output, static_cast<double>(bytes) / 1e6));
}

std::function<void()> ExportSource::counter(std::size_t total) const {
  observer.progress("tensors", 0, total, "");
  return [this, total, done = std::uint64_t{0}]() mutable {
    observer.progress("tensors", ++done, total, "");
  };
}

ExportResult run_export(const ExportOptions& options, Observer& observer) {
  check_export_options(options);
  const StoredModel stored = open_stored(options.model, options.threads, observer);
  const io::GgufType type = choose_type(options);
  ThreadPool pool(choose_threads(options.threads));
  ExportSource source{.base = stored.base,
                      .adapters = nullptr,
                      .adapter = nullptr,
                      .output = options.output,
                      .overwrite = options.overwrite,
                      .type = type,
                      .parallel = pool,
                      .observer = observer};
  ExportResult result;
  if (!options.adapter.empty()) {
    source.adapters = open_adapters(stored, options.adapter, observer);
    result.bits = choose_width(*source.adapters, options, type);
    source.adapter = source.adapters->by_width.at(*result.bits);
    tell_adapter(*source.adapters, *result.bits, observer);
  }
  const auto run = [&] {
    switch (options.format) {
      case ExportFormat::kHuggingFace:
        return export_hugging_face(source);
      case ExportFormat::kGguf:
        return export_gguf(source);
      case ExportFormat::kGgufLora:
        break;
    }
    return export_gguf_lora(source);
  };
  const ExportResult written = run();
  result.tensors = written.tensors;
  result.bytes = written.bytes;
  result.type = export_type_name(type);
  result.output = options.output;
  observer.status("");
  return result;
}

}  // namespace qalof::app
