// Samples go to processes longest first, each to the one that has the fewest tokens so far.
#include "app/sensitivity/batch_share.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace qalof::app {

namespace {

std::vector<std::size_t> ranks_of_samples(const tasks::SampleBatch& batch, std::size_t processes) {
  std::vector<std::size_t> order(batch.samples()), ranks(batch.samples()), tokens(processes);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater{},
                           [&](std::size_t sample) { return batch.tokens_of(sample); });
  for (const std::size_t sample : order) {
    const auto least = std::ranges::min_element(tokens);
    ranks[sample] = static_cast<std::size_t>(least - tokens.begin());
    *least += batch.tokens_of(sample);
  }
  return ranks;
}

}  // namespace

BatchShare::BatchShare(const tasks::SampleBatch& batch, ProcessGroup* group)
    : group_(group), own_(&batch) {
  if (group == nullptr) return;
  ranks_ = ranks_of_samples(batch, group->size());
  std::vector<std::size_t> samples;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    if (ranks_[i] == group->rank()) samples.push_back(i);
  }
  if (!samples.empty()) part_ = batch.select(samples);
  own_ = part_.get();
}

std::vector<MeasuredPass> BatchShare::merged(const std::vector<MeasuredPass>& own) const {
  if (group_ == nullptr) return own;
  std::vector<tasks::SampleScore> scores;
  std::vector<double> speeds;
  for (const MeasuredPass& pass : own) {
    scores.insert(scores.end(), pass.scores.begin(), pass.scores.end());
    speeds.push_back(pass.tokens_per_second);
  }
  const std::vector<std::string> all_scores =
      gather_texts(*group_, bytes_of<tasks::SampleScore>(scores));
  const std::vector<std::string> all_speeds = gather_texts(*group_, bytes_of<double>(speeds));
  std::vector<MeasuredPass> passes(own.size());
  for (std::size_t from = 0; from < all_scores.size(); ++from) {
    const auto found = values_in<tasks::SampleScore>(all_scores[from]);
    const auto speed = values_in<double>(all_speeds[from]);
    const auto samples = static_cast<std::size_t>(std::ranges::count(ranks_, from));
    QALOF_CHECK(speed.size() == passes.size() && found.size() == passes.size() * samples,
                ErrorKind::kInternal,
                "rank {} measured {} passes with {} scores, expected {} of {}", from, speed.size(),
                found.size(), passes.size(), samples);
    auto next = found.begin();
    for (std::size_t i = 0; i < passes.size(); ++i) {
      passes[i].scores.resize(ranks_.size());
      passes[i].tokens_per_second += speed[i];
      for (std::size_t sample = 0; sample < ranks_.size(); ++sample) {
        if (ranks_[sample] == from) passes[i].scores[sample] = *next++;
      }
    }
  }
  return passes;
}

}  // namespace qalof::app
