// Folds norms and Hadamard rotations into weights and biases, and maps adapters into that basis.
#include "weights/rotation.h"

#include <algorithm>

#include "core/error.h"
#include "weights/derived_model.h"
#include "weights/transpose.h"

namespace qalof::weights {

namespace {

using model::LinearRole;

std::optional<kernels::Hadamard> hadamard_if(bool rotated, std::size_t order, const char* what) {
  if (!rotated) return std::nullopt;
  // Smaller blocks would not spread an outlier enough.
  constexpr std::size_t kSmallestBlock = 8;
  QALOF_CHECK(kernels::hadamard_block(order) >= kSmallestBlock, ErrorKind::kUnsupported,
              "scheme rot: {} is {}, which only blocks of {} can rotate, expected a multiple of {}",
              what, order, kernels::hadamard_block(order), kSmallestBlock);
  return kernels::Hadamard(order);
}

// Subtracts from every row its mean.
void center(float* rows, std::size_t count, std::size_t width) {
  for (std::size_t row = 0; row < count; ++row) {
    float* x = rows + row * width;
    double sum = 0;
    for (std::size_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]);
    const auto mean = static_cast<float>(sum / static_cast<double>(width));
    for (std::size_t i = 0; i < width; ++i) x[i] -= mean;
  }
}

float dot(const float* a, const float* b, std::size_t count) {
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i)
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return static_cast<float>(sum);
}

// Product of rows [count, n] and x [n].
std::vector<float> multiply(const std::vector<float>& rows, const std::vector<float>& x) {
  std::vector<float> result(rows.size() / x.size());
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = dot(rows.data() + i * x.size(), x.data(), x.size());
  return result;
}

// The outputs of a linear that are attention values: first and count; count 0: none.
std::pair<std::size_t, std::size_t> values_of(const model::ModelConfig& config, LinearRole role) {
  if (role == LinearRole::kV) return {0, config.kv_width()};
  if (role == LinearRole::kQkv) return {config.q_width() + config.kv_width(), config.kv_width()};
  return {0, 0};
}

std::string bias_name(const model::LinearSpec& spec) { return spec.name + ".rotated_bias"; }
std::string offset_name(const model::LinearSpec& spec) { return spec.name + ".input_offset"; }

bool reads_norm(LinearRole role) {
  return role != LinearRole::kAttentionOut && role != LinearRole::kDown;
}

}  // namespace

Rotation::Rotation(const model::ModelConfig& config, std::shared_ptr<const WeightSource> plain,
                   quant::Rotations parts)
    : plain_(std::move(plain)),
      hidden_(config.hidden),
      parts_(parts),
      is_centered_(parts.residual && config.norm == model::NormKind::kLayer),
      turns_positions_(config.rotary.has_value()),
      residual_(hadamard_if(parts.residual, config.hidden, "the hidden size")),
      head_(hadamard_if(parts.heads, config.head_dim(), "the size of a head")),
      inner_(hadamard_if(parts.mlp, config.inner, "the MLP's inner size")) {
  QALOF_CHECK(!parts.residual || !config.has_out_norms, ErrorKind::kUnsupported,
              "scheme {}: {} norms what attention and MLP add to the residual, and the gains of "
              "these norms cannot be rotated; expected rot-heads, rot-mlp or both",
              quant::to_string(parts), config.model_type);
  const std::vector<model::LinearSpec> specs = model::linears(config);
  const model::TensorNames names = model::tensor_names(config);
  for (const model::LinearSpec& spec : specs) {
    Linear& linear = linears_.emplace_back();
    set_sides(config, spec, linear);
    if (!parts.residual || !reads_norm(spec.role)) continue;
    const std::string& norm =
        (model::reads_mlp_norm(spec.role) ? names.mlp_norms : names.attention_norms)[spec.layer];
    linear.gain = norm_gain(*plain_, config, norm);
    if (is_centered_) linear.offset = *plain_->tensor_f32(norm + ".bias");
  }
  if (is_centered_) {
    set_biases(config, specs);
    return;
  }
  // Without norms' offsets nothing constant is folded: biases turn like the outputs they are added
  // to.
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (!specs[i].bias) continue;
    linears_[i].bias = *plain_->tensor_f32(specs[i].name + ".bias");
    turn_outputs(linears_[i], linears_[i].bias.data(), 1);
  }
}

void Rotation::set_sides(const model::ModelConfig& config, const model::LinearSpec& spec,
                         Linear& linear) {
  linear.in = spec.in;
  linear.out = spec.out;
  linear.reads_values = spec.role == LinearRole::kAttentionOut;
  linear.input = {0, 1, residual()};
  const std::size_t q_width = config.q_width(), kv_width = config.kv_width();
  const kernels::Hadamard* const head = pointer_to(head_);
  const Span q{0, config.num_heads, head};
  // Rotary positions do not commute with rotating heads, nor do they keep a constant key constant.
  const bool has_positions = turns_positions_;
  switch (spec.role) {
    case LinearRole::kQkv:
      if (!has_positions) {
        linear.outputs = {q, {q_width, config.num_kv_heads, head}};
        linear.dropped_first = q_width;
        linear.dropped = kv_width;
      }
      linear.outputs.push_back({q_width + kv_width, config.num_kv_heads, head});
      break;
    case LinearRole::kQ:
      if (!has_positions) linear.outputs = {q};
      break;
    case LinearRole::kK:
      if (has_positions) break;
      linear.outputs = {{0, config.num_kv_heads, head}};
      linear.dropped = kv_width;
      break;
    case LinearRole::kV:
      linear.outputs = {{0, config.num_kv_heads, head}};
      break;
    case LinearRole::kGateUp:
    case LinearRole::kGate:
    case LinearRole::kUp:
      break;
    case LinearRole::kAttentionOut:
    case LinearRole::kDown:
      linear.input = spec.role == LinearRole::kDown ? Span{0, 1, inner()} : q;
      linear.centered = is_centered_;
      linear.outputs = {{0, 1, residual()}};
      break;
  }
  std::erase_if(linear.outputs, [](const Span& span) { return span.hadamard == nullptr; });
}

void Rotation::set_biases(const model::ModelConfig& config,
                          const std::vector<model::LinearSpec>& specs) {
  std::vector<float> values;  // the constant part of a layer's values, per query head
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const model::LinearSpec& spec = specs[i];
    Linear& linear = linears_[i];
    if (auto stored = plain_->tensor_f32(bias_name(spec))) {
      linear.bias = std::move(*stored);
      if (linear.reads_values) linear.offset = *plain_->tensor_f32(offset_name(spec));
      continue;
    }
    if (linear.reads_values) linear.offset = values;
    std::vector<float> bias =
        spec.bias ? *plain_->tensor_f32(spec.name + ".bias") : std::vector<float>(spec.out, 0.0F);
    if (!linear.offset.empty()) {
      const std::vector<float> folded = multiply(plain_->linear_f32(i), linear.offset);
      for (std::size_t o = 0; o < bias.size(); ++o) bias[o] += folded[o];
    }
    if (const auto [first, count] = values_of(config, spec.role); count > 0) {
      values.clear();
      const std::size_t dim = config.head_dim(), group = config.num_heads / config.num_kv_heads;
      for (std::size_t head = 0; head < config.num_heads; ++head) {
        const auto from = bias.begin() + static_cast<std::ptrdiff_t>(first + head / group * dim);
        values.insert(values.end(), from, from + static_cast<std::ptrdiff_t>(dim));
      }
      std::fill_n(bias.begin() + static_cast<std::ptrdiff_t>(first), count, 0.0F);
    }
    std::fill_n(bias.begin() + static_cast<std::ptrdiff_t>(linear.dropped_first), linear.dropped,
                0.0F);
    turn_outputs(linear, bias.data(), 1);
    linear.bias = std::move(bias);
  }
}

std::vector<const std::vector<float>*> Rotation::folded_values() const {
  std::vector<const std::vector<float>*> values;
  if (!is_centered_) return values;
  for (const Linear& linear : linears_) {
    if (linear.bias.empty()) continue;
    values.push_back(&linear.bias);
    if (linear.reads_values) values.push_back(&linear.offset);
  }
  return values;
}

std::vector<model::TensorSpec> folded_tensors(const model::ModelConfig& config,
                                              quant::Rotations parts) {
  std::vector<model::TensorSpec> specs;
  if (config.norm != model::NormKind::kLayer || !parts.residual) return specs;
  for (const model::LinearSpec& spec : model::linears(config)) {
    specs.push_back({bias_name(spec), {spec.out}});
    if (spec.role == LinearRole::kAttentionOut) specs.push_back({offset_name(spec), {spec.in}});
  }
  return specs;
}

void Rotation::turn_inputs(const Linear& linear, float* rows, std::size_t count) {
  SerialFor serial;
  for (std::size_t i = 0; !linear.gain.empty() && i < count * linear.in; ++i)
    rows[i] *= linear.gain[i % linear.in];
  if (linear.input.hadamard != nullptr)
    linear.input.hadamard->apply(rows, count, linear.in, linear.input.blocks, serial);
}

void Rotation::turn_outputs(const Linear& linear, float* rows, std::size_t count) {
  SerialFor serial;
  if (linear.centered) center(rows, count, linear.out);
  for (const Span& span : linear.outputs)
    span.hadamard->apply(rows + span.first, count, linear.out, span.blocks, serial);
}

void Rotation::turn_outputs_back(const Linear& linear, float* rows, std::size_t count) {
  SerialFor serial;
  for (const Span& span : linear.outputs)
    span.hadamard->invert(rows + span.first, count, linear.out, span.blocks, serial);
  if (linear.centered) center(rows, count, linear.out);
}

void Rotation::enter_residual(float* rows, std::size_t count) const {
  SerialFor serial;
  if (is_centered_) center(rows, count, hidden_);
  if (residual_) residual_->apply(rows, count, hidden_, 1, serial);
}

void Rotation::leave_residual(float* rows, std::size_t count, ParallelFor& parallel) const {
  if (residual_) residual_->invert(rows, count, hidden_, 1, parallel);
}

std::vector<float> Rotation::weights(std::size_t index) const {
  const Linear& linear = linears_[index];
  std::vector<float> weights = plain_->linear_f32(index);
  turn_inputs(linear, weights.data(), linear.out);
  if (linear.outputs.empty()) return weights;
  weights = transposed(weights, linear.out, linear.in);
  turn_outputs(linear, weights.data(), linear.in);
  return transposed(weights, linear.in, linear.out);
}

RotatedPair Rotation::rotate_pair(std::size_t index, const float* a, const float* b,
                                  std::size_t rank, float scaling) const {
  const Linear& linear = linears_[index];
  RotatedPair pair{{a, a + rank * linear.in}, {b, b + rank * linear.out}, linear.bias};
  turn_inputs(linear, pair.a.data(), rank);
  if (!linear.outputs.empty()) {
    std::vector<float> columns = transposed(pair.b, linear.out, rank);
    turn_outputs(linear, columns.data(), rank);
    pair.b = transposed(columns, rank, linear.out);
  }
  if (linear.offset.empty()) return pair;
  std::vector<float> lost(rank);  // A offset
  for (std::size_t i = 0; i < rank; ++i)
    lost[i] = dot(a + i * linear.in, linear.offset.data(), linear.in);
  for (std::size_t o = 0; o < linear.out; ++o) {
    if (o - linear.dropped_first < linear.dropped) continue;
    pair.bias[o] += scaling * dot(pair.b.data() + o * rank, lost.data(), rank);
  }
  return pair;
}

void Rotation::rotate_pair_backward(std::size_t index, const float* a, const float* rotated_b,
                                    std::size_t rank, float scaling, const float* dbias, float* da,
                                    float* db) const {
  const Linear& linear = linears_[index];
  SerialFor serial;
  if (linear.input.hadamard != nullptr)
    linear.input.hadamard->invert(da, rank, linear.in, linear.input.blocks, serial);
  for (std::size_t i = 0; !linear.gain.empty() && i < rank * linear.in; ++i)
    da[i] *= linear.gain[i % linear.in];
  if (!linear.offset.empty()) {
    for (std::size_t i = 0; i < rank; ++i) {
      const float lost = dot(a + i * linear.in, linear.offset.data(), linear.in);
      double dlost = 0;
      for (std::size_t o = 0; o < linear.out; ++o) {
        if (o - linear.dropped_first < linear.dropped) continue;
        dlost += static_cast<double>(dbias[o]) * static_cast<double>(rotated_b[o * rank + i]);
        db[o * rank + i] += scaling * dbias[o] * lost;
      }
      const float factor = scaling * static_cast<float>(dlost);
      for (std::size_t j = 0; j < linear.in; ++j)
        da[i * linear.in + j] += factor * linear.offset[j];
    }
  }
  if (linear.outputs.empty()) return;
  std::vector<float> columns =
      transposed(std::vector<float>(db, db + rank * linear.out), linear.out, rank);
  turn_outputs_back(linear, columns.data(), rank);
  columns = transposed(columns, rank, linear.out);
  std::copy(columns.begin(), columns.end(), db);
}

namespace {

// Rotates the float weights of a source; a packed file that stores rotated weights answers itself.
class RotatedSource final : public ForwardingSource {
 public:
  RotatedSource(std::shared_ptr<const WeightSource> plain, std::shared_ptr<const Rotation> rotation)
      : ForwardingSource(std::move(plain)), rotation_(std::move(rotation)) {}
  std::vector<float> linear_f32(std::size_t linear) const override {
    return rotation_->weights(linear);
  }

 private:
  std::shared_ptr<const Rotation> rotation_;
};

}  // namespace

std::shared_ptr<const BaseModel> rotate_model(const BaseModel& base, quant::Rotations parts) {
  QALOF_CHECK(!base.rotation(), ErrorKind::kInternal, "{}: is rotated twice", base.path());
  const auto rotation =
      std::make_shared<const Rotation>(base.config(), base.shared_source(), parts);
  auto source = std::make_shared<const RotatedSource>(base.shared_source(), rotation);
  auto rotated =
      std::make_shared<BaseModel>(base.config(), base.path(), std::move(source), rotation);
  rotated->set_heads(base.qa_head(), base.class_head());
  return rotated;
}

std::shared_ptr<const BaseModel> model_for(const std::shared_ptr<const BaseModel>& base,
                                           const quant::QuantScheme& scheme) {
  if (!scheme.is_rotated()) return base;
  if (!base->rotation()) return base->rotated(scheme.rotations);
  QALOF_CHECK(base->rotation()->parts() == scheme.rotations, ErrorKind::kInternal,
              "{}: is rotated by {}, the scheme by {}", base->path(),
              quant::to_string(base->rotation()->parts()), quant::to_string(scheme.rotations));
  return base;
}

}  // namespace qalof::weights
