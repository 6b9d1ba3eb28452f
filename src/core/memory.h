// Memory: errors that say what a large allocation was for, and a setting that keeps freed memory.
#pragma once

#include <cstddef>
#include <new>
#include <stdexcept>
#include <string>

#include "core/error.h"

namespace qalof {

/// Error{kResource}: "out of memory: WHAT". Advice on what to make smaller is the command's part.
class OutOfMemory : public Error {
 public:
  explicit OutOfMemory(const std::string& what);
  /// what needs count values of bytes_each bytes.
  OutOfMemory(const std::string& what, std::size_t count, std::size_t bytes_each);
};

/// values.resize(count); throws OutOfMemory naming what the values are for where that fails.
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

/// From this call on the allocator keeps freed memory instead of returning it to the system, which
/// would have to clear the pages of every large tensor again. For work that allocates the same
/// sizes repeatedly, as training steps do. The next expected_bytes come in large pages, which are
/// cleared and mapped faster; they take memory only as they are used. Process-wide; no effect where
/// the C library or the system has no such setting.
void keep_freed_memory(std::size_t expected_bytes = 0);

}  // namespace qalof
