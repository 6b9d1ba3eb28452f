// Memory layout of the cached keys or values of one kv head: the rows of a head are contiguous, so
// that attention reads them in order. Plain data, also for files of one instruction set
// (kernel_table.h). Not for: filling the cache (runtime/kv_cache.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace qalof::kernels {

enum class KvFormat : std::uint8_t {
  kF32,
  kBf16,
  kInt8,  // a byte per code
  kInt4,  // code + 8 in a nibble, low nibble first
};

/// Rows [tokens, head_dim] of one kv head; value = code * scale of the row. Rows are padded with
/// zeros to a multiple of eight elements.
struct StoredKv {
  const void* rows = nullptr;
  const float* scales = nullptr;  // [tokens]; null where the rows are floats
  std::size_t row_bytes = 0;
  KvFormat format = KvFormat::kF32;
  std::size_t scale_stride = 1;  // of scales; other than 1 only where attention multiplies codes
};

constexpr std::size_t stored_row_bytes(KvFormat format, std::size_t head_dim) {
  const std::size_t padded = (head_dim + 7) / 8 * 8;
  switch (format) {
    case KvFormat::kF32:
      return padded * 4;
    case KvFormat::kBf16:
      return padded * 2;
    case KvFormat::kInt8:
      return padded;
    case KvFormat::kInt4:
      return padded / 2;
  }
  return 0;
}

}  // namespace qalof::kernels
