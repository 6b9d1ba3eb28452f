// Builds a phase's pairs, heads and quantizers, chooses those of a network, and exports them.
#include <ATen/core/grad_mode.h>

#include <set>

#include "train/adapter_form.h"
#include "train/torch/parameters.h"

namespace qalof::train {

namespace {

// For every linear, the pair of the width that serves it.
template <typename T, typename PairOf>
std::vector<LoraParams> choose_pairs(const std::map<int, T>& by_width, const Network& network,
                                     PairOf&& pair_of) {
  std::vector<LoraParams> pairs;
  for (const quant::Precision& precision : network.plan.linears) {
    const int width = weights::nearest_width(by_width, precision.weight.bits);
    pairs.push_back(pair_of(by_width.at(width), pairs.size()));
  }
  return pairs;
}

// Learned values serve a linear whose weights and activations both have their width.
bool serves(int width, quant::Precision precision) {
  return width == precision.weight.bits && width == precision.activation.bits;
}

// For every linear, the learned values of the width that serves it.
template <typename T, typename ParamsOf>
std::vector<QuantizerParams> choose_quantizers(const std::map<int, T>& by_width,
                                               const Network& network,
                                               ParamsOf&& quantizer_params) {
  std::vector<QuantizerParams> chosen;
  for (const quant::Precision& precision : network.plan.linears) {
    const int width = weights::nearest_width(by_width, precision.weight.bits);
    const T& values = by_width.at(width);
    chosen.push_back(serves(width, precision) && !values.quantizers.empty()
                         ? quantizer_params(values.quantizers[chosen.size()])
                         : QuantizerParams{});
  }
  return chosen;
}

}  // namespace

NetworkView view_of(const std::map<int, AdapterParams>& adapters, const Network& network,
                    const TrainOptions& options) {
  NetworkView view;
  view.lora_scaling = lora_scaling(options);
  view.merged = options.adapters.adapter_form == AdapterForm::kMerged;
  if (adapters.empty()) return view;
  view.head = adapters.at(weights::nearest_width(adapters, network.head_width)).head;
  view.lora = choose_pairs(adapters, network, [](const AdapterParams& adapter, std::size_t linear) {
    return adapter.linears[linear];
  });
  view.quantizers =
      choose_quantizers(adapters, network, [](const QuantizerParams& params) { return params; });
  return view;
}

void PhaseParameters::add_pairs(const weights::BaseModel& base, const AdapterInit& init, int bits,
                                Width& width, std::size_t& group) {
  const bool shares = options_.adapters.adapter_form == AdapterForm::kCascaded;
  std::size_t rank = 0;  // total rank of the existing blocks
  for (std::size_t block = shares ? 0 : blocks_.size(); block < blocks_.size(); ++block) {
    width.blocks.push_back(block);
    rank += blocks_[block].rank;
  }
  const std::size_t wanted = adapter_rank(options_, bits);
  if (rank == wanted) return;
  width.blocks.push_back(blocks_.size());
  Block& block = blocks_.emplace_back();
  block.rank = wanted - rank;
  const auto extent = static_cast<std::int64_t>(block.rank);
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    std::vector<PairValues> before;
    for (const std::size_t earlier : width.blocks) {
      if (earlier + 1 == blocks_.size()) break;
      const Pair& pair = blocks_[earlier].pairs[i];
      before.push_back({flat_.initial(pair.a), flat_.initial(pair.b)});
    }
    const PairValues values = init.values(i, bits, {rank, block.rank}, before);
    const auto in = static_cast<std::int64_t>(base.linears()[i].in);
    const auto out = static_cast<std::int64_t>(base.linears()[i].out);
    const std::size_t a = flat_.add({extent, in}, values.a, group);
    const std::size_t b = flat_.add({out, extent}, values.b, group);
    block.pairs.push_back({a, b});
    block.groups.push_back(group++);
  }
}

PhaseParameters::HeadPair PhaseParameters::add_head(const weights::Head& head, std::size_t group) {
  const auto outputs = static_cast<std::int64_t>(head.outputs);
  const auto hidden = static_cast<std::int64_t>(head.weight.size()) / outputs;
  HeadPair pair;
  pair.weight = flat_.add({outputs, hidden}, head.weight, group);
  if (!head.bias.empty()) pair.bias = flat_.add({outputs}, head.bias, group);
  return pair;
}

PhaseParameters::PhaseParameters(const weights::BaseModel& base, const TrainOptions& options,
                                 const Phase& phase, const std::map<int, AdapterParams>& earlier,
                                 at::Device device, ParallelFor& parallel)
    : options_(options) {
  const bool has_head = options.head_kind != weights::HeadKind::kLm;
  const auto first_head = [&](int bits) {
    return phase.head_from ? export_head(earlier.at(*phase.head_from).head)
                           : initial_head(base, options, bits);
  };
  std::optional<TrainableBase> trainable;
  std::size_t group = 0;
  if (options.method == Method::kFull) trainable.emplace(base, flat_, options.head_kind);
  const AdapterInit init(base, options_, phase, parallel);
  for (const int bits : phase.widths) {
    Width& width = widths_[bits];
    add_pairs(base, init, bits, width, group);
    if (has_head && phase.has_head_per_width) {
      width.head_group = group++;
      width.head = add_head(first_head(bits), width.head_group);
    }
    add_quantizers(base, bits, width, group, parallel);
  }
  if (has_head && !phase.has_head_per_width) {
    shared_head_ = add_head(first_head(phase.widths.empty() ? 32 : phase.widths.front()), group);
    for (auto& [bits, width] : widths_) {
      width.head = *shared_head_;
      width.head_group = group;
    }
  }
  flat_.build(device);
  if (trainable) base_ = trainable->bind(flat_);
}

void PhaseParameters::add_quantizers(const weights::BaseModel& base, int bits, Width& width,
                                     std::size_t& group, ParallelFor& parallel) {
  const bool steps = learns_steps(options_, bits), clips = learns_clips(options_, bits);
  if (!steps && !clips) return;
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    Quantizer& quantizer = width.quantizers.emplace_back();
    quantizer.start = quantizer_start(base, i, bits, options_, parallel);
    quantizer.group = group++;
    // Stored as vectors, so that they do not decay.
    const std::size_t count = quantizer.start->values.steps.size();
    if (steps) {
      quantizer.steps = flat_.add({static_cast<std::int64_t>(count)},
                                  std::vector<float>(count, 0.0F), quantizer.group);
    }
    if (clips) quantizer.clip = flat_.add({1}, {0.0F}, quantizer.group);
  }
}

QuantizerParams PhaseParameters::quantizer_params(const Quantizer& quantizer) const {
  return {quantizer.steps ? flat_.parameter(*quantizer.steps) : at::Tensor(),
          quantizer.clip ? flat_.parameter(*quantizer.clip) : at::Tensor(), quantizer.start};
}

void PhaseParameters::project() {
  for (const auto& [bits, width] : widths_) {
    for (const Quantizer& quantizer : width.quantizers) quantizer_params(quantizer).project();
  }
}

LoraParams PhaseParameters::pair_of(const Width& width, std::size_t linear) const {
  std::vector<at::Tensor> a, b;
  for (const std::size_t block : width.blocks) {
    const Pair& pair = blocks_[block].pairs[linear];
    a.push_back(flat_.parameter(pair.a));
    b.push_back(flat_.parameter(pair.b));
  }
  if (a.size() == 1) return {a.front(), b.front()};
  return {at::cat(a, 0), at::cat(b, 1)};
}

HeadParams PhaseParameters::head_of(const HeadPair& pair) const {
  return {flat_.parameter(pair.weight), pair.bias ? flat_.parameter(*pair.bias) : at::Tensor()};
}

std::map<int, AdapterParams> PhaseParameters::adapters() const {
  const at::NoGradGuard no_grad;
  std::map<int, AdapterParams> adapters;
  for (const auto& [bits, width] : widths_) {
    AdapterParams& adapter = adapters[bits];
    for (std::size_t i = 0; i < blocks_.front().pairs.size(); ++i)
      adapter.linears.push_back(pair_of(width, i));
    if (options_.head_kind != weights::HeadKind::kLm) adapter.head = head_of(width.head);
    for (const Quantizer& quantizer : width.quantizers)
      adapter.quantizers.push_back(quantizer_params(quantizer));
  }
  return adapters;
}

NetworkView PhaseParameters::view(const Network& network) const {
  NetworkView view;
  view.lora_scaling = lora_scaling(options_);
  view.merged = options_.adapters.adapter_form == AdapterForm::kMerged;
  if (shared_head_) view.head = head_of(*shared_head_);
  if (widths_.empty()) return view;
  if (options_.head_kind != weights::HeadKind::kLm)
    view.head = head_of(widths_.at(weights::nearest_width(widths_, network.head_width)).head);
  view.lora = choose_pairs(widths_, network, [this](const Width& width, std::size_t linear) {
    return pair_of(width, linear);
  });
  view.quantizers = choose_quantizers(
      widths_, network, [this](const Quantizer& quantizer) { return quantizer_params(quantizer); });
  return view;
}

std::vector<std::size_t> PhaseParameters::groups(const Network& network) const {
  if (widths_.empty()) return {0};
  std::set<std::size_t> found;
  for (std::size_t i = 0; i < network.plan.linears.size(); ++i) {
    const int bits = weights::nearest_width(widths_, network.plan.linears[i].weight.bits);
    const Width& width = widths_.at(bits);
    for (const std::size_t block : width.blocks) found.insert(blocks_[block].groups[i]);
    if (serves(bits, network.plan.linears[i]) && !width.quantizers.empty())
      found.insert(width.quantizers[i].group);
  }
  if (options_.head_kind != weights::HeadKind::kLm)
    found.insert(widths_.at(weights::nearest_width(widths_, network.head_width)).head_group);
  return {found.begin(), found.end()};
}

void PhaseParameters::copy_width(int from, int to) {
  const at::NoGradGuard no_grad;
  const auto copy = [this](const Pair& target, const Pair& source) {
    at::Tensor a = flat_.parameter(target.a), b = flat_.parameter(target.b);
    a.copy_(flat_.parameter(source.a));
    b.copy_(flat_.parameter(source.b));
  };
  const Width &source = widths_.at(from), &target = widths_.at(to);
  for (std::size_t n = 0; n < source.blocks.size(); ++n) {
    const Block &from_block = blocks_[source.blocks[n]], &to_block = blocks_[target.blocks[n]];
    if (&from_block == &to_block) continue;
    for (std::size_t i = 0; i < from_block.pairs.size(); ++i)
      copy(to_block.pairs[i], from_block.pairs[i]);
  }
  if (options_.head_kind == weights::HeadKind::kLm) return;
  const HeadParams head = head_of(target.head), from_head = head_of(source.head);
  at::Tensor weight = head.weight, bias = head.bias;
  weight.copy_(from_head.weight);
  if (bias.defined()) bias.copy_(from_head.bias);
}

void PhaseParameters::export_to(const weights::BaseModel& base, TrainedWeights& weights) const {
  if (widths_.empty()) {
    weights.tensors = export_base(base_, shared_head_ ? head_of(*shared_head_) : HeadParams{},
                                  base.config(), options_.head_kind);
  }
  for (const auto& [bits, adapter] : adapters()) {
    weights.adapters[bits] = export_adapter(adapter, base, options_);
  }
}

AdapterParams detached(const AdapterParams& params) {
  auto copy = [](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.detach().clone() : at::Tensor();
  };
  AdapterParams result;
  for (const LoraParams& lora : params.linears)
    result.linears.push_back({copy(lora.a), copy(lora.b)});
  result.head = {copy(params.head.weight), copy(params.head.bias)};
  for (const QuantizerParams& quantizer : params.quantizers)
    result.quantizers.push_back({copy(quantizer.steps), copy(quantizer.clip), quantizer.start});
  return result;
}

}  // namespace qalof::train
