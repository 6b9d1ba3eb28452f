// Matrix products y[m, n] = x[m, k] * w[n, k]^T on weights packed once into panels of 16 output
// rows.
//
// Invariants: an element of y depends on its own row of x and row of w only, and sums over k in
// ascending order (float) or exactly (int32), whatever m, the blocks and the number of threads.
// Panels are equal for every ISA. Limits: k <= 65,536 for the integer forms (127 * 127 * k stays
// below 2^31).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/threads.h"
#include "kernels/panel.h"
#include "kernels/quantize.h"

namespace qalof::kernels {

inline constexpr std::size_t kNarrowRows = 8;
/// The format that stores n rows of f32 in the fewest bytes.
constexpr WeightFormat f32_format(std::size_t n) {
  return n <= kNarrowRows ? WeightFormat::kNarrowF32 : WeightFormat::kF32;
}

/// A packed weight matrix; does not own its memory.
struct PackedMatrix {
  WeightFormat format = WeightFormat::kF32;
  std::size_t n = 0;
  std::size_t k = 0;
  const void* panels = nullptr;
  // [n]; required for integers, optional for kF32 (y = acc * scale).
  const float* scales = nullptr;
  const std::int32_t* code_sums = nullptr;  // [n] sum over k of the codes (integers only)
  // Integers only: number of neighbouring k that share a scale (the last group may be shorter); a
  // multiple of 8 and of the layout's columns, or 0 for one scale per row. With groups, scales,
  // code_sums and zeros are ordered as pack_groups writes them: [n/16][num_groups][16].
  std::size_t group = 0;
  // The code of 0 in each group, or null if it is 0: value = (code - zero) * scale. Requires a
  // group.
  const std::int8_t* zeros = nullptr;
};

/// Number of groups in a row of k; 1 where group is 0.
constexpr std::size_t num_groups(std::size_t k, std::size_t group) {
  return group == 0 ? 1 : (k + group - 1) / group;
}
/// Elements of a per-group array in the order [n/16][groups][16].
constexpr std::size_t grouped_count(std::size_t n, std::size_t groups) {
  return (n + kPanelRows - 1) / kPanelRows * groups * kPanelRows;
}
/// src is [n, groups]; dst holds grouped_count(n, groups), padded with zeros.
void pack_groups(const float* src, std::size_t n, std::size_t groups, float* dst);
void pack_groups(const std::int32_t* src, std::size_t n, std::size_t groups, std::int32_t* dst);
void pack_groups(const std::int8_t* src, std::size_t n, std::size_t groups, std::int8_t* dst);

std::size_t packed_matrix_bytes(WeightFormat format, std::size_t n, std::size_t k);
/// src is row-major [n, k]; dst holds packed_matrix_bytes. stride is the distance between rows in
/// elements; with transposed the source is [k, n] instead (element (row, col) at src[col * stride +
/// row]). format is kF32, or kNarrowF32 for n up to kNarrowRows; products with either are
/// bit-equal.
void pack_f32(const float* src, std::size_t n, std::size_t k, std::size_t stride, bool transposed,
              float* dst, ParallelFor& parallel, WeightFormat format = WeightFormat::kF32);
void pack_bf16(const float* src, std::size_t n, std::size_t k, std::uint16_t* dst,
               ParallelFor& parallel);
/// Codes in -127..127 for kInt8, -8..7 for kInt4, -4..3 for kInt3, -2..1 for kInt2. code_sums [n].
void pack_codes(const std::int8_t* codes, std::size_t n, std::size_t k, WeightFormat format,
                void* dst, std::int32_t* code_sums, ParallelFor& parallel);
/// pack_codes with a sum per group: grouped_count(n, num_groups(k, group)) sums in the order of
/// pack_groups. The panels do not depend on the group.
void pack_codes(const std::int8_t* codes, std::size_t n, std::size_t k, WeightFormat format,
                std::size_t group, void* dst, std::int32_t* code_sums, ParallelFor& parallel);
void unpack_codes(const PackedMatrix& w, std::int8_t* codes);

enum class Accumulate { kStore, kAdd };  // y = value, or y += value

/// y = alpha * (x w^T) [* scales] + bias for float weights (kBf16: x must hold bf16 values, so
/// round it first). x is [m, k] with row distance x_stride, y is [m, n] with row distance n. bias
/// [n] or null. kAdd requires a null bias.
void gemm_f32(const float* x, std::size_t m, std::size_t x_stride, const PackedMatrix& w,
              float alpha, const float* bias, Accumulate accumulate, float* y,
              ParallelFor& parallel);

/// A low-rank product that is added while y is in the cache, bit-equal to a gemm_f32 that adds it
/// afterwards: y += scaling * inner b^T.
struct LowRankSum {
  const float* inner = nullptr;  // [m, r]
  PackedMatrix b;                // [n, r], kF32
  float scaling = 1.0F;
};

/// The product before LowRankSum, inner = x a^T [m, r], computed from unscaled, unrounded x while
/// its rows are in the cache.
struct LowRankInput {
  PackedMatrix a;  // [r, k], f32_format(r)
  float* inner = nullptr;
};

/// y = bf16(x * x_scales) w^T + bias for kBf16 weights: on its way into the product, x [m, k] is
/// scaled per column (x_scales [k] or null) and rounded. Sums as in gemm_f32. bias, sum and input
/// may be null.
void gemm_bf16(const float* x, std::size_t m, const float* x_scales, const PackedMatrix& w,
               const float* bias, float* y, ParallelFor& parallel, const LowRankSum* sum = nullptr,
               const LowRankInput* input = nullptr);

/// y [r, n] = alpha * a^T x for a [m, r] with few columns and x [m, n], both dense: x is read once,
/// and every sum is one chain over ascending m.
void gemm_transposed(const float* a, std::size_t m, std::size_t r, const float* x, std::size_t n,
                     float alpha, float* y, ParallelFor& parallel);

/// Integer product: y = float(sum x_codes * w_codes) * w.scales[n] * x_scales[m] + bias, evaluated
/// in that order with one rounding each (no fused multiply-add), so y is bit-equal on every ISA.
/// x_codes [m, k] in -127..127. With groups
///   y = (sum over ascending g of w.scales[n, g] * float(sum of x_codes * (w_codes - zero) in g))
///       * x_scales[m] + bias,
/// the sum starting at 0, again with one rounding each. x_groups: x_scales is [m, groups] for the
/// weights' groups, and each group's sum is multiplied by its own scale instead of x_scales[m]. sum
/// may be null.
void gemm_int(const std::int8_t* x_codes, const float* x_scales, std::size_t m,
              const PackedMatrix& w, const float* bias, float* y, ParallelFor& parallel,
              const LowRankSum* sum = nullptr, bool x_groups = false);
/// y [m, n] += sum over ascending j with |x[i, j]| >= threshold of x[i, j] * value(w[n, j]), where
/// value is f32(code * scale), each term f32(x * value), and each addition is rounded once;
/// bit-equal on every ISA. w is kInt8 without groups.
void add_outliers(const float* x, std::size_t m, float threshold, const PackedMatrix& w, float* y,
                  ParallelFor& parallel);
class Hadamard;

/// Rows of x [m, k] and the operation that a decoder applies to them before a product.
struct RowInput {
  enum class Op {
    kNone,
    kLayerNorm,
    kGeluTanh,
    kGeluErf,
    kRmsNorm,
    kSwiGlu,
    kGeGluTanh,
    kGeGluErf
  };
  const float* x = nullptr;
  Op op = Op::kNone;
  const float* gamma = nullptr;  // [k], with beta and eps of kLayerNorm, eps of kRmsNorm
  const float* beta = nullptr;
  float eps = 0.0F;
  // [m, k], receives the rows after the operation; may be x unless op is a norm, and null where
  // they are not needed.
  float* result = nullptr;
  // [m, k], the second factor of kSwiGlu, kGeGluTanh and kGeGluErf; x is the gate.
  const float* up = nullptr;
  // Floats between rows of x and up with a second factor, where they are not dense; 0: k. result is
  // then other memory.
  std::size_t stride = 0;
  // Rotates the rows after the operation; null: no rotation. Not with kNone, whose x is const.
  const Hadamard* hadamard = nullptr;
};
/// y += scaling * (x a^T) b^T, a low-rank adapter added to a product.
struct LowRankProduct {
  PackedMatrix a;  // [r, k], f32_format(r)
  PackedMatrix b;  // [n, r], kF32
  float scaling = 1.0F;
};
/// quantize_rows, gemm_int and, with an adapter, the two gemm_f32 that add it, fused into one pass
/// over the rows and one over y; bit-equal to the separate calls. The rows are quantized after
/// their operation. bits in 2..8. adapter may be null; with one, input.result must not be null if
/// there is an operation, and inner is memory for [m, r]. range says how rows are quantized; its
/// group is 0 or the weights'.
void quantize_gemm_int(const RowInput& input, int bits, std::size_t m, const PackedMatrix& w,
                       const float* bias, const LowRankProduct* adapter, float* inner, float* y,
                       ParallelFor& parallel, const RowRange& range = {});
/// The integer sums without scales: acc [m, n]. w without groups.
void gemm_int_acc(const std::int8_t* x_codes, std::size_t m, const PackedMatrix& w,
                  std::int32_t* acc, ParallelFor& parallel);

}  // namespace qalof::kernels
