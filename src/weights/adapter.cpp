// Reading PEFT directories tensor by tensor, choosing the adapter of a width, and writing PEFT
// directories back.
#include "weights/adapter.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "io/adapter_dir.h"
#include "io/peft.h"
#include "io/peft_modules.h"

namespace qalof::weights {

namespace {

constexpr std::string_view kASuffix = ".lora_A.weight";
constexpr std::string_view kBSuffix = ".lora_B.weight";

// Strips the class prefix ("transformer.", "model.") from a tensor's name; *prefix receives it.
std::string without_model_prefix(const std::string& name, std::string* prefix = nullptr) {
  if (prefix != nullptr) prefix->clear();
  for (const std::string_view known : {"transformer.", "model.language_model.", "model."}) {
    if (!name.starts_with(known)) continue;
    if (prefix != nullptr) *prefix = known;
    return name.substr(known.size());
  }
  return name;
}

// A model's state dict holds "....lora_A.default.weight" where a saved adapter holds
// "....lora_A.weight"; returns the saved form. peft loads both, with the adapter name "default".
std::string without_adapter_name(const std::string& name) {
  for (const std::string_view suffix : {kASuffix, kBSuffix}) {
    const std::string part(suffix.substr(0, suffix.rfind('.')));  // ".lora_A"
    const std::string long_suffix = part + ".default.weight";
    if (name.ends_with(long_suffix))
      return name.substr(0, name.size() - long_suffix.size()) + std::string(suffix);
  }
  return name;
}

// Describes a tensor of a peft feature that is not implemented here; "" for an unknown tensor.
std::string_view foreign_tensor(const std::string& name, const std::string& embedding) {
  if (name.find(".lora_embedding_") != std::string::npos) return "an adapter of an embedding";
  if (name.starts_with("lm_head.lora_")) return "an adapter of the LM head";
  if (name.starts_with("lm_head.")) return "an LM head that was trained as a whole";
  if (name == embedding || name.starts_with(embedding.substr(0, embedding.rfind('.')) + "."))
    return "an embedding that was trained as a whole";
  if (name.ends_with(".base_layer.bias")) return "a trained bias";
  if (name.ends_with(".lora_B.bias")) return "a bias of lora_B";
  if (name.ends_with(".lora_magnitude_vector")) return "a magnitude of DoRA";
  return "";
}

std::vector<float> read_tensor(const io::PeftAdapter& adapter, const std::string& key,
                               const std::string& where, std::vector<std::size_t> shape) {
  const io::TensorView& view = adapter.tensors().at(key);
  const bool transposed = view.shape.size() == 2 && shape.size() == 2 &&
                          view.shape[0] == shape[1] && view.shape[1] == shape[0];
  QALOF_CHECK(view.shape == shape, ErrorKind::kBadInput,
              "{}: tensor {} has shape [{}], expected [{}]{}", where, key,
              fmt::join(view.shape, ", "), fmt::join(shape, ", "),
              transposed ? " (it is transposed)" : "");
  std::vector<float> values(view.num_elements());
  io::copy_as_f32(view, values);
  QALOF_CHECK(std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }),
              ErrorKind::kBadInput, "{}: tensor {} holds NaN or infinity", where, key);
  return values;
}

// Reads one PEFT directory against the model's linears.
class PeftReader {
 public:
  PeftReader(const std::string& directory, const model::ModelConfig& config)
      : directory_(directory),
        config_(config),
        linears_(model::linears(config)),
        peft_(io::read_peft(directory)),
        prefix_(model::decoder_prefix(config, model::ModelClass::kCausalLm)),
        warnings_(peft_.warnings()) {
    for (const model::LinearSpec& spec : linears_) names_.push_back(spec.name);
  }

  std::shared_ptr<Adapter> read() {
    index_tensors();
    read_modules();
    auto adapter = std::make_shared<Adapter>();
    adapter->rank = peft_.config().r;
    adapter->alpha = static_cast<float>(peft_.config().lora_alpha);
    adapter->linears.resize(linears_.size());
    for (std::size_t i = 0; i < linears_.size(); ++i) adapter->linears[i] = read_linear(i);
    warn_of_bare_modules();
    adapter->qa_head = read_head("qa_outputs", 2);
    adapter->class_head = read_head("score", std::nullopt);
    return adapter;
  }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  // Every tensor must belong to a known linear or head, and at least one linear must match.
  void index_tensors() {
    static const std::set<std::string> heads = {"qa_outputs.weight", "qa_outputs.bias",
                                                "score.weight"};
    std::vector<std::string> unknown;
    for (const auto& [key, view] : peft_.tensors()) {
      const std::string name = without_model_prefix(without_adapter_name(key));
      const bool is_a = name.ends_with(kASuffix), is_b = name.ends_with(kBSuffix);
      const std::string module = is_a   ? name.substr(0, name.size() - kASuffix.size())
                                 : is_b ? name.substr(0, name.size() - kBSuffix.size())
                                        : "";
      if (std::find(names_.begin(), names_.end(), module) != names_.end()) {
        without_model_prefix(key, &prefix_);
        add_key(is_a ? &a_keys_ : &b_keys_, module, key);
      } else if (heads.contains(name)) {
        add_key(&head_keys_, name, key);
      } else {
        unknown.push_back(key);
      }
    }
    refuse_unknown(unknown);
    QALOF_CHECK(!a_keys_.empty(), ErrorKind::kBadInput, "{}: holds no LoRA tensor", directory_);
  }

  // Names with and without prefix or adapter name mean the same.
  void add_key(std::map<std::string, std::string>* keys, const std::string& name,
               const std::string& key) const {
    const auto [entry, is_new] = keys->emplace(name, key);
    QALOF_CHECK(is_new, ErrorKind::kBadInput, "{}: tensors {} and {} are the same one of {}",
                directory_, entry->second, key, name);
  }

  void refuse_unknown(const std::vector<std::string>& unknown) const {
    const std::string embedding = model::tensor_names(config_).token_embedding;
    for (const std::string& key : unknown) {
      const std::string_view what = foreign_tensor(without_model_prefix(key), embedding);
      QALOF_CHECK(what.empty(), ErrorKind::kUnsupported,
                  "{}: tensor {} is {}, which is not implemented", directory_, key, what);
    }
    QALOF_CHECK(!a_keys_.empty() || unknown.empty(), ErrorKind::kBadInput,
                "{}: no adapter tensor matches this model; it holds e.g. {}, expected e.g. "
                "{}{}{}",
                directory_, unknown.front(), prefix_, names_.front(), kASuffix);
    QALOF_CHECK(unknown.empty(), ErrorKind::kBadInput,
                "{}: tensor {} ({} in all) does not belong to this model, nearest {}", directory_,
                unknown.front(), unknown.size(),
                quant::nearest_name(without_model_prefix(unknown.front()), names_));
  }

  // Rank, alpha and selection of every linear by the configuration. A linear, embedding or LM head
  // that was saved as a whole (modules_to_save) is refused.
  void read_modules() {
    const std::string where = directory_ + "/adapter_config.json";
    const std::string embedding = model::tensor_names(config_).token_embedding;
    std::vector<std::string> names;
    for (const std::string& name : names_) names.push_back(prefix_ + name);
    names.push_back(prefix_ + embedding.substr(0, embedding.rfind('.')));
    names.push_back("lm_head");
    modules_ = io::peft_modules(peft_.config(), names, where);
    for (std::size_t i = 0; i < names.size(); ++i) {
      QALOF_CHECK(modules_[i].left_out_by != "modules_to_save", ErrorKind::kUnsupported,
                  "{}: modules_to_save names {}, implemented are qa_outputs and score", where,
                  names[i]);
    }
  }

  // The tensors decide which linears have an adapter. Tensors of a linear that the configuration
  // leaves out are refused: peft would ignore them silently.
  std::unique_ptr<LoraLinear> read_linear(std::size_t i) {
    const model::LinearSpec& spec = linears_[i];
    const io::PeftModule& module = modules_[i];
    const auto a = a_keys_.find(spec.name), b = b_keys_.find(spec.name);
    if (a == a_keys_.end() && b == b_keys_.end()) {
      if (module.left_out_by.empty()) bare_modules_.push_back(prefix_ + spec.name);
      return nullptr;
    }
    QALOF_CHECK(a != a_keys_.end() && b != b_keys_.end(), ErrorKind::kBadInput,
                "{}: tensor {}{} is missing, the other half of {}", directory_, spec.name,
                a == a_keys_.end() ? kASuffix : kBSuffix,
                a == a_keys_.end() ? b->second : a->second);
    QALOF_CHECK(module.left_out_by.empty(), ErrorKind::kBadInput,
                "{}: found tensor {}, although {}", directory_, a->second,
                module.left_out_by == "target_modules"
                    ? "target_modules does not name it"
                    : module.left_out_by + " leaves its module out");
    const std::vector<std::size_t>& a_shape = peft_.tensors().at(a->second).shape;
    const bool has_own_rank = !peft_.config().ranks_known && !a_shape.empty();
    const std::size_t rank = has_own_rank ? std::max<std::size_t>(a_shape.front(), 1) : module.rank;
    std::vector<float> a_values = read_tensor(peft_, a->second, directory_, {rank, spec.in});
    std::vector<float> b_values = read_tensor(peft_, b->second, directory_, {spec.out, rank});
    const double divisor = peft_.config().use_rslora ? std::sqrt(static_cast<double>(rank))
                                                     : static_cast<double>(rank);
    const double scaling = module.alpha / divisor;
    QALOF_CHECK(std::abs(scaling) <= std::numeric_limits<float>::max(), ErrorKind::kBadInput,
                "{}: the alpha of {} is {}, too large for a float", directory_, spec.name,
                module.alpha);
    return std::make_unique<LoraLinear>(rank, static_cast<float>(scaling), std::move(a_values),
                                        std::move(b_values), spec.in, spec.out);
  }

  // In peft, a module that is named but has no tensors adds nothing, unless its initialization is
  // random.
  void warn_of_bare_modules() {
    if (bare_modules_.empty() || !peft_.config().targets_known) return;
    const std::string found = fmt::format(
        "{}: target_modules names {}{}, which has no tensors", directory_, bare_modules_.front(),
        bare_modules_.size() == 1 ? "" : fmt::format(" and {} others", bare_modules_.size() - 1));
    QALOF_CHECK(!peft_.config().starts_at_random, ErrorKind::kUnsupported,
                "{}; with this init_lora_weights peft would start it at random numbers", found);
    warnings_.push_back(found + ": nothing is added to it");
  }

  std::optional<Head> read_head(const std::string& name, std::optional<std::size_t> outputs) const {
    const auto weight = head_keys_.find(name + ".weight"), bias = head_keys_.find(name + ".bias");
    QALOF_CHECK(bias == head_keys_.end() || weight != head_keys_.end(), ErrorKind::kBadInput,
                "{}: tensor {}.weight is missing", directory_, name);
    if (weight == head_keys_.end()) return std::nullopt;
    const std::vector<std::size_t>& shape = peft_.tensors().at(weight->second).shape;
    Head head;
    head.outputs = outputs ? *outputs : shape.empty() ? 0 : shape[0];
    QALOF_CHECK(head.outputs > 0, ErrorKind::kBadInput,
                "{}: tensor {} has shape [{}], expected [labels, {}]", directory_, weight->second,
                fmt::join(shape, ", "), config_.hidden);
    head.weight = read_tensor(peft_, weight->second, directory_, {head.outputs, config_.hidden});
    if (bias != head_keys_.end())
      head.bias = read_tensor(peft_, bias->second, directory_, {head.outputs});
    return head;
  }

  std::string directory_;
  const model::ModelConfig& config_;
  std::vector<model::LinearSpec> linears_;
  std::vector<std::string> names_;
  io::PeftAdapter peft_;
  std::string prefix_;  // as in the file; depends on the transformers class it was made for
  std::map<std::string, std::string> a_keys_, b_keys_, head_keys_;  // module -> key in the file
  std::vector<io::PeftModule> modules_;    // [linear], then the embedding and the LM head
  std::vector<std::string> bare_modules_;  // named by the configuration, without tensors
  std::vector<std::string> warnings_;
};

// The alpha to store: alpha / rank, rounded to float, must equal the scaling of the pairs. It may
// need double precision.
double stored_alpha(const Adapter& adapter) {
  const auto alpha = static_cast<double>(adapter.alpha), rank = static_cast<double>(adapter.rank);
  for (const auto& lora : adapter.linears) {
    if (lora == nullptr) continue;
    const float scaling = lora->view().scaling;
    // The product of a float and a rank is exact in double.
    return static_cast<float>(alpha / rank) == scaling ? alpha
                                                       : static_cast<double>(scaling) * rank;
  }
  return alpha;
}

}  // namespace

LoraLinear::LoraLinear(std::size_t rank, float scaling, std::vector<float> a, std::vector<float> b,
                       std::size_t in, std::size_t out)
    : rank_(rank), a_(std::move(a)), b_(std::move(b)) {
  SerialFor serial;
  const kernels::WeightFormat a_format = kernels::f32_format(rank);
  a_panels_.resize(kernels::packed_matrix_bytes(a_format, rank, in) / sizeof(float));
  b_panels_.resize(kernels::packed_matrix_bytes(kernels::WeightFormat::kF32, out, rank) /
                   sizeof(float));
  kernels::pack_f32(a_.data(), rank, in, in, /*transposed=*/false, a_panels_.data(), serial,
                    a_format);
  kernels::pack_f32(b_.data(), out, rank, rank, /*transposed=*/false, b_panels_.data(), serial);
  view_.a = {a_format, rank, in, a_panels_.data(), nullptr, nullptr};
  view_.b = {kernels::WeightFormat::kF32, out, rank, b_panels_.data(), nullptr, nullptr};
  view_.scaling = scaling;
}

std::optional<int> AdapterSet::serving_width(int weight_bits) const {
  if (by_width.empty()) return std::nullopt;
  if (by_width.contains(0)) return 0;
  return nearest_width(by_width, weight_bits);
}

AdapterSet load_adapters(const std::string& path, const model::ModelConfig& config) {
  namespace fs = std::filesystem;
  QALOF_CHECK(is_directory(path), ErrorKind::kNotFound, "{}: no such adapter directory", path);
  AdapterSet set;
  set.path = path;
  auto read = [&](const std::string& directory, int width, bool merged, bool learned) {
    PeftReader reader(directory, config);
    const std::shared_ptr<Adapter> adapter = reader.read();
    adapter->merged = merged;
    const std::string values = directory + "/" + kLearnedFile;
    if (learned) {
      adapter->learned = read_learned_quantizers(values, model::linears(config));
      QALOF_CHECK(adapter->learned->bits == width, ErrorKind::kBadInput,
                  "{}: its values are for {} bits, found beside the adapter of {} bits", values,
                  adapter->learned->bits, width);
    } else if (path_exists(values)) {
      set.warnings.push_back(fmt::format("{}: is not used, no qalof.json above names it", values));
    }
    set.by_width[width] = adapter;
    for (const std::string& warning : reader.warnings()) set.warnings.push_back(warning);
  };
  if (!io::is_adapter_dir(path)) {
    read(path, 0, /*merged=*/false, /*learned=*/false);
    set.warnings.push_back(fmt::format("{}: a plain PEFT adapter, it serves every width", path));
    return set;
  }
  const io::AdapterDir dir = io::read_adapter_dir(path);
  for (const auto& [width, name] : dir.adapters) {
    const auto values = dir.quantizers.find(width);
    read((fs::path(path) / name).string(), width, dir.merged,
         values != dir.quantizers.end() && values->second == name);
  }
  for (const auto& [width, name] : dir.quantizers) {
    const auto adapter = dir.adapters.find(width);
    QALOF_CHECK(adapter != dir.adapters.end() && adapter->second == name, ErrorKind::kBadInput,
                "{}/qalof.json: quantizers[\"{}\"] is \"{}\", not the directory of that width's "
                "adapter",
                path, width, name);
  }
  set.base_sha256 = dir.base_sha256;
  set.separator = dir.separator;
  if (set.separator) {
    QALOF_CHECK(static_cast<std::size_t>(*set.separator) < config.vocab_size, ErrorKind::kBadInput,
                "{}/qalof.json: separator {}, expected 0..{}", path, *set.separator,
                config.vocab_size - 1);
  }
  set.label_names = dir.label_names;
  for (const auto& [width, adapter] : set.by_width) {
    const std::optional<Head>& head = adapter->class_head;
    QALOF_CHECK(set.label_names.empty() || !head || head->outputs == set.label_names.size(),
                ErrorKind::kBadInput, "{}: w{} has {} classes, label_names {}", path, width,
                head->outputs, set.label_names.size());
  }
  if (!dir.plan.is_null()) set.plan = dir.plan;
  set.scheme = quant::parse_scheme(dir.scheme, path + "/qalof.json: scheme", ErrorKind::kBadInput);
  return set;
}

std::string to_string(HeadKind kind) {
  switch (kind) {
    case HeadKind::kSpan:
      return "qa";
    case HeadKind::kLm:
      return "lm";
    case HeadKind::kClass:
      break;
  }
  return "classification";
}

model::ModelClass model_class(HeadKind kind) {
  switch (kind) {
    case HeadKind::kSpan:
      return model::ModelClass::kQuestionAnswering;
    case HeadKind::kClass:
      return model::ModelClass::kSequenceClassification;
    case HeadKind::kLm:
      break;
  }
  return model::ModelClass::kCausalLm;
}

void save_adapter(const std::string& directory, const Adapter& adapter,
                  const model::ModelConfig& config, HeadKind kind, const std::string& base_id) {
  io::PeftConfig peft;
  peft.r = adapter.rank;
  peft.lora_alpha = stored_alpha(adapter);
  const std::vector<model::LinearSpec> linears = model::linears(config);
  const std::string prefix = model::decoder_prefix(config, model_class(kind));
  peft.fan_in_fan_out = linears.front().conv1d;
  peft.task_type = kind == HeadKind::kSpan ? "QUESTION_ANS"
                   : kind == HeadKind::kLm ? "CAUSAL_LM"
                                           : "SEQ_CLS";
  peft.base_model_name_or_path = base_id;
  std::vector<io::TensorToWrite> tensors;
  auto add = [&](const std::string& name, std::vector<std::size_t> shape,
                 const std::vector<float>& values) {
    const auto bytes = std::as_bytes(std::span<const float>(values));
    tensors.push_back({name, io::DType::kF32, std::move(shape), bytes});
  };
  std::set<std::string> targets;
  for (std::size_t i = 0; i < adapter.linears.size(); ++i) {
    const LoraLinear* lora = adapter.linears[i].get();
    if (lora == nullptr) continue;
    const model::LinearSpec& spec = linears[i];
    targets.insert(spec.name.substr(spec.name.rfind('.') + 1));
    add(prefix + spec.name + std::string(kASuffix), {lora->rank(), spec.in}, lora->a());
    add(prefix + spec.name + std::string(kBSuffix), {spec.out, lora->rank()}, lora->b());
  }
  // In a model of several parts, other parts have linears of the same names.
  constexpr std::string_view kWhole = "model.";
  if (prefix.starts_with(kWhole) && prefix != kWhole) {
    peft.target_pattern = fmt::format(
        R"(.*{}\..*\.({}))", prefix.substr(kWhole.size(), prefix.size() - kWhole.size() - 1),
        fmt::join(targets, "|"));
  } else {
    peft.target_modules.assign(targets.begin(), targets.end());
  }
  auto add_head = [&](const std::string& name, const std::optional<Head>& head) {
    if (!head) return;
    peft.modules_to_save.push_back(name);
    add(name + ".weight", {head->outputs, config.hidden}, head->weight);
    if (!head->bias.empty()) add(name + ".bias", {head->outputs}, head->bias);
  };
  add_head("qa_outputs", adapter.qa_head);
  add_head("score", adapter.class_head);
  io::write_peft(directory, peft, tensors);
  if (adapter.learned)
    write_learned_quantizers(directory + "/" + kLearnedFile, *adapter.learned, linears);
}

}  // namespace qalof::weights
