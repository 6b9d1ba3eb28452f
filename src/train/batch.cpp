// Packs windows into rows, checks them against model and task, and permutes them every epoch.
#include "train/batch.h"

#include <algorithm>

#include "core/error.h"

namespace qalof::train {

void PackedBatch::add(const Example& example) {
  for (std::size_t i = 0; i < example.ids.size(); ++i) {
    ids.push_back(example.ids[i]);
    positions.push_back(static_cast<std::int32_t>(i));
    scored.push_back(example.scored.empty() ? 1 : example.scored[i]);
  }
  offsets.push_back(ids.size());
  starts.push_back(example.start);
  ends.push_back(example.end);
  labels.push_back(example.label);
}

void check_examples(const Windows& examples, const model::ModelConfig& config,
                    const TrainOptions& options) {
  const weights::HeadKind head_kind = options.head_kind;
  QALOF_CHECK(!examples.empty(), ErrorKind::kBadInput, "training data: no window");
  QALOF_CHECK(head_kind != weights::HeadKind::kClass || options.num_labels >= 2,
              ErrorKind::kBadInput, "training data: {} classes, expected at least 2",
              options.num_labels);
  // A language model predicts a token from the one before it.
  const std::size_t shortest = head_kind == weights::HeadKind::kLm ? 2 : 1;
  for (std::size_t w = 0; w < examples.size(); ++w) {
    const Example example = examples[w];
    const std::size_t length = example.ids.size();
    QALOF_CHECK(length >= shortest && length <= config.max_positions, ErrorKind::kBadInput,
                "training window {}: {} tokens, expected {}..{}", w, length, shortest,
                config.max_positions);
    for (const std::int32_t id : example.ids) {
      QALOF_CHECK(id >= 0 && static_cast<std::size_t>(id) < config.vocab_size, ErrorKind::kBadInput,
                  "training window {}: token id {}, expected 0..{}", w, id, config.vocab_size - 1);
    }
    if (head_kind == weights::HeadKind::kClass) {
      QALOF_CHECK(
          example.label >= 0 && static_cast<std::size_t>(example.label) < options.num_labels,
          ErrorKind::kBadInput, "training window {}: class {}, expected 0..{}", w, example.label,
          options.num_labels - 1);
    }
    if (head_kind == weights::HeadKind::kLm) {
      QALOF_CHECK(example.scored.empty() || example.scored.size() == length, ErrorKind::kBadInput,
                  "training window {}: {} tokens, {} marks", w, length, example.scored.size());
      QALOF_CHECK(tasks::num_predicted(example) > 0, ErrorKind::kBadInput,
                  "training window {}: none of its tokens is predicted", w);
    }
    if (head_kind != weights::HeadKind::kSpan) continue;
    for (const std::int32_t label : {example.start, example.end}) {
      QALOF_CHECK(label >= 0 && static_cast<std::size_t>(label) < length, ErrorKind::kBadInput,
                  "training window {}: answer at token {}, expected 0..{}", w, label, length - 1);
    }
  }
}

DataOrder::DataOrder(std::uint64_t seed, const std::string& name, std::size_t num_examples,
                     std::size_t examples_per_step)
    : stream_(seed, "data." + name),
      step_stream_(seed, "data_steps." + name),
      per_step_(examples_per_step),
      permutation_(num_examples) {}

DataOrder::DataOrder(std::uint64_t seed, const std::string& name, std::vector<std::size_t> lengths,
                     std::size_t examples_per_step)
    : DataOrder(seed, name, lengths.size(), examples_per_step) {
  lengths_ = std::move(lengths);
}

void DataOrder::group_by_length() {
  // Sorts this many steps together, as `transformers` does with batches (group_by_length).
  constexpr std::size_t kSteps = 50;
  const std::size_t stretch = kSteps * per_step_, count = permutation_.size();
  for (std::size_t first = 0; first < count; first += stretch) {
    std::stable_sort(
        permutation_.begin() + static_cast<std::ptrdiff_t>(first),
        permutation_.begin() + static_cast<std::ptrdiff_t>(std::min(count, first + stretch)),
        [&](std::uint32_t a, std::uint32_t b) { return lengths_[a] > lengths_[b]; });
  }
  // Permutes whole steps; an incomplete last step stays last.
  std::vector<std::uint32_t> order(count / per_step_);
  if (order.empty()) return;
  step_stream_.permutation(static_cast<std::uint64_t>(epoch_), order);
  std::vector<std::uint32_t> moved(permutation_);
  for (std::size_t step = 0; step < order.size(); ++step) {
    std::copy_n(permutation_.begin() + static_cast<std::ptrdiff_t>(order[step] * per_step_),
                per_step_, moved.begin() + static_cast<std::ptrdiff_t>(step * per_step_));
  }
  permutation_ = std::move(moved);
}

std::vector<std::uint32_t> DataOrder::step(std::int64_t step) {
  const std::size_t count = permutation_.size();
  const auto per_epoch = static_cast<std::int64_t>((count + per_step_ - 1) / per_step_);
  const std::int64_t epoch = step / per_epoch;
  if (epoch != epoch_) {
    stream_.permutation(static_cast<std::uint64_t>(epoch), permutation_);
    epoch_ = epoch;
    if (!lengths_.empty()) group_by_length();
  }
  const std::size_t first = static_cast<std::size_t>(step % per_epoch) * per_step_;
  const std::size_t last = std::min(count, first + per_step_);
  return {permutation_.begin() + static_cast<std::ptrdiff_t>(first),
          permutation_.begin() + static_cast<std::ptrdiff_t>(last)};
}

DataOrder data_order(const TrainOptions& options, const std::string& phase,
                     const Windows& examples) {
  const std::size_t per_step =
      options.schedule.batch_size * options.schedule.gradient_accumulation_steps;
  if (!options.schedule.group_by_length) return {options.seed, phase, examples.size(), per_step};
  std::vector<std::size_t> lengths;
  for (std::size_t w = 0; w < examples.size(); ++w) lengths.push_back(examples.length(w));
  return {options.seed, phase, std::move(lengths), per_step};
}

}  // namespace qalof::train
