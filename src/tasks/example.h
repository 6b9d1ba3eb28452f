// One window to train on.
#pragma once

#include <cstdint>
#include <vector>

namespace qalof::tasks {

/// One window. Language modelling: ids alone.
struct Example {
  std::vector<std::int32_t> ids;
  std::int32_t start = 0;  // qa: the answer's first and last token, as indices into ids
  std::int32_t end = 0;
  std::int32_t label = 0;  // classification: from 0
};

}  // namespace qalof::tasks
