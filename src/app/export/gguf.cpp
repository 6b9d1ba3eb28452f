// Exports to GGUF: a model with its adapter merged, or an adapter as llama.cpp's LoRA file.
#include <filesystem>

#include "app/export/formats.h"
#include "app/gguf/architecture.h"
#include "app/gguf/metadata.h"
#include "app/gguf/tokenizer_out.h"
#include "core/error.h"
#include "core/file.h"
#include "io/gguf_write.h"

namespace qalof::app {

namespace {

namespace fs = std::filesystem;

void check_output_is_new(const ExportSource& source) {
  std::error_code error;
  QALOF_CHECK(source.overwrite || !fs::is_regular_file(source.output, error), ErrorKind::kUsage,
              "{}: exists already, --overwrite replaces it", source.output);
}

// The last part of a path, as a name for a model.
std::string name_of_path(const std::string& path) {
  const fs::path normal = fs::absolute(path).lexically_normal();
  const std::string name = normal.filename().string();
  return name.empty() ? normal.parent_path().filename().string() : name;
}

void refuse_heads(const ExportSource& source) {
  if (source.adapter == nullptr) return;
  const char* head = source.adapter->qa_head      ? "question-answering"
                     : source.adapter->class_head ? "classification"
                                                  : nullptr;
  QALOF_CHECK(head == nullptr, ErrorKind::kUnsupported,
              "{}: the adapter has a {} head, which a GGUF file cannot hold; expected an adapter "
              "of a language model, or --format hf",
              source.adapters->path, head);
}

// The type of a tensor: vectors and position embeddings stay f32, and where matrices have 4 bits,
// the embedding and the LM head, which cost the most, have 8. Rows that are no multiple of a block
// are f16, as llama.cpp's converter has them.
io::GgufType exported_type(const GgufTensorMap& map, io::GgufType type, bool is_linear) {
  if (!map.is_matrix) return io::GgufType::kF32;
  const bool is_four_bits = type == io::GgufType::kQ4_0 || type == io::GgufType::kQ4_1;
  if (is_four_bits && !is_linear) type = io::GgufType::kQ8_0;
  const io::GgufBlock& block = *io::gguf_block(static_cast<std::uint32_t>(type));
  return map.their_shape().back() % block.elements == 0 ? type : io::GgufType::kF16;
}

// Encodes and writes; returns what was written.
ExportResult write_counted(const ExportSource& source, const io::GgufMetadata& metadata,
                           const std::vector<io::GgufTensorToMake>& tensors) {
  ExportResult result;
  result.tensors = tensors.size();
  result.bytes = io::gguf_file_bytes(metadata, tensors);
  source.tell_size(result.bytes);
  io::write_gguf(source.output, metadata, tensors, source.counter(tensors.size()), source.parallel);
  return result;
}

// B of an adapter, [out, rank], in the order of a GGUF file.
GgufTensorMap map_of_lora_b(const GgufTensorMap& weight, std::size_t out, std::size_t rank) {
  GgufTensorMap map = weight;
  map.is_transposed = false;
  map.shape = {out, rank};
  return map;
}

}  // namespace

ExportResult export_gguf(const ExportSource& source) {
  const model::ModelConfig& config = source.config();
  check_output_is_new(source);
  refuse_heads(source);
  QALOF_CHECK(config.lm_head != model::LmHead::kNone, ErrorKind::kUnsupported,
              "{}: has no LM head, a GGUF file holds a language model", source.base->path());
  if (source.base->qa_head() || source.base->class_head()) {
    source.observer.warn(
        fmt::format("{}: the head beside the LM head is left out", source.base->path()));
  }
  const GgufArchitecture& architecture = choose_gguf_architecture(config, source.base->path());
  io::GgufMetadata metadata;
  add_general(architecture, "model", name_of_path(source.base->path()), metadata);
  add_model(architecture, config, source.base->path(), metadata, source.observer);
  add_file_type(source.type, metadata);
  add_tokenizer(source.base->path(), config, metadata, source.observer);
  const std::vector<GgufTensorMap> maps = gguf_tensor_maps(architecture, config);
  std::vector<io::GgufTensorToMake> tensors = rope_tensors(config);
  std::size_t fallbacks = 0;
  for (const GgufTensorMap& map : maps) {
    const bool is_linear = map.theirs.starts_with("blk.");
    const io::GgufType type = exported_type(map, source.type, is_linear);
    if (map.is_matrix && type == io::GgufType::kF16 && source.type != type) ++fallbacks;
    tensors.push_back({map.theirs, map.their_shape(), type, [&source, &map] {
                         return values_to_gguf(map, source.merged_tensor(map.name));
                       }});
  }
  if (fallbacks > 0) {
    source.observer.warn(
        fmt::format("{} matrices have rows that are no multiple of a block of {}, they are f16",
                    fallbacks, export_type_name(source.type)));
  }
  return write_counted(source, metadata, tensors);
}

ExportResult export_gguf_lora(const ExportSource& source) {
  const model::ModelConfig& config = source.config();
  check_output_is_new(source);
  refuse_heads(source);
  const GgufArchitecture& architecture = choose_gguf_architecture(config, source.base->path());
  const weights::Adapter& adapter = *source.adapter;
  // llama.cpp divides one alpha by each pair's rank; where a pair's factor is another one, B takes
  // the rest.
  const auto alpha_of = [](const weights::LoraLinear& pair) {
    return pair.view().scaling * static_cast<float>(pair.rank());
  };
  float alpha = 0;
  std::vector<io::GgufTensorToMake> tensors;
  const std::vector<model::LinearSpec>& linears = source.base->linears();
  const std::vector<GgufTensorMap> maps = gguf_tensor_maps(architecture, config);
  for (std::size_t i = 0; i < adapter.linears.size(); ++i) {
    const weights::LoraLinear* pair = adapter.linears[i].get();
    if (pair == nullptr) continue;
    if (alpha == 0) alpha = alpha_of(*pair);
    const model::LinearSpec& spec = linears[i];
    const auto weight = std::find_if(maps.begin(), maps.end(), [&](const GgufTensorMap& map) {
      return map.name == spec.name + ".weight";
    });
    GgufTensorMap b = map_of_lora_b(*weight, spec.out, pair->rank());
    const float rest = alpha == 0 ? 1.0F : alpha_of(*pair) / alpha;
    tensors.push_back({weight->theirs + ".lora_a", {pair->rank(), spec.in}, source.type, [pair] {
                         return pair->a();
                       }});
    tensors.push_back({weight->theirs + ".lora_b", b.shape, source.type, [pair, b, rest] {
                         std::vector<float> values = values_to_gguf(b, pair->b());
                         for (float& value : values) value *= rest;
                         return values;
                       }});
  }
  QALOF_CHECK(!tensors.empty(), ErrorKind::kUnsupported, "{}: the adapter has no pairs",
              source.adapters->path);
  QALOF_CHECK(alpha != 0, ErrorKind::kUnsupported,
              "{}: its factor is 0, which llama.cpp takes for 1", source.adapters->path);
  io::GgufMetadata metadata;
  add_general(architecture, "adapter", name_of_path(source.adapters->path), metadata);
  metadata.add("adapter.type", "lora");
  metadata.add("adapter.lora.alpha", alpha);
  add_file_type(source.type, metadata);
  return write_counted(source, metadata, tensors);
}

}  // namespace qalof::app
