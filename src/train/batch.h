// Packs windows into rows without padding, and decides the order in which windows are drawn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/random.h"
#include "model/config.h"
#include "train/options.h"

namespace qalof::train {

/// Concatenated windows: [tokens] rows, of which window w holds offsets[w] .. offsets[w + 1] - 1.
struct PackedBatch {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> positions;
  std::vector<std::uint8_t> scored;  // [tokens]: Example::scored
  std::vector<std::size_t> offsets = {0};
  std::vector<std::int32_t> starts, ends;  // [window], relative to the window's first token
  std::vector<std::int32_t> labels;        // [window]

  std::size_t tokens() const { return ids.size(); }
  std::size_t windows() const { return offsets.size() - 1; }
  void add(const Example& example);
};

/// Error{kBadInput} names the first window that the model or the task cannot take.
void check_examples(const Windows& examples, const model::ModelConfig& config,
                    const TrainOptions& options);

/// The numbers 0 .. count-1 in a random order, a new one every epoch. Above a million of them the
/// order is computed as it is asked for, so that memory does not grow with the data.
class RandomOrder {
 public:
  RandomOrder(const RandomStream& stream, std::size_t count);
  void start(std::int64_t epoch);
  std::size_t size() const { return count_; }
  std::uint32_t operator[](std::size_t place) const;

 private:
  RandomStream stream_;
  std::size_t count_;
  std::int64_t epoch_ = -1;
  std::vector<std::uint32_t> numbers_;  // empty: computed
};

/// Draws windows: a new permutation of all of them every epoch, a function of (seed, name, epoch)
/// alone. The last step of an epoch takes the remaining windows.
///
/// With grouping by length, stretches of the permutation are sorted by length before they are cut
/// into steps, and the steps are permuted again: windows of a step have similar lengths, while
/// composition and order of steps remain random.
class DataOrder {
 public:
  /// Groups by length(window); null: no grouping.
  DataOrder(std::uint64_t seed, const std::string& name, std::size_t num_examples,
            std::size_t examples_per_step,
            std::function<std::size_t(std::uint32_t)> length = nullptr);
  /// Indices of a step's windows.
  std::vector<std::uint32_t> step(std::int64_t step);

 private:
  std::size_t per_step_;
  RandomOrder windows_;
  RandomOrder steps_;                                 // the incomplete last one stays last
  std::function<std::size_t(std::uint32_t)> length_;  // null: no grouping by length
};

/// The order in which a phase draws its windows.
DataOrder data_order(const TrainOptions& options, const std::string& phase,
                     const Windows& examples);

}  // namespace qalof::train
