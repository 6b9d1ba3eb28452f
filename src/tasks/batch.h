// How much of a task's data runs in one forward pass.
#pragma once

#include <cstddef>

namespace qalof::tasks {

/// Windows run together up to about this many tokens: enough rows to fill the matrix products,
/// little memory. With several executions, as many for each.
inline constexpr std::size_t kBatchTokens = 2048;

}  // namespace qalof::tasks
