// Packs windows into rows without padding, and decides the order in which windows are drawn.
#pragma once

#include <cstddef>
#include <cstdint>
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

/// Draws windows: a new permutation of all of them every epoch, a function of (seed, name, epoch)
/// alone. The last step of an epoch takes the remaining windows.
///
/// With grouping by length, stretches of the permutation are sorted by length before they are cut
/// into steps, and the steps are permuted again: windows of a step have similar lengths, while
/// composition and order of steps remain random.
class DataOrder {
 public:
  DataOrder(std::uint64_t seed, const std::string& name, std::size_t num_examples,
            std::size_t examples_per_step);
  /// Groups by length; lengths [num_examples].
  DataOrder(std::uint64_t seed, const std::string& name, std::vector<std::size_t> lengths,
            std::size_t examples_per_step);
  /// Indices of a step's windows.
  std::vector<std::uint32_t> step(std::int64_t step);

 private:
  void group_by_length();

  RandomStream stream_, step_stream_;
  std::size_t per_step_;
  std::vector<std::size_t> lengths_;  // empty: no grouping by length
  std::vector<std::uint32_t> permutation_;
  std::int64_t epoch_ = -1;
};

/// The order in which a phase draws its windows.
DataOrder data_order(const TrainOptions& options, const std::string& phase,
                     const Windows& examples);

}  // namespace qalof::train
