// Group schemes: scale, zero point and codes of a few neighbouring weights (docs/numerics.md,
// "Group schemes"). Weights are quantized once, so the compiler's own vectors of the baseline will
// do.
#include <algorithm>

#include "core/error.h"
#include "kernels/bf16.h"
#include "kernels/gemm.h"
#include "kernels/kernel_table.h"
#include "kernels/parallel.h"
#include "kernels/quantize.h"

namespace qalof::kernels {

namespace {

constexpr std::uint16_t kLargestBf16 = 0x7F7F;

// Finite ones only, so that a range beyond f32 leaves a finite scale.
float scale_from(float step) {
  return float_from_bf16(std::min(bf16_from_float(step), kLargestBf16));
}

// rint of numbers below 2^22 in size, ties to even; a function of the C library is not vectorized.
// Quotients stay below 512: a scale is at most a half too small, where it is subnormal.
float round_small(float value) {
  constexpr float kShift = 0x1.8p23F;
  return (value + kShift) - kShift;
}

// code = clamp(rint(x / scale) + zero)
void make_codes(const float* x, std::size_t count, float scale, float zero, float low, float high,
                std::int8_t* codes) {
  if (scale == 0.0F) {
    std::fill_n(codes, count, static_cast<std::int8_t>(zero));
    return;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const float code = round_small(x[i] / scale) + zero;
    codes[i] = static_cast<std::int8_t>(std::min(std::max(code, low), high));
  }
}

void quantize_symmetric(const float* x, std::size_t count, int bits, std::int8_t* codes,
                        float* scale) {
  const auto levels = static_cast<float>((1 << (bits - 1)) - 1);
  *scale = scale_from(active_table().max_abs(x, count) / levels);
  make_codes(x, count, *scale, 0.0F, -levels, levels, codes);
}

void quantize_asymmetric(const float* x, std::size_t count, int bits, std::int8_t* codes,
                         float* scale, std::int8_t* zero) {
  float low = 0.0F, high = 0.0F;  // 0 always has a code
  for (std::size_t i = 0; i < count; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  const auto top = static_cast<float>((1 << (bits - 1)) - 1);
  // -128 is left out: not every instruction set multiplies it by a code without saturation.
  const float bottom = std::max(-top - 1.0F, -127.0F);
  *scale = scale_from((high - low) / (top - bottom));
  const float below = *scale == 0.0F ? 0.0F : low / *scale;
  const float point = std::min(round_small(bottom - below), top);
  *zero = static_cast<std::int8_t>(point);
  make_codes(x, count, *scale, point, bottom, top, codes);
}

// Calls body(group's number over all rows, its first element, its elements).
template <typename Body>
void for_groups(std::size_t rows, std::size_t cols, std::size_t group, ParallelFor& parallel,
                const Body& body) {
  const std::size_t groups = num_groups(cols, group);
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      for (std::size_t g = 0; g < groups; ++g)
        body(row * groups + g, row * cols + g * group, std::min(group, cols - g * group));
    }
  });
}

}  // namespace

void quantize_groups(const float* src, std::size_t rows, std::size_t cols, int bits,
                     std::size_t group, std::int8_t* codes, float* scales, std::int8_t* zeros,
                     ParallelFor& parallel) {
  QALOF_CHECK(group > 0 && bits >= 2 && bits <= 8, ErrorKind::kInternal,
              "quantize_groups: groups of {} at {} bits", group, bits);
  for_groups(
      rows, cols, group, parallel, [&](std::size_t at, std::size_t first, std::size_t count) {
        if (zeros == nullptr) {
          quantize_symmetric(src + first, count, bits, codes + first, scales + at);
        } else {
          quantize_asymmetric(src + first, count, bits, codes + first, scales + at, zeros + at);
        }
      });
}

void dequantize_groups(const std::int8_t* codes, const float* scales, const std::int8_t* zeros,
                       std::size_t rows, std::size_t cols, std::size_t group, float* dst,
                       ParallelFor& parallel) {
  for_groups(rows, cols, group, parallel,
             [&](std::size_t at, std::size_t first, std::size_t count) {
               const int zero = zeros == nullptr ? 0 : zeros[at];
               for (std::size_t i = first; i < first + count; ++i)
                 dst[i] = static_cast<float>(codes[i] - zero) * scales[at];
             });
}

}  // namespace qalof::kernels
