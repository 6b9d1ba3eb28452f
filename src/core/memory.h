// Memory: large allocations that say what they were for, and what is done with freed memory.
#pragma once

#include <cstddef>
#include <new>
#include <stdexcept>
#include <string>

#include "core/error.h"

namespace qalof {

/// Error{kResource}: "out of memory: WHAT". What could be made smaller the command knows.
class OutOfMemory : public Error {
 public:
  explicit OutOfMemory(const std::string& what);
  /// what needs count values of so many bytes each.
  OutOfMemory(const std::string& what, std::size_t count, std::size_t bytes_each);
};

/// values.resize(count); OutOfMemory names what they are for where that fails.
template <typename Vector>
void resize_for(const std::string& what, Vector& values, std::size_t count) {
  try {
    values.resize(count);
  } catch (const std::bad_alloc&) {
    throw OutOfMemory(what, count, sizeof(values[0]));
  } catch (const std::length_error&) {
    throw OutOfMemory(what, count, sizeof(values[0]));
  }
}

/// From now on the allocator keeps what is freed instead of handing it back to the system, which
/// would have to clear the pages of every large tensor again. For work that allocates the same
/// sizes over and over, as training steps do. The next expected_bytes are asked of the system in
/// large pages, which are cleared and found faster; they are used as they are needed. Process-wide;
/// without effect where the C library or the system has no such setting.
void keep_freed_memory(std::size_t expected_bytes = 0);

}  // namespace qalof
