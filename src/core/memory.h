// What this process does with memory it has freed.
#pragma once

#include <cstddef>

namespace qalof {

/// From now on the allocator keeps what is freed instead of handing it back to the system, which
/// would have to clear the pages of every large tensor again. For work that allocates the same
/// sizes over and over, as training steps do. The next expected_bytes are asked of the system in
/// large pages, which are cleared and found faster; they are used as they are needed. Process-wide;
/// without effect where the C library or the system has no such setting.
void keep_freed_memory(std::size_t expected_bytes = 0);

}  // namespace qalof
