// Imports checkpoints of the original implementation: GPT-2 whose linears are torch Linears
// ([out, in], not Hugging Face's transposed Conv1D), each with one LoRA module per width
// (h.0.attn.c_attn.lora_modules.lora_4bit.lora_A), or with a single one from cyclic training
// (h.0.attn.c_attn.lora_module.lora_A).
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>

#include "app/import/formats.h"
#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "io/adapter_dir.h"
#include "io/model_dir.h"
#include "io/safetensors.h"
#include "text/bpe_tokenizer.h"
#include "weights/adapter.h"
#include "weights/transpose.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

using Shape = std::vector<std::size_t>;

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

// The tensors of a checkpoint by name without prefix, and its configuration.
struct Checkpoint {
  std::string where, directory;
  std::optional<io::ModelDir> dir;            // owns the memory of tensors
  std::optional<io::SafetensorsFile> single;  // likewise, for a single file
  std::map<std::string, const io::TensorView*> tensors;
  Json config;
};

Checkpoint open_checkpoint(const std::string& path) {
  Checkpoint checkpoint;
  checkpoint.where = path;
  if (is_directory(path)) {
    checkpoint.directory = path;
    checkpoint.dir = io::ModelDir::open(path);
    for (const std::string& name : checkpoint.dir->names())
      checkpoint.tensors[name] = checkpoint.dir->find(name);
    checkpoint.config = checkpoint.dir->config();
    return checkpoint;
  }
  checkpoint.directory = fs::path(path).parent_path().string();
  if (checkpoint.directory.empty()) checkpoint.directory = ".";
  checkpoint.single = io::SafetensorsFile::open(path);
  for (const auto& [name, view] : checkpoint.single->tensors()) {
    const std::string bare = io::strip_prefixes(name);
    QALOF_CHECK(checkpoint.tensors.emplace(bare, &view).second, ErrorKind::kBadInput,
                "{}: tensor {} stands for {}, which another tensor is already", path, name, bare);
  }
  checkpoint.config =
      read_json_file((fs::path(checkpoint.directory) / "config.json").string(), 1 << 20);
  return checkpoint;
}

// The part of an adapter that a tensor holds.
struct LoraName {
  std::string linear;
  int width = 0;  // 0: the single module of cyclic training
  bool is_b = false;
};

std::optional<LoraName> parse_lora_name(std::string_view name) {
  LoraName parsed;
  if (name.ends_with(".lora_B")) {
    parsed.is_b = true;
  } else if (!name.ends_with(".lora_A")) {
    return std::nullopt;
  }
  name.remove_suffix(std::string_view(".lora_A").size());
  if (constexpr std::string_view kSingle = ".lora_module"; name.ends_with(kSingle)) {
    parsed.linear = name.substr(0, name.size() - kSingle.size());
    return parsed;
  }
  constexpr std::string_view kPerWidth = ".lora_modules.lora_", kBits = "bit";
  const std::size_t at = name.rfind(kPerWidth);
  if (at == std::string_view::npos || !name.ends_with(kBits)) return std::nullopt;
  const char* begin = name.data() + at + kPerWidth.size();
  const char* end = name.data() + name.size() - kBits.size();
  if (begin >= end) return std::nullopt;
  const auto [stop, error] = std::from_chars(begin, end, parsed.width);
  if (error != std::errc() || stop != end) return std::nullopt;
  if (!quant::is_legal(quant::BitWidth{parsed.width})) return std::nullopt;
  parsed.linear = name.substr(0, at);
  return parsed;
}

struct LoraPair {
  const io::TensorView* a = nullptr;
  const io::TensorView* b = nullptr;
};
using LoraPairs = std::map<int, std::map<std::string, LoraPair>>;  // width, linear

// Moves the adapters' tensors out of the checkpoint's.
LoraPairs take_lora_pairs(Checkpoint& checkpoint, const model::ModelConfig& config) {
  std::map<std::string, bool> known;
  for (const model::LinearSpec& spec : model::linears(config)) known[spec.name] = true;
  LoraPairs pairs;
  std::erase_if(checkpoint.tensors, [&](const auto& entry) {
    const std::optional<LoraName> name = parse_lora_name(entry.first);
    if (!name) return false;
    QALOF_CHECK(known.contains(name->linear), ErrorKind::kBadInput,
                "{}: tensor {} belongs to no linear of the model", checkpoint.where, entry.first);
    LoraPair& pair = pairs[name->width][name->linear];
    (name->is_b ? pair.b : pair.a) = entry.second;
    return true;
  });
  QALOF_CHECK(!pairs.empty(), ErrorKind::kBadInput,
              "{}: holds no adapters of the original (h.0.attn.c_attn.lora_modules.lora_4bit."
              "lora_A or the like); a plain model directory needs no import",
              checkpoint.where);
  return pairs;
}

// Values of a tensor; name is for messages.
std::vector<float> values_of(const Checkpoint& checkpoint, const std::string& name,
                             const io::TensorView& view) {
  std::vector<float> values(view.num_elements());
  io::copy_as_f32(view, values);
  check_finite_tensor(values, checkpoint.where, name);
  return values;
}

const io::TensorView& take(Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  const auto it = checkpoint.tensors.find(name);
  QALOF_CHECK(it != checkpoint.tensors.end(), ErrorKind::kBadInput, "{}: tensor {} is missing",
              checkpoint.where, name);
  const io::TensorView& view = *it->second;
  QALOF_CHECK(view.shape == shape, ErrorKind::kBadInput, "{}: tensor {} has shape {}, expected {}",
              checkpoint.where, name, shape_text(view.shape), shape_text(shape));
  checkpoint.tensors.erase(it);
  return view;
}

std::vector<float> take_values(Checkpoint& checkpoint, const std::string& name,
                               const Shape& shape) {
  return values_of(checkpoint, name, take(checkpoint, name, shape));
}

std::optional<weights::Head> take_head(Checkpoint& checkpoint, std::size_t hidden) {
  if (!checkpoint.tensors.contains("qa_outputs.weight")) return std::nullopt;
  weights::Head head;
  head.outputs = 2;
  head.weight = take_values(checkpoint, "qa_outputs.weight", {2, hidden});
  head.bias = take_values(checkpoint, "qa_outputs.bias", {2});
  return head;
}

weights::Adapter make_adapter(const Checkpoint& checkpoint, const model::ModelConfig& config,
                              const std::map<std::string, LoraPair>& pairs, double alpha) {
  weights::Adapter adapter;
  adapter.alpha = static_cast<float>(alpha);
  for (const model::LinearSpec& spec : model::linears(config)) {
    const auto it = pairs.find(spec.name);
    QALOF_CHECK(it != pairs.end() && it->second.a != nullptr && it->second.b != nullptr,
                ErrorKind::kBadInput, "{}: {} lacks lora_A or lora_B of a width that others have",
                checkpoint.where, spec.name);
    const io::TensorView &a = *it->second.a, &b = *it->second.b;
    const bool has_rank = a.shape.size() == 2 && a.shape[0] > 0 && a.shape[1] == spec.in;
    const std::size_t rank = has_rank ? a.shape[0] : 0;
    QALOF_CHECK(has_rank && b.shape == (Shape{spec.out, rank}), ErrorKind::kBadInput,
                "{}: lora_A and lora_B of {} have shapes {} and {}, expected [r, {}] and [{}, r]",
                checkpoint.where, spec.name, shape_text(a.shape), shape_text(b.shape), spec.in,
                spec.out);
    QALOF_CHECK(adapter.rank == 0 || adapter.rank == rank, ErrorKind::kBadInput,
                "{}: {} has an adapter of rank {}, others of {}", checkpoint.where, spec.name, rank,
                adapter.rank);
    adapter.rank = rank;
    adapter.linears.push_back(std::make_unique<weights::LoraLinear>(
        rank, adapter.alpha / static_cast<float>(rank),
        values_of(checkpoint, spec.name + " lora_A", a),
        values_of(checkpoint, spec.name + " lora_B", b), spec.in, spec.out));
  }
  return adapter;
}

// Writes the base as a Hugging Face directory: linears are transposed to [in, out].
void write_base(Checkpoint& checkpoint, const model::ModelConfig& config,
                const std::optional<weights::Head>& head, const std::string& directory) {
  std::map<std::string, const model::LinearSpec*> linears;
  const std::vector<model::LinearSpec> specs = model::linears(config);
  for (const model::LinearSpec& spec : specs) linears[spec.name + ".weight"] = &spec;
  std::vector<std::vector<float>> storage;
  std::vector<io::TensorToWrite> tensors;
  const auto add = [&](const std::string& name, const Shape& shape, std::vector<float> values) {
    storage.push_back(std::move(values));
    tensors.push_back(
        {name, io::DType::kF32, shape, std::as_bytes(std::span<const float>(storage.back()))});
  };
  for (const model::TensorSpec& spec : model::expected_tensors(config)) {
    const auto linear = linears.find(spec.name);
    if (linear == linears.end()) {
      add("transformer." + spec.name, spec.shape, take_values(checkpoint, spec.name, spec.shape));
      continue;
    }
    const std::size_t in = linear->second->in, out = linear->second->out;
    const std::vector<float> stored = take_values(checkpoint, spec.name, {out, in});
    add("transformer." + spec.name, spec.shape, weights::transposed(stored, out, in));
  }
  if (head) {
    add("qa_outputs.weight", {2, config.hidden}, head->weight);
    add("qa_outputs.bias", {2}, head->bias);
  }
  for (const auto& [name, view] : checkpoint.tensors) {
    fail(ErrorKind::kBadInput, "{}: tensor {} is not part of such a checkpoint", checkpoint.where,
         name);
  }
  const NewDirectory made(directory);
  io::write_safetensors(directory + "/model.safetensors", tensors, {});
  bool has_tokenizer = false;
  for (const char* name : {"tokenizer.json", "vocab.json"})
    has_tokenizer = has_tokenizer || path_exists((fs::path(checkpoint.directory) / name).string());
  if (has_tokenizer) text::copy_tokenizer_files(checkpoint.directory, directory);
  Json raw = config.raw;
  for (const char* key : {"bit_widths", "lora_r", "lora_alpha"}) raw.erase(key);
  raw["architectures"] = {head ? "GPT2ForQuestionAnswering" : "GPT2LMHeadModel"};
  const std::string path = directory + "/config.json";
  write_file_atomic(path, dump_json(raw, path, 2) + "\n");
}

}  // namespace

ImportResult import_original(const ImportOptions& options, Observer& observer) {
  observer.status("opening " + options.source);
  Checkpoint checkpoint = open_checkpoint(options.source);
  const std::string config_path = (fs::path(checkpoint.directory) / "config.json").string();
  const model::ModelConfig config = model::parse_model_config(checkpoint.config, config_path);
  ImportResult result;
  result.format = "the original's checkpoint";
  result.output_dir = options.output_dir;
  result.tensors = checkpoint.tensors.size();
  // The original's command line and configuration have different defaults, so none is assumed.
  const double alpha = json_number(checkpoint.config, "lora_alpha", config_path);
  const LoraPairs pairs = take_lora_pairs(checkpoint, config);
  QALOF_CHECK(pairs.size() == 1 || !pairs.contains(0), ErrorKind::kBadInput,
              "{}: holds adapters of widths and one without a width", checkpoint.where);
  const std::optional<weights::Head> head = take_head(checkpoint, config.hidden);
  std::map<int, weights::Adapter> adapters;
  for (const auto& [width, of_width] : pairs) {
    // The single adapter of cyclic training is named after its highest width and, as any adapter,
    // serves every width below.
    constexpr int kCyclicWidth = 8;
    weights::Adapter& adapter = adapters[width == 0 ? kCyclicWidth : width];
    adapter = make_adapter(checkpoint, config, of_width, alpha);
    adapter.qa_head = head;
    if (width == 0)
      observer.info(fmt::format("{}: one adapter for every width, written as w{}", options.source,
                                kCyclicWidth));
  }

  io::AdapterDir dir;
  dir.base_id = "gpt2";  // the base the original's code loads by name
  if (!checkpoint.tensors.empty()) {
    const std::string base = options.output_dir + "/base";
    observer.status("writing " + base);
    write_base(checkpoint, config, head, base);
    dir.base_id = base;
    dir.base_sha256 = io::ModelDir::open(base).sha256();
    result.directories.push_back(base);
  }
  for (const auto& [width, adapter] : adapters) {
    const std::string name = fmt::format("w{}", width);
    const std::string directory = options.output_dir + "/" + name;
    weights::save_adapter(directory, adapter, config, weights::HeadKind::kSpan, dir.base_id);
    dir.adapters[width] = name;
    if (head) dir.heads[width] = name;
    result.directories.push_back(directory);
  }
  // The original does not quantize K and V.
  dir.plan = quant::to_json(quant::parse_plan(fmt::format("w{0}a{0}", adapters.rbegin()->first)));
  io::write_adapter_dir(options.output_dir, dir);
  observer.status("");
  return result;
}

}  // namespace qalof::app
