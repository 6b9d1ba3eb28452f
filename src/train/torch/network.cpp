// Copies a base into tensors, lays trainable parameters out flat, and returns trained values.
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "kernels/bf16.h"
#include "runtime/execution.h"
#include "train/adapter_form.h"
#include "train/torch/network.h"

namespace qalof::train {

namespace {

std::int64_t num_elements(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

// A tensor of a base in the order of tensors_of: shape as kernels read it, values.
struct BaseTensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

std::vector<BaseTensor> tensors_of(const weights::BaseModel& base, bool with_lm_head) {
  const model::ModelConfig& config = base.config();
  const auto hidden = static_cast<std::int64_t>(config.hidden);
  std::vector<BaseTensor> tensors;
  for (const model::TensorSpec& spec : model::embedding_tensors(config)) {
    tensors.push_back(
        {{static_cast<std::int64_t>(spec.shape[0]), hidden}, *base.source().tensor_f32(spec.name)});
  }
  auto add_norm = [&](const weights::BaseModel::Norm& norm) {
    for (const auto* values : {&norm.gamma, &norm.beta}) {
      if (!values->empty())
        tensors.push_back({{static_cast<std::int64_t>(values->size())}, *values});
    }
  };
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    add_norm(base.attention_norm(layer));
    add_norm(base.attention_out_norm(layer));
    add_norm(base.mlp_norm(layer));
    add_norm(base.mlp_out_norm(layer));
    add_norm(base.q_norm(layer));
    add_norm(base.k_norm(layer));
  }
  add_norm(base.final_norm());
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    const model::LinearSpec& spec = base.linears()[i];
    tensors.push_back({{static_cast<std::int64_t>(spec.out), static_cast<std::int64_t>(spec.in)},
                       base.source().linear_f32(i)});
    if (spec.bias) tensors.push_back({{static_cast<std::int64_t>(spec.out)}, base.bias(i)});
  }
  if (with_lm_head) {
    tensors.push_back({{static_cast<std::int64_t>(config.vocab_size), hidden},
                       *base.source().tensor_f32(model::kLmHeadTensor)});
  }
  return tensors;
}

// Builds BaseParams from tensors in the order of tensors_of.
template <typename Next>
BaseParams assemble(const model::ModelConfig& config, bool with_lm_head, Next&& next) {
  BaseParams params;
  params.wte = next();
  const at::Tensor none = at::empty({0}, params.wte.options());
  params.wpe = config.rotary ? none : next();
  auto norm = [&] {
    NormParams weights;
    weights.gamma = next();
    weights.beta = config.norm == model::NormKind::kRms ? none : next();
    return weights;
  };
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    params.attention_norms.push_back(norm());
    if (config.has_out_norms) params.attention_out_norms.push_back(norm());
    params.mlp_norms.push_back(norm());
    if (config.has_out_norms) params.mlp_out_norms.push_back(norm());
    if (config.has_qk_norms) {
      params.q_norms.push_back(norm());
      params.k_norms.push_back(norm());
    }
  }
  params.final_norm = norm();
  for (const model::LinearSpec& spec : model::linears(config)) {
    params.weights.push_back(next());
    params.biases.push_back(spec.bias ? next() : none);
  }
  params.lm_head = with_lm_head ? next() : none;
  return params;
}

}  // namespace

std::size_t FlatParameters::add(const std::vector<std::int64_t>& shape,
                                const std::vector<float>& values, std::size_t group) {
  QALOF_CHECK(num_elements(shape) == static_cast<std::int64_t>(values.size()), ErrorKind::kInternal,
              "parameter {}: {} values do not fit its shape", pending_.size(), values.size());
  const std::size_t last = pending_.empty() ? 0 : pending_.back().group;
  QALOF_CHECK(group == last || group == (pending_.empty() ? 0 : last + 1), ErrorKind::kInternal,
              "parameter {}: group {} after group {}", pending_.size(), group, last);
  pending_.push_back({shape, values, group});
  return pending_.size() - 1;
}

void FlatParameters::build(at::Device device) {
  std::int64_t total = 0;
  for (const Pending& parameter : pending_)
    total += static_cast<std::int64_t>(parameter.values.size());
  const auto options = at::TensorOptions().dtype(at::kFloat);
  at::Tensor staged = at::empty({total}, options);
  std::vector<std::int64_t> firsts(pending_.size());
  std::int64_t next = 0;
  if (!pending_.empty()) groups_.resize(pending_.back().group + 1);
  for (const bool matrices : {true, false}) {
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      if ((pending_[i].shape.size() >= 2) != matrices) continue;
      firsts[i] = next;
      ParameterRange& range = groups_[pending_[i].group][matrices ? 0 : 1];
      if (range.count == 0) range.first = next;
      range.count += static_cast<std::int64_t>(pending_[i].values.size());
      std::copy(pending_[i].values.begin(), pending_[i].values.end(),
                staged.mutable_data_ptr<float>() + next);
      next += static_cast<std::int64_t>(pending_[i].values.size());
    }
    if (matrices) num_decayed_ = next;
  }
  values_ = staged.to(device);
  gradients_ = at::zeros_like(values_);
  for (std::size_t i = 0; i < pending_.size(); ++i) {
    const std::int64_t count = num_elements(pending_[i].shape);
    at::Tensor leaf = values_.narrow(0, firsts[i], count).view(pending_[i].shape).detach();
    leaf.set_requires_grad(true);
    leaf.mutable_grad() = gradients_.narrow(0, firsts[i], count).view(pending_[i].shape);
    leaves_.push_back(leaf);
    pending_[i].values = {};
  }
}

BaseParams load_base_params(const weights::BaseModel& base, at::Device device,
                            at::ScalarType dtype) {
  const bool with_lm_head = base.config().lm_head == model::LmHead::kOwn;
  const std::vector<BaseTensor> tensors = tensors_of(base, with_lm_head);
  std::size_t next = 0;
  return assemble(base.config(), with_lm_head, [&] {
    const BaseTensor& tensor = tensors[next++];
    return to_tensor(tensor.values, tensor.shape).to(device, dtype);
  });
}

TrainableBase::TrainableBase(const weights::BaseModel& base, FlatParameters& flat,
                             weights::HeadKind head_kind)
    : config_(base.config()),
      with_lm_head_(head_kind == weights::HeadKind::kLm && config_.lm_head == model::LmHead::kOwn) {
  for (const BaseTensor& tensor : tensors_of(base, with_lm_head_)) {
    indices_.push_back(flat.add(tensor.shape, tensor.values));
  }
}

BaseParams TrainableBase::bind(const FlatParameters& flat) const {
  std::size_t next = 0;
  return assemble(config_, with_lm_head_, [&] { return flat.parameter(indices_[next++]); });
}

bool learns_steps(const TrainOptions& options, int bits) {
  return bits <= 8 && learns_steps(options);
}
bool learns_clips(const TrainOptions& options, int bits) {
  return bits <= 8 && learns_clips(options);
}

std::shared_ptr<const QuantizerStart> quantizer_start(const weights::BaseModel& base,
                                                      std::size_t linear, int bits,
                                                      const TrainOptions& options,
                                                      ParallelFor& parallel) {
  auto start = std::make_shared<QuantizerStart>();
  start->bits = bits;
  start->scheme = options.scheme;
  start->rate = static_cast<float>(options.quantizers.learn_steps_rate);
  if (learns_steps(options, bits)) {
    const model::LinearSpec& spec = base.linears()[linear];
    const bool is_rotated = options.scheme.is_rotated();
    const weights::WeightSource& source =
        is_rotated ? base.rotated(options.scheme.rotations)->source() : base.source();
    weights::RowCodes codes = weights::quantize_weights(
        source.linear_f32(linear), spec.out, spec.in, bits, options.scheme.weights(), parallel);
    start->values.steps = std::move(codes.scales);
    start->values.zeros = std::move(codes.zeros);
  }
  return start;
}

namespace {

// Bounds on the factors 1 + rate * offset of steps and clips.
constexpr double kLeastStep = 0.25, kLargestStep = 4.0, kLeastClip = 0.0625;

}  // namespace

weights::LearnedLinear QuantizerParams::values() const {
  weights::LearnedLinear result = start->values;
  if (steps.defined()) {
    const float* offsets = steps.const_data_ptr<float>();
    for (std::size_t i = 0; i < result.steps.size(); ++i) {
      float& step = result.steps[i];
      step *= 1.0F + start->rate * offsets[i];
      if (start->scheme.group != 0) step = kernels::float_from_bf16(kernels::bf16_from_float(step));
    }
  }
  if (clip.defined()) result.clip = 1.0F + start->rate * *clip.const_data_ptr<float>();
  return result;
}

void QuantizerParams::project() {
  const at::NoGradGuard no_grad;
  const auto rate = static_cast<double>(start->rate);
  if (steps.defined()) steps.clamp_((kLeastStep - 1) / rate, (kLargestStep - 1) / rate);
  if (clip.defined()) clip.clamp_((kLeastClip - 1) / rate, 0.0);
}

weights::Head initial_head(const weights::BaseModel& base, const TrainOptions& options, int bits) {
  if (options.start != nullptr) {
    const weights::Head* head =
        runtime::serving_head(base, options.start.get(), bits, options.head_kind);
    if (head != nullptr) return *head;
  }
  if (options.head_kind == weights::HeadKind::kClass) {
    const std::optional<weights::Head>& own = base.class_head();
    if (own && own->outputs == options.num_labels) return *own;
    return weights::untrained_class_head(base, options.num_labels, options.seed);
  }
  if (!base.qa_head()) return weights::untrained_qa_head(base, options.seed);
  weights::Head head = *base.qa_head();
  if (head.bias.empty()) head.bias.assign(head.outputs, 0.0F);
  return head;
}

std::vector<float> to_vector(const at::Tensor& tensor) {
  const at::Tensor on_cpu = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  const float* values = on_cpu.const_data_ptr<float>();
  return {values, values + on_cpu.numel()};
}

at::Tensor to_tensor(const std::vector<float>& values, const std::vector<std::int64_t>& shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<float>());
  return tensor;
}

void copy_values(const std::vector<float>& values, const std::string& name, at::Tensor& tensor) {
  QALOF_CHECK(static_cast<std::int64_t>(values.size()) == tensor.numel(), ErrorKind::kBadInput,
              "checkpoint: {} has {} values, expected {}", name, values.size(), tensor.numel());
  const at::NoGradGuard no_grad;
  tensor.copy_(to_tensor(values, tensor.sizes().vec()));
}

weights::Head export_head(const HeadParams& head) {
  return {static_cast<std::size_t>(head.weight.size(0)), to_vector(head.weight),
          head.bias.defined() ? to_vector(head.bias) : std::vector<float>()};
}

std::shared_ptr<const weights::Adapter> export_adapter(const AdapterParams& params,
                                                       const weights::BaseModel& base,
                                                       const TrainOptions& options) {
  auto adapter = std::make_shared<weights::Adapter>();
  adapter->rank = static_cast<std::size_t>(params.linears.front().a.size(0));
  const auto scaling = static_cast<float>(lora_scaling(options));
  adapter->alpha = adapter->rank == options.adapters.lora_r
                       ? static_cast<float>(options.adapters.lora_alpha)
                       : scaling * static_cast<float>(adapter->rank);
  adapter->merged = options.adapters.adapter_form == AdapterForm::kMerged;
  for (const QuantizerParams& quantizer : params.quantizers) {
    if (!adapter->learned) adapter->learned.emplace();
    adapter->learned->bits = quantizer.start->bits;
    adapter->learned->scheme = quantizer.start->scheme;
    adapter->learned->linears.push_back(quantizer.values());
  }
  for (std::size_t i = 0; i < params.linears.size(); ++i) {
    const model::LinearSpec& spec = base.linears()[i];
    adapter->linears.push_back(std::make_unique<weights::LoraLinear>(
        adapter->rank, scaling, to_vector(params.linears[i].a), to_vector(params.linears[i].b),
        spec.in, spec.out));
  }
  if (params.head.weight.defined()) {
    (options.head_kind == weights::HeadKind::kClass ? adapter->class_head : adapter->qa_head) =
        export_head(params.head);
  }
  return adapter;
}

std::map<std::string, NamedTensor> export_base(const BaseParams& params, const HeadParams& head,
                                               const model::ModelConfig& config,
                                               weights::HeadKind head_kind) {
  std::map<std::string, NamedTensor> tensors;
  auto add = [&](const std::string& name, const at::Tensor& tensor) {
    NamedTensor named;
    for (const std::int64_t extent : tensor.sizes()) {
      named.shape.push_back(static_cast<std::size_t>(extent));
    }
    named.values = to_vector(tensor);
    tensors[name] = std::move(named);
  };
  auto add_norm = [&](const std::string& name, const NormParams& norm) {
    add(name + ".weight",
        config.norm_offset != 0 ? norm.gamma.detach() - config.norm_offset : norm.gamma);
    if (norm.beta.numel() > 0) add(name + ".bias", norm.beta);
  };
  const model::TensorNames names = model::tensor_names(config);
  add(names.token_embedding, params.wte);
  if (params.wpe.numel() > 0) add(names.position_embedding, params.wpe);
  if (params.lm_head.numel() > 0) add(model::kLmHeadTensor, params.lm_head);
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    add_norm(names.attention_norms[layer], params.attention_norms[layer]);
    add_norm(names.mlp_norms[layer], params.mlp_norms[layer]);
    const auto add_some = [&](const std::vector<std::string>& of, const auto& norms) {
      if (!of.empty()) add_norm(of[layer], norms[layer]);
    };
    add_some(names.attention_out_norms, params.attention_out_norms);
    add_some(names.mlp_out_norms, params.mlp_out_norms);
    add_some(names.q_norms, params.q_norms);
    add_some(names.k_norms, params.k_norms);
  }
  add_norm(names.final_norm, params.final_norm);
  const std::vector<model::LinearSpec> linears = model::linears(config);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    add(linears[i].name + ".weight", linears[i].conv1d ? params.weights[i].t() : params.weights[i]);
    if (linears[i].bias) add(linears[i].name + ".bias", params.biases[i]);
  }
  if (head.weight.defined()) {
    const std::string name = head_kind == weights::HeadKind::kClass ? "score" : "qa_outputs";
    add(name + ".weight", head.weight);
    if (head.bias.defined()) add(name + ".bias", head.bias);
  }
  return tensors;
}

}  // namespace qalof::train
