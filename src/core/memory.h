// What this process does with memory it has freed.
#pragma once

namespace qalof {

/// From now on the allocator keeps what is freed instead of handing it back to the system, which
/// would have to clear the pages of every large tensor again. For work that allocates the same
/// sizes over and over, as training steps do. Process-wide; without effect where the C library has
/// no such setting.
void keep_freed_memory();

}  // namespace qalof
