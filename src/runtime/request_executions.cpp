// Draws executions per request or per layer, and runs a mixed batch one execution at a time.
#include "runtime/request_executions.h"

#include <algorithm>
#include <map>

#include "core/error.h"

namespace qalof::runtime {

RequestExecutions::RequestExecutions(std::shared_ptr<const Execution> execution)
    : set_{std::move(execution)}, description_(front().description()) {}

RequestExecutions::RequestExecutions(const Execution& execution)
    : RequestExecutions(
          std::shared_ptr<const Execution>(std::shared_ptr<const Execution>(), &execution)) {}

RequestExecutions::RequestExecutions(std::vector<std::shared_ptr<const Execution>> set,
                                     quant::DrawnWidths drawn, std::uint64_t seed,
                                     const std::string& name)
    : set_(std::move(set)), draws_(std::in_place, seed, set_.size()), drawn_(drawn), seed_(seed) {
  QALOF_CHECK(set_.size() >= 2, ErrorKind::kInternal, "{} executions, expected at least 2",
              set_.size());
  for (const auto& execution : set_) {
    QALOF_CHECK(&execution->base() == &front().base(), ErrorKind::kInternal,
                "executions to draw from are of different base models");
  }
  description_ = fmt::format("{}, seed {}", name, seed);
  for (const auto& execution : set_) description_ += "; " + execution->description();
}

std::shared_ptr<const Execution> RequestExecutions::of_request(std::uint64_t request) const {
  if (!draws_) return set_.front();
  const std::shared_ptr<const Execution>& whole = set_[find_index(request)];
  if (drawn_ == quant::DrawnWidths::kRequest) return whole;
  const std::size_t layers = whole->base().config().num_layers;
  const std::size_t per_layer = whole->base().linears().size() / layers;
  std::vector<Execution::Replacement> replacements;
  KvPrecision kv = whole->kv();
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const std::shared_ptr<const Execution>& by = set_[draws_->of_layer(request, layer)];
    for (std::size_t i = 0; i < per_layer; ++i) replacements.push_back({layer * per_layer + i, by});
    kv.k_bits[layer] = by->k_bits(layer);
    kv.v_bits[layer] = by->v_bits(layer);
  }
  return Execution::spliced(whole, replacements, kv);
}

std::vector<std::uint64_t> RequestExecutions::draws(std::uint64_t requests) const {
  std::vector<std::uint64_t> counts(set_.size(), 0);
  const std::size_t layers =
      drawn_ == quant::DrawnWidths::kLayer ? front().base().config().num_layers : 0;
  for (std::uint64_t request = 0; request < requests; ++request) {
    if (!draws_ || layers == 0) ++counts[find_index(request)];
    for (std::size_t layer = 0; draws_ && layer < layers; ++layer)
      ++counts[draws_->of_layer(request, layer)];
  }
  return counts;
}

void forward_by_execution(const Execution& execution, std::span<const Sequence> sequences,
                          GroupedWorkspace& workspace, float* hidden, ParallelFor& parallel,
                          Profile* profile) {
  const std::size_t width = execution.base().config().hidden;
  std::vector<std::vector<std::size_t>> groups;  // sequences, by first appearance
  std::map<const Execution*, std::size_t> group_of;
  std::vector<std::size_t> first_float;
  std::size_t floats = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const Execution* own = sequences[i].execution;
    const auto [found, is_new] =
        group_of.try_emplace(own != nullptr ? own : &execution, groups.size());
    if (is_new) groups.emplace_back();
    groups[found->second].push_back(i);
    first_float.push_back(floats);
    floats += sequences[i].ids.size() * width;
  }
  if (groups.size() <= 1) {
    forward(execution, sequences, workspace.decoder, hidden, parallel, profile);
    return;
  }
  for (const std::vector<std::size_t>& group : groups) {
    workspace.sequences.clear();
    floats = 0;
    for (const std::size_t i : group) {
      workspace.sequences.push_back(sequences[i]);
      floats += sequences[i].ids.size() * width;
    }
    workspace.rows.resize(std::max(workspace.rows.size(), floats));
    forward(execution, workspace.sequences, workspace.decoder, workspace.rows.data(), parallel,
            profile);
    const float* row = workspace.rows.data();
    for (const std::size_t i : group) {
      const std::size_t count = sequences[i].ids.size() * width;
      std::copy_n(row, count, hidden + first_float[i]);
      row += count;
    }
  }
}

}  // namespace qalof::runtime
