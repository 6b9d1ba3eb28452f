#include <set>

#include "train/parameters_torch.h"

namespace qalof::train {

NetworkView view_of(const std::map<int, AdapterParams>& adapters, const Network& network,
                    double lora_scaling) {
  NetworkView view;
  view.lora_scaling = lora_scaling;
  if (adapters.empty()) return view;
  view.head = adapters.at(runtime::nearest_width(adapters, network.head_width)).head;
  for (const quant::Precision& precision : network.plan.linears) {
    const int width = runtime::nearest_width(adapters, precision.weight.bits);
    view.lora.push_back(adapters.at(width).linears[view.lora.size()]);
  }
  return view;
}

PhaseParameters::Pair PhaseParameters::add_head(const runtime::Head& head, std::size_t group) {
  const auto outputs = static_cast<std::int64_t>(head.outputs);
  const auto hidden = static_cast<std::int64_t>(head.weight.size()) / outputs;
  const std::size_t weight = flat_.add({outputs, hidden}, head.weight, group);
  return {weight, flat_.add({outputs}, head.bias, group)};
}

PhaseParameters::PhaseParameters(const runtime::BaseModel& base, const TrainOptions& options,
                                 const Phase& phase, const std::map<int, AdapterParams>& earlier,
                                 at::Device device)
    : options_(options) {
  const bool has_head = options.task == runtime::Task::kQa;
  runtime::Head initial_head;
  if (has_head) {
    initial_head = phase.head_from ? export_head(earlier.at(*phase.head_from).head)
                                   : initial_qa_head(base, options.seed);
  }
  std::optional<TrainableBase> trainable;
  std::size_t group = 0;
  if (options.method == Method::kFull) trainable.emplace(base, flat_);
  const auto rank = static_cast<std::int64_t>(options.lora_r);
  for (const int bits : phase.widths) {
    Width& width = widths_[bits];
    const AdapterInit init = fresh_adapter(base, options.lora_r, options.seed, bits);
    for (std::size_t i = 0; i < base.linears().size(); ++i) {
      const auto in = static_cast<std::int64_t>(base.linears()[i].in);
      const auto out = static_cast<std::int64_t>(base.linears()[i].out);
      const std::size_t a = flat_.add({rank, in}, init.a[i], group);
      width.pairs.push_back({a, flat_.add({out, rank}, init.b[i], group)});
      width.pair_groups.push_back(group++);
    }
    if (!has_head || !phase.has_head_per_width) continue;
    width.head_group = group++;
    width.head = add_head(initial_head, width.head_group);
  }
  if (has_head && !phase.has_head_per_width) {
    shared_head_ = add_head(initial_head, group);
    for (auto& [bits, width] : widths_) {
      width.head = *shared_head_;
      width.head_group = group;
    }
  }
  flat_.build(device);
  if (trainable) base_ = trainable->bind(flat_);
  for (const auto& [bits, width] : widths_) {
    AdapterParams& adapter = adapters_[bits];
    for (const Pair& pair : width.pairs) {
      adapter.linears.push_back({flat_.parameter(pair.a), flat_.parameter(pair.b)});
    }
    if (has_head) adapter.head = head_of(width.head);
  }
}

HeadParams PhaseParameters::head_of(const Pair& pair) const {
  return {flat_.parameter(pair.a), flat_.parameter(pair.b)};
}

NetworkView PhaseParameters::view(const Network& network) const {
  const double scaling = options_.lora_alpha / static_cast<double>(options_.lora_r);
  NetworkView result = view_of(adapters_, network, scaling);
  if (shared_head_) result.head = head_of(*shared_head_);
  return result;
}

std::vector<std::size_t> PhaseParameters::groups(const Network& network) const {
  if (widths_.empty()) return {0};
  std::set<std::size_t> found;
  for (std::size_t i = 0; i < network.plan.linears.size(); ++i) {
    const int bits = runtime::nearest_width(widths_, network.plan.linears[i].weight.bits);
    found.insert(widths_.at(bits).pair_groups[i]);
  }
  if (options_.task == runtime::Task::kQa)
    found.insert(widths_.at(runtime::nearest_width(widths_, network.head_width)).head_group);
  return {found.begin(), found.end()};
}

void PhaseParameters::copy_width(int from, int to) {
  const at::NoGradGuard no_grad;
  const AdapterParams &source = adapters_.at(from), &target = adapters_.at(to);
  auto copy = [](const at::Tensor& dst, const at::Tensor& src) {
    if (dst.defined()) dst.copy_(src);
  };
  for (std::size_t i = 0; i < source.linears.size(); ++i) {
    copy(target.linears[i].a, source.linears[i].a);
    copy(target.linears[i].b, source.linears[i].b);
  }
  copy(target.head.weight, source.head.weight);
  copy(target.head.bias, source.head.bias);
}

void PhaseParameters::export_to(const runtime::BaseModel& base, TrainedWeights& weights) const {
  if (widths_.empty()) {
    weights.tensors =
        export_base(base_, shared_head_ ? head_of(*shared_head_) : HeadParams{}, base.config());
  }
  for (const auto& [bits, adapter] : adapters_) {
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
  return result;
}

}  // namespace qalof::train
