// One window to train on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qalof::tasks {

/// One window. Language modelling: ids and scored alone.
struct Example {
  std::vector<std::int32_t> ids;
  std::int32_t start = 0;  // qa: the answer's first and last token, as indices into ids
  std::int32_t end = 0;
  std::int32_t label = 0;  // classification: from 0
  /// Language modelling: 1 for each token that the loss predicts; empty: all. The first has no
  /// predecessor and is never predicted.
  std::vector<std::uint8_t> scored = {};
};

/// Tokens of a window that a language model's loss predicts.
inline std::size_t num_predicted(const Example& example) {
  if (example.scored.empty()) return example.ids.empty() ? 0 : example.ids.size() - 1;
  std::size_t count = 0;
  for (std::size_t i = 1; i < example.scored.size(); ++i) count += example.scored[i];
  return count;
}

}  // namespace qalof::tasks
