// Loads a Hugging Face directory strictly (names, shapes, LM head) and packs its weights on demand.
#include "weights/base_model.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/memory.h"
#include "core/random.h"
#include "io/model_dir.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"
#include "weights/linear_op.h"
#include "weights/rotation.h"
#include "weights/transpose.h"

namespace qalof::weights {

namespace {

std::string shape_text(const std::vector<std::size_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::vector<float> as_f32(const io::ModelDir& dir, const io::TensorView& view) {
  std::vector<float> values(view.num_elements());
  dir.copy_as_f32(view, 0, values);
  return values;
}

// A Hugging Face directory: float tensors, mapped.
class DirectorySource final : public WeightSource {
 public:
  DirectorySource(io::ModelDir dir, std::vector<model::LinearSpec> linears)
      : dir_(std::move(dir)), linears_(std::move(linears)) {}

  std::vector<float> linear_f32(std::size_t linear) const override {
    const model::LinearSpec& spec = linears_[linear];
    std::vector<float> stored = *tensor_f32(spec.name + ".weight");
    return spec.conv1d ? transposed(stored, spec.in, spec.out) : stored;
  }

  std::unique_ptr<OwnedMatrix> linear_packed(std::size_t, quant::Precision, quant::QuantScheme,
                                             ParallelFor&) const override {
    return nullptr;
  }
  std::unique_ptr<OwnedMatrix> lm_head_packed(quant::BitWidth, ParallelFor&) const override {
    return nullptr;
  }
  int embedding_bits() const override { return 32; }

  std::optional<std::vector<float>> tensor_f32(const std::string& name) const override {
    const io::TensorView* view = dir_.find(name);
    if (view == nullptr) return std::nullopt;
    return as_f32(dir_, *view);
  }

  void copy_rows(const std::string& name, std::size_t first, std::span<float> dst) const override {
    const io::TensorView& view = *dir_.find(name);
    dir_.copy_as_f32(view, first * (view.num_elements() / view.shape[0]), dst);
  }

  std::vector<int> widths() const override { return {}; }
  std::string sha256() const override { return dir_.sha256(); }
  std::uint64_t stored_bytes() const override {
    std::uint64_t bytes = 0;
    for (const std::string& name : dir_.names()) bytes += dir_.find(name)->bytes.size();
    return bytes;
  }

 private:
  io::ModelDir dir_;
  std::vector<model::LinearSpec> linears_;
};

// Tensors outside the decoder that are read where present. transformers has no score.bias.
const std::set<std::string>& head_tensors() {
  static const std::set<std::string> names = {model::kLmHeadTensor, "qa_outputs.weight",
                                              "qa_outputs.bias", "score.weight"};
  return names;
}

std::string first_part(std::string_view name) {
  return std::string(name.substr(0, name.find('.')));
}

// True where an unknown tensor is an extra head next to the decoder (PPO's value head, a pooler),
// without which the decoder computes the same. An unknown tensor inside the decoder would mean
// another architecture.
bool is_unused_head(const io::ModelDir& dir, const std::string& name,
                    const model::ModelConfig& config) {
  const model::TensorNames names = model::tensor_names(config);
  const std::string first = first_part(name);
  std::set<std::string> inside = {"h", "layers", "embed_positions", "wpe"};
  for (const std::string& known : {names.token_embedding, names.final_norm})
    inside.insert(first_part(known));
  if (inside.contains(first)) return false;
  for (const char* head : {"mtp", "pooler", "score", "classifier", "qa_outputs", "vision_tower",
                           "multi_modal_projector"}) {
    if (first.starts_with(head)) return true;
  }
  if (first.find("head") != std::string::npos) return true;
  // Where the decoder's tensors carry a prefix, every tensor without it is outside the decoder.
  const auto is_decoders = [&](const std::string& tensor) {
    const std::string stored = io::strip_wrappers(dir.stored_name(tensor));
    return stored.starts_with("model.") || stored.starts_with("transformer.");
  };
  return is_decoders(names.final_norm + ".weight") && !is_decoders(name);
}

bool stores_transposed(const model::ModelConfig& config) {
  return model::linears(config).front().conv1d;
}

void check_shape(const io::ModelDir& dir, const model::TensorSpec& spec,
                 const model::ModelConfig& config) {
  const io::TensorView& view = *dir.find(spec.name);
  if (view.shape == spec.shape) return;
  const bool transposed = spec.shape.size() == 2 && view.shape.size() == 2 &&
                          view.shape[0] == spec.shape[1] && view.shape[1] == spec.shape[0];
  fail(ErrorKind::kBadInput, "{}: tensor {} has shape {}, expected {}{}", dir.path(), spec.name,
       shape_text(view.shape), shape_text(spec.shape),
       transposed && stores_transposed(config)
           ? " (it is transposed: GPT-2 files hold linear weights as [in, out])"
       : transposed ? " (it is transposed)"
                    : "");
}

// Checks names and shapes of all tensors; returns the names of those that are not used.
std::vector<std::string> check_tensors(const io::ModelDir& dir, const model::ModelConfig& config) {
  std::vector<std::string> known;
  std::size_t found = 0;
  for (const model::TensorSpec& spec : model::expected_tensors(config)) {
    known.push_back(spec.name);
    if (dir.find(spec.name) == nullptr) continue;
    ++found;
    check_shape(dir, spec, config);
  }
  QALOF_CHECK(found > 0, ErrorKind::kBadInput,
              "{}: none of the {} tensors of a {} model was found; the file holds e.g. {}",
              dir.path(), known.size(), config.model_type,
              dir.names().empty() ? "nothing" : dir.names().front());
  for (const std::string& name : known) {
    QALOF_CHECK(dir.find(name) != nullptr, ErrorKind::kBadInput, "{}: tensor {} is missing",
                dir.path(), name);
  }
  const std::set<std::string> expected(known.begin(), known.end());
  std::vector<std::string> unused;
  for (const std::string& name : dir.names()) {
    if (!expected.contains(name) && !head_tensors().contains(name)) {
      QALOF_CHECK(is_unused_head(dir, name, config), ErrorKind::kBadInput,
                  "{}: tensor {} is not part of this model, nearest known name {}", dir.path(),
                  name, quant::nearest_name(name, known));
      unused.push_back(dir.stored_name(name));
      continue;
    }
    const io::DType dtype = dir.find(name)->dtype;
    QALOF_CHECK(dtype == io::DType::kF32 || dtype == io::DType::kF16 || dtype == io::DType::kBF16,
                ErrorKind::kBadInput, "{}: tensor {} has dtype {}, expected F32, F16 or BF16",
                dir.path(), name, io::to_string(dtype));
  }
  return unused;
}

std::string unused_warning(const std::string& path, std::vector<std::string> names) {
  constexpr std::size_t kMaxNamed = 8;
  const std::size_t count = names.size();
  names.resize(std::min(count, kMaxNamed));
  return fmt::format("{}: tensors beside the decoder that are not used: {}{}", path,
                     fmt::join(names, ", "),
                     count > kMaxNamed ? fmt::format(" and {} more", count - kMaxNamed) : "");
}

std::optional<Head> read_head(const io::ModelDir& dir, const std::string& name, std::size_t hidden,
                              std::optional<std::size_t> outputs) {
  const io::TensorView* weight = dir.find(name + ".weight");
  const std::string bias_name = name + ".bias";
  const io::TensorView* bias = head_tensors().contains(bias_name) ? dir.find(bias_name) : nullptr;
  QALOF_CHECK(bias == nullptr || weight != nullptr, ErrorKind::kBadInput,
              "{}: {}.bias has no {}.weight", dir.path(), name, name);
  if (weight == nullptr) return std::nullopt;
  QALOF_CHECK(weight->shape.size() == 2 && weight->shape[0] > 0 && weight->shape[1] == hidden &&
                  (!outputs || weight->shape[0] == *outputs),
              ErrorKind::kBadInput, "{}: tensor {}.weight has shape {}, expected [{}, {}]",
              dir.path(), name, shape_text(weight->shape),
              outputs ? std::to_string(*outputs) : "labels", hidden);
  QALOF_CHECK(bias == nullptr || bias->shape == std::vector<std::size_t>{weight->shape[0]},
              ErrorKind::kBadInput, "{}: tensor {}.bias has shape {}, expected [{}]", dir.path(),
              name, shape_text(bias->shape), weight->shape[0]);
  Head head;
  head.outputs = weight->shape[0];
  head.weight = as_f32(dir, *weight);
  if (bias != nullptr) head.bias = as_f32(dir, *bias);
  return head;
}

bool same_values(const io::ModelDir& dir, const io::TensorView& a, const io::TensorView& b) {
  if (a.dtype == b.dtype)
    return std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end());
  constexpr std::size_t kPart = std::size_t{1} << 18;
  std::vector<float> x(kPart), y(kPart);
  for (std::size_t first = 0; first < a.num_elements(); first += kPart) {
    x.resize(std::min(kPart, a.num_elements() - first));
    y.resize(x.size());
    dir.copy_as_f32(a, first, x);
    dir.copy_as_f32(b, first, y);
    if (x != y) return false;
  }
  return true;
}

// True where the transformers class that saved a model has an LM head.
bool is_causal_lm(const io::ModelDir& dir) {
  const auto names = dir.config().find("architectures");
  if (names == dir.config().end() || !names->is_array() || names->empty() ||
      !names->front().is_string())
    return dir.find("qa_outputs.weight") == nullptr && dir.find("score.weight") == nullptr;
  const auto name = names->front().get<std::string>();
  return name.ends_with("LMHeadModel") || name.ends_with("ForCausalLM") ||
         name.ends_with("DoubleHeadsModel");
}

// The LM head is what the file holds, even where the config contradicts it (docs/file_formats.md,
// "LM head"); a contradiction is reported in warnings.
model::LmHead settle_lm_head(const io::ModelDir& dir, const model::ModelConfig& config,
                             std::vector<std::string>& warnings) {
  const io::TensorView* head = dir.find(model::kLmHeadTensor);
  if (head == nullptr) {
    if (config.lm_head == model::LmHead::kTied) return model::LmHead::kTied;
    QALOF_CHECK(!is_causal_lm(dir), ErrorKind::kBadInput,
                "{}: lm_head.weight is missing although tie_word_embeddings is false", dir.path());
    return model::LmHead::kNone;
  }
  check_shape(dir, model::lm_head_tensor(config), config);
  if (config.lm_head == model::LmHead::kOwn) return model::LmHead::kOwn;
  const std::string embedding = model::tensor_names(config).token_embedding;
  if (same_values(dir, *head, *dir.find(embedding))) return model::LmHead::kTied;
  warnings.push_back(
      fmt::format("{}: tie_word_embeddings is true, but {} and {} hold other values; the LM head "
                  "is the one stored",
                  dir.path(), dir.stored_name(model::kLmHeadTensor), dir.stored_name(embedding)));
  return model::LmHead::kOwn;
}

}  // namespace

std::shared_ptr<const BaseModel> BaseModel::load_directory(const std::string& path) {
  io::ModelDir dir = io::ModelDir::open(path);
  model::ModelConfig config = model::parse_model_config(dir.config(), dir.config_path());
  // Some writers store a tied embedding under the LM head's name only.
  if (const std::string embedding = model::tensor_names(config).token_embedding;
      config.lm_head == model::LmHead::kTied && dir.find(embedding) == nullptr &&
      dir.find(model::kLmHeadTensor) != nullptr)
    dir.add_name(embedding, model::kLmHeadTensor);
  std::vector<std::string> warnings;
  if (std::vector<std::string> unused = check_tensors(dir, config); !unused.empty())
    warnings.push_back(unused_warning(path, std::move(unused)));
  model::set_lm_head(config, settle_lm_head(dir, config, warnings));
  std::optional<Head> qa = read_head(dir, "qa_outputs", config.hidden, 2);
  std::optional<Head> score = read_head(dir, "score", config.hidden, std::nullopt);
  auto source = std::make_unique<DirectorySource>(std::move(dir), model::linears(config));
  auto base = std::make_shared<BaseModel>(std::move(config), path, std::move(source));
  base->set_heads(std::move(qa), std::move(score));
  base->set_warnings(std::move(warnings));
  return base;
}

BaseModel::BaseModel(model::ModelConfig config, std::string path,
                     std::shared_ptr<const WeightSource> source,
                     std::shared_ptr<const Rotation> rotation)
    : config_(std::move(config)),
      path_(std::move(path)),
      source_(std::move(source)),
      rotation_(std::move(rotation)),
      target_(model::plan_target(config_)),
      linears_(model::linears(config_)),
      layers_(model::layer_steps(config_)),
      names_(model::tensor_names(config_)) {
  auto norm = [this](const std::string& name) {
    Norm weights{norm_gain(*source_, config_, name), {}};
    if (config_.norm == model::NormKind::kLayer)
      weights.beta = *source_->tensor_f32(name + ".bias");
    return weights;
  };
  // With a rotated residual stream the norms' gains and offsets are in weights and biases.
  const bool are_folded = rotation_ && rotation_->residual() != nullptr;
  auto layer_norm = [&](const std::string& name) {
    return are_folded ? Norm{std::vector<float>(config_.hidden, 1.0F), {}} : norm(name);
  };
  for (const std::string& name : names_.attention_norms)
    attention_norms_.push_back(layer_norm(name));
  for (const std::string& name : names_.mlp_norms) mlp_norms_.push_back(layer_norm(name));
  final_norm_ = norm(names_.final_norm);
  const auto add_norms = [&](const std::vector<std::string>& names, std::vector<Norm>& norms) {
    norms.resize(config_.num_layers);
    for (std::size_t layer = 0; layer < names.size(); ++layer) norms[layer] = norm(names[layer]);
  };
  add_norms(names_.attention_out_norms, attention_out_norms_);
  add_norms(names_.mlp_out_norms, mlp_out_norms_);
  add_norms(names_.q_norms, q_norms_);
  add_norms(names_.k_norms, k_norms_);
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    const model::LinearSpec& spec = linears_[i];
    biases_.push_back(rotation_   ? rotation_->bias(i)
                      : spec.bias ? *source_->tensor_f32(spec.name + ".bias")
                                  : std::vector<float>());
  }
  const auto set_rotary = [&](const std::optional<model::RotaryPositions>& positions,
                              RotaryKind& kind) {
    if (!positions) return;
    kind.positions = &*positions;
    kind.frequencies = model::rotary_frequencies(*positions, config_.head_dim());
    if (positions->by_length)
      kind.long_frequencies = model::rotary_frequencies(
          *positions, config_.head_dim(), positions->by_length->original_positions + 1);
  };
  set_rotary(config_.rotary, rotary_[0]);
  set_rotary(config_.sliding_rotary, rotary_[1]);
}

void BaseModel::rotary_table(bool sliding, std::span<const std::int32_t> positions,
                             std::size_t length, float* table) const {
  const RotaryKind& kind = rotary_[sliding ? 1 : 0];
  const std::vector<float>* frequencies = &kind.frequencies;
  std::vector<float> own;
  if (kind.positions->scaling_length(length) != 0) {
    frequencies = &kind.long_frequencies;
    if (frequencies->empty()) {
      own = model::rotary_frequencies(*kind.positions, config_.head_dim(), length);
      frequencies = &own;
    }
  }
  kernels::rotary_table(positions.data(), positions.size(), frequencies->data(),
                        frequencies->size(), table, kind.positions->table_scale);
}

std::vector<float> norm_gain(const WeightSource& source, const model::ModelConfig& config,
                             const std::string& norm) {
  std::vector<float> gain = *source.tensor_f32(norm + ".weight");
  if (config.norm_offset != 0) {
    for (float& value : gain) value += config.norm_offset;
  }
  return gain;
}

std::shared_ptr<const BaseModel> BaseModel::rotated(quant::Rotations parts) const {
  const std::lock_guard lock(rotated_mutex_);
  std::shared_ptr<const BaseModel>& model = rotated_[parts];
  if (!model) {
    model = rotate_model(*this, parts);
    model->share_packed(shared_);
  }
  return model;
}

void BaseModel::share_packed(std::shared_ptr<SharedMemory> memory) const {
  shared_ = std::move(memory);
}

std::string BaseModel::shared_name() const {
  return rotation_ ? path_ + " " + quant::to_string(rotation_->parts()) : path_;
}

std::unique_ptr<OwnedMatrix> BaseModel::made_once(
    const std::string& name, const std::function<std::unique_ptr<OwnedMatrix>()>& make) const {
  // The matrices of a packed file are mapped, and thus shared, as they are.
  if (shared_ == nullptr || !source_->widths().empty()) return make();
  return matrix_in(shared_->get(shared_name() + " " + name, [&] { return to_bytes(*make()); }));
}

const kernels::PackedMatrix& BaseModel::packed(std::size_t linear, quant::Precision precision,
                                               quant::QuantScheme scheme,
                                               ParallelFor& parallel) const {
  scheme = precision.weight.is_integer() ? scheme.weights() : quant::QuantScheme{};
  const std::lock_guard lock(mutex_);
  const kernels::WeightFormat format = weight_format(precision, scheme);
  std::unique_ptr<OwnedMatrix>& slot = packed_[{linear, precision.weight.bits, scheme, format}];
  if (!slot) {
    slot = made_once(fmt::format("linear {} of {} bits in {} as {}", linear, precision.weight.bits,
                                 quant::to_string(scheme), static_cast<int>(format)),
                     [&] { return make_packed(linear, precision, scheme, parallel); });
  }
  return slot->view;
}

std::unique_ptr<OwnedMatrix> BaseModel::make_packed(std::size_t linear, quant::Precision precision,
                                                    quant::QuantScheme scheme,
                                                    ParallelFor& parallel) const {
  scheme = precision.weight.is_integer() ? scheme.weights() : quant::QuantScheme{};
  if (auto made = source_->linear_packed(linear, precision, scheme, parallel)) return made;
  const model::LinearSpec& spec = linears_[linear];
  return pack_weights(source_->linear_f32(linear), spec.out, spec.in, precision, scheme, parallel);
}

quant::Precision lm_head_precision(quant::BitWidth width) {
  QALOF_CHECK(width.bits == 4 || width.bits == 8 || width.bits == 16 || width.bits == 32,
              ErrorKind::kUsage, "--lm_head_bits: found {}, expected 4, 8, 16 or 32", width.bits);
  // A 4-bit head reads 8-bit activations: 4-bit ones would cost more than they save.
  return {width, width.bits == 4 ? quant::BitWidth{8} : width};
}

const kernels::PackedMatrix& BaseModel::lm_head(quant::BitWidth width,
                                                ParallelFor& parallel) const {
  const quant::Precision precision = lm_head_precision(width);
  const std::lock_guard lock(mutex_);
  std::unique_ptr<OwnedMatrix>& slot =
      packed_[{linears_.size(), width.bits, {}, weight_format(precision)}];
  if (!slot) {
    slot = made_once(fmt::format("LM head of {} bits", width.bits),
                     [&] { return make_lm_head(width, parallel); });
  }
  return slot->view;
}

void BaseModel::require_lm_head() const {
  QALOF_CHECK(config_.lm_head != model::LmHead::kNone, ErrorKind::kUnsupported,
              "{}: has no LM head (tie_word_embeddings is false and lm_head.weight is not stored), "
              "which language modelling and generation need",
              path_);
}

std::unique_ptr<OwnedMatrix> BaseModel::make_lm_head(quant::BitWidth width,
                                                     ParallelFor& parallel) const {
  require_lm_head();
  if (auto stored = source_->lm_head_packed(width, parallel)) return stored;
  const std::string name =
      config_.lm_head == model::LmHead::kTied ? names_.token_embedding : model::kLmHeadTensor;
  source_->check(name);
  return pack_rows(
      [&](std::size_t first, std::span<float> rows) {
        source_->copy_rows(name, first, rows);
        if (width.is_integer())
          kernels::round_to_bf16(rows.data(), rows.size(), rows.data(), parallel);
      },
      config_.vocab_size, config_.hidden, lm_head_precision(width), parallel);
}

void BaseModel::embed(std::span<const std::int32_t> ids, std::span<const std::int32_t> positions,
                      quant::BitWidth width, float* dst) const {
  const std::size_t hidden = config_.hidden;
  SerialFor serial;
  const bool has_positions = !names_.position_embedding.empty();
  thread_local std::vector<float> position_row;
  position_row.resize(hidden);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    float* row = dst + i * hidden;
    source_->copy_rows(names_.token_embedding, static_cast<std::size_t>(ids[i]), {row, hidden});
    if (width.bits < 32) kernels::round_to_bf16(row, hidden, row, serial);
    if (config_.embedding_scale != 1) {
      for (std::size_t j = 0; j < hidden; ++j) row[j] *= config_.embedding_scale;
    }
    if (!has_positions) continue;
    position_rows(positions.subspan(i, 1), width, position_row.data());
    for (std::size_t j = 0; j < hidden; ++j) row[j] += position_row[j];
  }
  if (rotation_) rotation_->enter_residual(dst, ids.size());
}

void BaseModel::position_rows(std::span<const std::int32_t> positions, quant::BitWidth width,
                              float* dst) const {
  const std::size_t hidden = config_.hidden;
  SerialFor serial;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    float* row = dst + i * hidden;
    source_->copy_rows(names_.position_embedding, static_cast<std::size_t>(positions[i]),
                       {row, hidden});
    if (width.bits < 32) kernels::round_to_bf16(row, hidden, row, serial);
  }
}

namespace {

Head untrained_head(const BaseModel& base, std::size_t outputs, const char* name,
                    std::uint64_t seed) {
  const RandomStream stream(seed, name);
  Head head{outputs, std::vector<float>(outputs * base.config().hidden), {}};
  for (std::size_t i = 0; i < head.weight.size(); ++i)
    head.weight[i] = base.config().initializer_range * stream.normal(0, i);
  return head;
}

}  // namespace

Head untrained_qa_head(const BaseModel& base, std::uint64_t seed) {
  Head head = untrained_head(base, 2, "qa_outputs.weight", seed);
  head.bias = {0.0F, 0.0F};
  return head;
}

Head untrained_class_head(const BaseModel& base, std::size_t classes, std::uint64_t seed) {
  return untrained_head(base, classes, "score.weight", seed);
}

}  // namespace qalof::weights
