// How keys and values of one kv head lie in a cache: rows of one head behind each other, so that
// attention reads them in order. Plain data, for instruction-set files too (kernel_table.h). Not
// for: filling them (runtime/kv_cache.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace qalof::kernels {

enum class KvFormat : std::uint8_t {
  kF32,
  kBf16,
  kInt8,  // a byte per code
  kInt4,  // code + 8 in a nibble, the low one first
};

/// Rows [tokens, head_dim] of one kv head; real = code * scale of the row. Rows are padded to a
/// multiple of eight elements whose value is zero.
struct StoredKv {
  const void* rows = nullptr;
  const float* scales = nullptr;  // [tokens]; null where the rows are floats
  std::size_t row_bytes = 0;
  KvFormat format = KvFormat::kF32;
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
