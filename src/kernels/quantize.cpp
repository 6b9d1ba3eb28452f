// Drivers of the quantizer: rows over threads, with the scale formulas in one place.
#include "kernels/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gemm.h"
#include "kernels/kernel_table.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

namespace {

constexpr float kEpsilon = 1e-6F;  // of scheme minmax, in both places of its formula

}  // namespace

RowScale seed_row_scale(float max_abs, int bits) {
  // Reciprocal first, then times L: two roundings, as PyTorch evaluates the original expression.
  const float reciprocal = 1.0F / (max_abs + kEpsilon);
  const float multiplier = static_cast<float>(level_count(bits)) * reciprocal;
  return {multiplier, 1.0F / (multiplier + kEpsilon)};
}

void quantize_rows(const float* src, std::size_t rows, std::size_t cols, int bits,
                   std::int8_t* codes, float* scales, ParallelFor& parallel) {
  quantize_rows(src, rows, cols, bits, RowRange{}, codes, scales, parallel);
}

namespace {

// Quantizes elements that share a range (docs/numerics.md, "Activations").
float quantize_range(const KernelTable& table, const float* x, std::size_t count, int bits,
                     const RowRange& range, std::int8_t* codes) {
  // An asymmetric code of 8 bits minus the code of 0 would need nine bits.
  if (!range.asymmetric || bits == 8) {
    const RowScale scale = seed_row_scale(table.max_abs(x, count) * range.clip, bits);
    if (range.clip == 1.0F) {
      table.quantize(x, count, scale.multiplier, codes);
    } else {
      const int levels = level_count(bits);
      table.quantize_within(x, count, scale.multiplier, -levels, levels, codes);
    }
    return scale.scale;
  }
  float low = 0.0F, high = 0.0F;
  table.min_max(x, count, &low, &high);
  low *= range.clip;
  high *= range.clip;
  const int steps = (1 << bits) - 1;
  const float reciprocal = 1.0F / ((high - low) + kEpsilon);
  const float multiplier = static_cast<float>(steps) * reciprocal;
  const int bottom = static_cast<int>(std::nearbyint(low * multiplier));
  table.quantize_within(x, count, multiplier, bottom, bottom + steps, codes);
  return 1.0F / (multiplier + kEpsilon);
}

}  // namespace

void quantize_row(const KernelTable& table, const float* x, std::size_t count, int bits,
                  const RowRange& range, std::int8_t* codes, float* scales) {
  const std::size_t length = range.group == 0 ? count : range.group;
  for (std::size_t begin = 0; begin == 0 || begin < count; begin += length) {
    *scales++ = quantize_range(table, x + begin, std::min(length, count - begin), bits, range,
                               codes + begin);
  }
}

void quantize_rows(const float* src, std::size_t rows, std::size_t cols, int bits,
                   const RowRange& range, std::int8_t* codes, float* scales,
                   ParallelFor& parallel) {
  const KernelTable& table = active_table();
  const std::size_t groups = num_groups(cols, range.group);
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      quantize_row(table, src + row * cols, cols, bits, range, codes + row * cols,
                   scales + row * groups);
    }
  });
}

void dequantize_rows(const std::int8_t* codes, const float* scales, std::size_t rows,
                     std::size_t cols, float* dst, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      table.dequantize(codes + row * cols, cols, scales[row], dst + row * cols);
    }
  });
}

void fake_quantize_kv(const float* src, std::size_t rows, std::size_t heads, std::size_t head_dim,
                      const int* head_bits, float* dst, std::int8_t* codes, float* scales,
                      ParallelFor& parallel) {
  const KernelTable& table = active_table();
  const std::size_t cols = heads * head_dim;
  const bool any_integer =
      std::any_of(head_bits, head_bits + heads, [](int bits) { return bits <= 8; });
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const float max_abs = any_integer ? table.max_abs(src + row * cols, cols) : 0.0F;
      for (std::size_t head = 0; head < heads; ++head) {
        const float* x = src + row * cols + head * head_dim;
        float* y = dst == nullptr ? nullptr : dst + row * cols + head * head_dim;
        std::int8_t* head_codes = codes == nullptr ? nullptr : codes + row * cols + head * head_dim;
        float scale = 1.0F;
        if (head_bits[head] <= 8) {
          const RowScale row_scale = seed_row_scale(max_abs, head_bits[head]);
          scale = row_scale.scale;
          if (head_codes != nullptr) table.quantize(x, head_dim, row_scale.multiplier, head_codes);
          if (y != nullptr) table.fake_quantize(x, head_dim, row_scale.multiplier, scale, y);
        } else {
          if (head_codes != nullptr) std::memset(head_codes, 0, head_dim);
          if (head_bits[head] == 16) {
            table.round_to_bf16(x, head_dim, y);
          } else if (x != y) {
            std::memcpy(y, x, head_dim * sizeof(float));
          }
        }
        if (scales != nullptr) scales[row * heads + head] = scale;
      }
    }
  });
}

void round_to_bf16(const float* src, std::size_t count, float* dst, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, count, kMinPiece, [&](std::size_t begin, std::size_t end) {
    table.round_to_bf16(src + begin, end - begin, dst + begin);
  });
}

std::size_t packed_code_bytes(std::size_t count, int bits) {
  return bits <= 4 ? (count + 1) / 2 : count;
}

void pack_code_bits(const std::int8_t* codes, std::size_t count, int bits, std::uint8_t* dst) {
  if (bits > 4) {
    std::memcpy(dst, codes, count);
    return;
  }
  for (std::size_t i = 0; i < count; i += 2) {
    const int low = codes[i] + 8;
    const int high = i + 1 < count ? codes[i + 1] + 8 : 8;
    dst[i / 2] = static_cast<std::uint8_t>(low | (high << 4));
  }
}

bool unpack_code_bits(const std::uint8_t* src, std::size_t count, int bits, std::int8_t* codes) {
  const int level = level_count(bits);
  bool valid = true;
  for (std::size_t i = 0; i < count; ++i) {
    const int code =
        bits > 4 ? static_cast<std::int8_t>(src[i]) : ((src[i / 2] >> (i % 2 * 4)) & 15) - 8;
    valid = valid && code >= -level && code <= level;
    codes[i] = static_cast<std::int8_t>(code);
  }
  return valid;
}

}  // namespace qalof::kernels
