// Group schemes: scale, zero point and codes of a few neighbouring weights (docs/numerics.md,
// "Group schemes"). Weights are quantized once, so the compiler's vectors for the baseline CPU are
// fast enough.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/bf16.h"
#include "kernels/gemm.h"
#include "kernels/kernel_table.h"
#include "kernels/parallel.h"
#include "kernels/quantize.h"

namespace qalof::kernels {

namespace {

constexpr std::uint16_t kLargestBf16 = 0x7F7F;

// Rounds to a finite bfloat16, so that a range beyond f32 still gives a finite scale.
float scale_from(float step) {
  return float_from_bf16(std::min(bf16_from_float(step), kLargestBf16));
}

// rint for |value| < 2^22, ties to even; the C library's is not vectorized. Quotients stay below
// 512: a scale is too small by half at most, where it is subnormal.
float round_small(float value) {
  constexpr float kShift = 0x1.8p23F;
  return (value + kShift) - kShift;
}

// The grid of a group: value = (code - zero) * scale, codes in low..high.
struct Grid {
  float scale = 0.0F, zero = 0.0F, low = 0.0F, high = 0.0F;

  float code(float x) const { return std::min(std::max(round_small(x / scale) + zero, low), high); }
  // x less its value.
  float error(float x) const { return scale == 0.0F ? x : x - (code(x) - zero) * scale; }
};

void make_codes(const float* x, std::size_t count, const Grid& grid, std::int8_t* codes) {
  if (grid.scale == 0.0F) {
    std::fill_n(codes, count, static_cast<std::int8_t>(grid.zero));
    return;
  }
  for (std::size_t i = 0; i < count; ++i) codes[i] = static_cast<std::int8_t>(grid.code(x[i]));
}

Grid symmetric_grid(float max_abs, int bits) {
  const auto levels = static_cast<float>(level_count(bits));
  return {scale_from(max_abs / levels), 0.0F, -levels, levels};
}

Grid asymmetric_grid(float low, float high, int bits) {
  const auto top = static_cast<float>(level_count(bits));
  // -128 is not used: not every instruction set multiplies it by a code without saturation.
  const float bottom = std::max(-top - 1.0F, -127.0F);
  const float scale = scale_from((high - low) / (top - bottom));
  const float below = scale == 0.0F ? 0.0F : low / scale;
  return {scale, std::min(round_small(bottom - below), top), bottom, top};
}

// The range of a group, 0 included, and the grids of parts of that range.
struct Range {
  float max_abs = 0.0F, low = 0.0F, high = 0.0F;
  bool asymmetric = false;

  Range(const float* x, std::size_t count, bool is_asymmetric) : asymmetric(is_asymmetric) {
    if (asymmetric) {
      active_table().min_max(x, count, &low, &high);
    } else {
      max_abs = active_table().max_abs(x, count);
    }
  }
  Grid grid(float part, int bits) const {
    return asymmetric ? asymmetric_grid(low * part, high * part, bits)
                      : symmetric_grid(max_abs * part, bits);
  }
};

// Sum of squared errors in a fixed order; stops early with any number >= limit.
template <typename Error>
float squared_error(const float* x, std::size_t count, float limit, const Error& error) {
  constexpr std::size_t kLanes = 8, kCheck = 64;
  float sums[kLanes] = {};
  float total = 0.0F;
  for (std::size_t begin = 0; begin < count; begin += kCheck) {
    const std::size_t end = std::min(count, begin + kCheck);
    std::size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const float difference = error(x[i + lane]);
        sums[lane] += difference * difference;
      }
    }
    for (std::size_t lane = 0; i < end; ++i, ++lane) {
      const float difference = error(x[i]);
      sums[lane] += difference * difference;
    }
    total = 0.0F;
    for (const float sum : sums) total += sum;
    if (total >= limit) return total;
  }
  return total;
}

float square(float x) { return x * x; }

// The part of the range with the least error(part, limit); of equal ones the larger.
template <typename Error>
float best_part(const Error& error) {
  float best = 1.0F, least = std::numeric_limits<float>::infinity();
  for (int step = 0; step < 100; ++step) {
    const float part = static_cast<float>(125 - step) / 125.0F;
    const float found = error(part, least);
    if (found >= least) continue;
    least = found;
    best = part;
  }
  return best;
}

// Calls body(group index over all rows, index of its first element, number of elements).
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

namespace {

void quantize_groups_with(const float* src, std::size_t rows, std::size_t cols, int bits,
                          std::size_t group, bool search, std::int8_t* codes, float* scales,
                          std::int8_t* zeros, ParallelFor& parallel) {
  QALOF_CHECK(group > 0 && bits >= 2 && bits <= 8, ErrorKind::kInternal,
              "quantize_groups: groups of {} at {} bits", group, bits);
  for_groups(
      rows, cols, group, parallel, [&](std::size_t at, std::size_t first, std::size_t count) {
        const float* x = src + first;
        const Range range(x, count, zeros != nullptr);
        const auto error = [&](float part, float limit) {
          const Grid grid = range.grid(part, bits);
          // No sum is below one of its terms: the ends of the range, which a small part cuts off,
          // rule out most parts. (An end of 0 need not be an element, but has no error.)
          const float ends = range.asymmetric ? std::max(square(grid.error(range.low)),
                                                         square(grid.error(range.high)))
                                              : square(grid.error(range.max_abs));
          if (ends >= limit) return ends;
          return squared_error(x, count, limit, [&](float value) { return grid.error(value); });
        };
        const Grid grid = range.grid(search ? best_part(error) : 1.0F, bits);
        make_codes(x, count, grid, codes + first);
        scales[at] = grid.scale;
        if (zeros != nullptr) zeros[at] = static_cast<std::int8_t>(grid.zero);
      });
}

}  // namespace

void quantize_groups(const float* src, std::size_t rows, std::size_t cols, int bits,
                     std::size_t group, std::int8_t* codes, float* scales, std::int8_t* zeros,
                     ParallelFor& parallel) {
  quantize_groups_with(src, rows, cols, bits, group, /*search=*/false, codes, scales, zeros,
                       parallel);
}

void quantize_groups_least_error(const float* src, std::size_t rows, std::size_t cols, int bits,
                                 std::size_t group, std::int8_t* codes, float* scales,
                                 std::int8_t* zeros, ParallelFor& parallel) {
  quantize_groups_with(src, rows, cols, bits, group, /*search=*/true, codes, scales, zeros,
                       parallel);
}

namespace {

constexpr float kNestedTop = 119.0F;  // 7 * 16 + 7: the largest code whose high part fits 4 bits

// Half of a nested code's range on either side of 0; the scale stays finite when it is multiplied
// by 16.
Grid nested_symmetric_grid(float max_abs) {
  const float largest = float_from_bf16(kLargestBf16) / 16.0F;
  return {std::min(scale_from(max_abs / kNestedTop), largest), 0.0F, -kNestedTop, kNestedTop};
}

// The zero is rounded up to a multiple of 16, for which 16 of the 247 codes are spare.
Grid nested_asymmetric_grid(float low, float high) {
  constexpr float kBottom = -127.0F, kUsed = kNestedTop - kBottom - 16.0F;
  const float largest = float_from_bf16(kLargestBf16) / 16.0F;
  const float scale = std::min(scale_from((high - low) / kUsed), largest);
  const float below = scale == 0.0F ? 0.0F : low / scale;
  const float zero = 16.0F * std::ceil((kBottom - below) / 16.0F);
  return {scale, std::min(zero, 112.0F), kBottom, kNestedTop};
}

// As scheme minmax, with 119 levels.
void quantize_nested_row(const KernelTable& table, const float* x, std::size_t count,
                         std::int8_t* codes, float* scale) {
  const float multiplier = kNestedTop * (1.0F / (table.max_abs(x, count) + 1e-6F));
  *scale = 1.0F / (multiplier + 1e-6F);
  constexpr int kTop = static_cast<int>(kNestedTop);
  table.quantize_within(x, count, multiplier, -kTop, kTop, codes);
}

}  // namespace

void quantize_nested(const float* src, std::size_t rows, std::size_t cols, std::size_t group,
                     std::int8_t* codes, float* scales, std::int8_t* zeros, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  const std::size_t length = group == 0 ? cols : group;
  for_groups(rows, cols, length, parallel,
             [&](std::size_t at, std::size_t first, std::size_t count) {
               const float* x = src + first;
               if (group == 0)
                 return quantize_nested_row(table, x, count, codes + first, scales + at);
               const Range range(x, count, zeros != nullptr);
               const Grid grid = zeros == nullptr ? nested_symmetric_grid(range.max_abs)
                                                  : nested_asymmetric_grid(range.low, range.high);
               make_codes(x, count, grid, codes + first);
               scales[at] = grid.scale;
               if (zeros != nullptr) zeros[at] = static_cast<std::int8_t>(grid.zero);
             });
}

void quantize_rows_least_error(const float* src, std::size_t rows, std::size_t cols, int bits,
                               std::int8_t* codes, float* scales, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  const auto levels = static_cast<float>(level_count(bits));
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const float* x = src + row * cols;
      const float max_abs = table.max_abs(x, cols);
      const float part = best_part([&](float candidate, float limit) {
        const RowScale scale = seed_row_scale(max_abs * candidate, bits);
        return squared_error(x, cols, limit, [&](float value) {
          const float code = round_small(value * scale.multiplier);
          return value - std::min(std::max(code, -levels), levels) * scale.scale;
        });
      });
      quantize_row(table, x, cols, bits, {.clip = part}, codes + row * cols, scales + row);
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
