// Turns a method and its widths into phases. See phases.h.
#include "train/phases.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/flag_range.h"
#include "train/adapter_form.h"

namespace qalof::train {

namespace {

Network uniform_network(int bits, const TrainOptions& options, const quant::PlanTarget& target) {
  Network network;
  network.name = fmt::format("w{}", bits);
  network.plan = uniform_plan(bits, options.widths.kv_bits, target);
  network.plan.scheme = options.scheme;
  network.head_width = bits;
  return network;
}

// The plan of --precision with no linear below bits: the plan itself where none is.
Network raised_network(int bits, const TrainOptions& options, const quant::PlanTarget& target) {
  Network network;
  network.plan = *options.plan;
  for (quant::Precision& precision : network.plan.linears) {
    precision.weight.bits = std::max(precision.weight.bits, bits);
    precision.activation.bits = std::max(precision.activation.bits, bits);
  }
  network.name = network.plan == *options.plan ? "plan" : fmt::format("plan{}", bits);
  network.head_width = options.plan->head_width(target).bits;
  return network;
}

Network network_at(int bits, const TrainOptions& options, const quant::PlanTarget& target) {
  return options.plan ? raised_network(bits, options, target)
                      : uniform_network(bits, options, target);
}

// The networks of widths from high to low. Of a plan neighbouring ones may be the same; each stands
// once.
std::vector<Network> networks_of(const std::vector<int>& widths, const TrainOptions& options,
                                 const quant::PlanTarget& target) {
  std::vector<Network> networks;
  for (const int bits : widths) {
    Network network = network_at(bits, options, target);
    if (networks.empty() || !(networks.back().plan == network.plan))
      networks.push_back(std::move(network));
  }
  return networks;
}

// Widths of a network's adapters, from high to low. An explicit head may belong to a width that no
// linear has.
std::vector<int> adapter_widths(const Network& network) {
  std::set<int, std::greater<>> widths = {network.head_width};
  for (const quant::Precision& precision : network.plan.linears)
    widths.insert(precision.weight.bits);
  return {widths.begin(), widths.end()};
}

// Every width is a phase of its own.
std::vector<Phase> switch_phases(const TrainOptions& options, const quant::PlanTarget& target) {
  std::vector<Phase> phases;
  for (const Network& network : networks_of(trained_widths(options), options, target)) {
    Phase phase;
    phase.networks = {network};
    phase.name = network.name;
    phase.widths = adapter_widths(network);
    phase.has_head_per_width = !options.plan;
    if (!phases.empty()) {
      phase.teacher = phases.size() - 1;
      phase.head_from = phases.back().networks.front().head_width;
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

// All widths train in one phase; the walk chooses among them.
Phase walking_phase(const TrainOptions& options, const quant::PlanTarget& target) {
  Phase phase;
  phase.name = to_string(options.method);
  phase.widths = trained_widths(options);
  std::vector<int> served = phase.widths;
  if (options.method == Method::kCpt) {
    phase.walk = Walk::kCyclic;
    served.clear();
    for (int bits = options.widths.max_bits; bits >= options.widths.min_bits; --bits)
      served.push_back(bits);
  }
  if (options.method == Method::kRandom) phase.walk = Walk::kRandom;
  if (options.method == Method::kCurriculum) phase.walk = Walk::kDescend;
  if (options.plan) {
    phase.has_head_per_width = false;
    if (options.method == Method::kRandom) phase.around = options.plan;
  }
  // These two count networks by width.
  if (phase.walk == Walk::kCyclic || phase.walk == Walk::kDescend) {
    for (const int bits : served) phase.networks.push_back(network_at(bits, options, target));
  } else {
    phase.networks = networks_of(served, options, target);
  }
  return phase;
}

// full and lora: one network, which may be a plan of several widths.
Phase single_phase(const TrainOptions& options, const quant::PlanTarget& target) {
  Phase phase;
  Network& network = phase.networks.emplace_back();
  network.plan = options.plan
                     ? *options.plan
                     : uniform_plan(options.bf16 ? 16 : 32, options.widths.kv_bits, target);
  network.head_width = network.plan.head_width(target).bits;
  if (options.method == Method::kLora) phase.widths = adapter_widths(network);
  phase.has_head_per_width = false;
  phase.name = options.method == Method::kFull ? "full"
               : phase.widths.size() == 1      ? fmt::format("w{}", phase.widths.front())
                                               : "plan";
  network.name = phase.name;
  return phase;
}

}  // namespace

std::vector<int> trained_widths(const TrainOptions& options) {
  std::set<int, std::greater<>> widths(options.widths.bit_widths.begin(),
                                       options.widths.bit_widths.end());
  if (widths.empty()) {
    switch (options.method) {
      case Method::kCpt:
        for (int bits = options.widths.min_bits; bits <= options.widths.max_bits; ++bits)
          widths.insert(bits);
        break;
      case Method::kRandom:
      case Method::kCurriculum:
        widths = {8, 7, 6, 5, 4};
        break;
      default:
        widths = {8, 4};
    }
  }
  if (options.plan && has_widths(options.method)) {
    for (const quant::Precision& precision : options.plan->linears)
      widths.insert(precision.weight.bits);
  }
  return {widths.begin(), widths.end()};
}

quant::PrecisionPlan uniform_plan(int bits, std::optional<int> kv_bits,
                                  const quant::PlanTarget& target) {
  const quant::BitWidth width{bits};
  const quant::BitWidth kv{kv_bits.value_or(bits)};
  quant::PrecisionPlan plan;
  plan.linears.assign(target.linear_names.size(), quant::Precision{width, width});
  plan.k.assign(target.num_layers, std::vector<quant::BitWidth>(target.num_kv_heads, kv));
  plan.v = plan.k;
  plan.default_width = width;
  return plan;
}

std::vector<Phase> make_phases(const TrainOptions& options, const quant::PlanTarget& target) {
  check_options(options, target);
  if (options.method == Method::kSwitch) return switch_phases(options, target);
  if (has_widths(options.method)) return {walking_phase(options, target)};
  return {single_phase(options, target)};
}

}  // namespace qalof::train
