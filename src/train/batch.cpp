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

RandomOrder::RandomOrder(const RandomStream& stream, std::size_t count)
    : stream_(stream), count_(count) {
  constexpr std::size_t kMostInMemory = std::size_t{1} << 20;
  if (count <= kMostInMemory) numbers_.resize(count);
}

void RandomOrder::start(std::int64_t epoch) {
  if (epoch == epoch_) return;
  epoch_ = epoch;
  stream_.permutation(static_cast<std::uint64_t>(epoch), numbers_);
}

std::uint32_t RandomOrder::operator[](std::size_t place) const {
  if (!numbers_.empty()) return numbers_[place];
  return stream_.permuted(static_cast<std::uint64_t>(epoch_), static_cast<std::uint32_t>(count_),
                          static_cast<std::uint32_t>(place));
}

DataOrder::DataOrder(std::uint64_t seed, const std::string& name, std::size_t num_examples,
                     std::size_t examples_per_step,
                     std::function<std::size_t(std::uint32_t)> length)
    : per_step_(examples_per_step),
      windows_(RandomStream(seed, "data." + name), num_examples),
      steps_(RandomStream(seed, "data_steps." + name),
             length ? num_examples / examples_per_step : 0),
      length_(std::move(length)) {}

std::vector<std::uint32_t> DataOrder::step(std::int64_t step) {
  const std::size_t count = windows_.size();
  const auto per_epoch = static_cast<std::int64_t>((count + per_step_ - 1) / per_step_);
  windows_.start(step / per_epoch);
  steps_.start(step / per_epoch);
  const auto place = static_cast<std::size_t>(step % per_epoch);
  const auto numbers = [&](std::size_t first, std::size_t size) {
    std::vector<std::uint32_t> result;
    for (std::size_t i = first; i < std::min(count, first + size); ++i)
      result.push_back(windows_[i]);
    return result;
  };
  if (!length_) return numbers(place * per_step_, per_step_);
  // This many steps are sorted together, as `transformers` does with batches (group_by_length).
  constexpr std::size_t kSteps = 50;
  const std::size_t source = place < steps_.size() ? steps_[place] : place;
  std::vector<std::uint32_t> stretch =
      numbers(source / kSteps * kSteps * per_step_, kSteps * per_step_);
  std::ranges::stable_sort(stretch, std::ranges::greater{}, length_);
  const auto first = stretch.begin() + static_cast<std::ptrdiff_t>(source % kSteps * per_step_);
  const auto left = static_cast<std::size_t>(stretch.end() - first);
  return {first, first + static_cast<std::ptrdiff_t>(std::min(per_step_, left))};
}

DataOrder data_order(const TrainOptions& options, const std::string& phase,
                     const Windows& examples) {
  const std::size_t per_step =
      options.schedule.batch_size * options.schedule.gradient_accumulation_steps;
  if (!options.schedule.group_by_length) return {options.seed, phase, examples.size(), per_step};
  return {options.seed, phase, examples.size(), per_step,
          [examples](std::uint32_t window) { return examples.length(window); }};
}

}  // namespace qalof::train
