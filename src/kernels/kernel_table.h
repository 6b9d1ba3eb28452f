// The functions that an instruction set supplies: plain functions on raw ranges, without threads,
// allocation or checks. The drivers (quantize.cpp, gemm.cpp, ops.cpp, attention.cpp) split work and
// call them. Internal to src/kernels.
//
// A file compiled for an instruction set includes this header, that of the vector instructions
// (<immintrin.h>, <arm_neon.h>) and nothing else, and
// keeps its functions in an unnamed namespace: the linker keeps one copy of an inline library
// function, and if it were the one compiled there, it would fail on older CPUs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/panel.h"
#include "kernels/stored_kv.h"

namespace qalof::kernels {

/// y += scaling * inner b^T on a block's rows and panels.
struct LowRankBlock {
  const float* inner;  // [rows, rank]
  std::size_t rank;
  const float* panels;  // kF32
  float scaling;
};

/// A block of rows of x times a run of panels; the panel layouts are those of WeightFormat
/// (gemm.h).
struct FloatGemmBlock {
  const float* x;
  const void* prepared;  // the rows as prepare_bf16 left them, prepared_stride apart; kBf16 only
  std::size_t prepared_stride;  // bytes
  std::size_t rows;
  std::size_t x_stride;
  std::size_t k;
  const void* panels;
  std::size_t n;        // outputs of this run; the last panel may be partly used
  const float* scales;  // [n] or null
  const float* bias;    // [n] or null
  float alpha;
  bool add;  // y += value
  float* y;
  std::size_t y_stride;
  // Only for tables with adds_low_rank, and products that compute y as a whole: the low-rank
  // product to add, or null; and whether stores of y bypass the caches.
  const LowRankBlock* low_rank = nullptr;
  bool streams = false;
};

struct IntGemmBlock {
  const std::int8_t* x;  // [rows, k]
  std::size_t x_stride;
  const void* prepared;         // the rows as the format's prepare left them
  std::size_t prepared_stride;  // bytes
  std::size_t rows;
  std::size_t k;
  const void* panels;
  std::size_t n;
  // For products with groups only; for those, per-output values are [n/16][groups][16].
  std::size_t group;
  std::size_t groups;
  const std::int8_t* zeros;       // or null
  const std::int32_t* x_sums;     // [rows, groups] sums of codes; with zeros or an offset
  const std::int32_t* code_sums;  // [n] sums of the weights' codes; read for kInt8 only
  const float* x_scales;          // [rows]
  // [rows, groups], then x_scales are all 1; or null
  const float* x_group_scales = nullptr;
  const float* w_scales;  // [n]
  const float* bias;      // [n] or null
  float* y;               // null: the sums are stored to acc
  std::int32_t* acc;
  std::size_t y_stride;                    // of y and acc
  const LowRankBlock* low_rank = nullptr;  // as in FloatGemmBlock
  bool streams = false;
};

/// Bytes from one prepared row to the next: whole cache lines plus one, so that rows do not share a
/// cache set.
constexpr std::size_t prepared_stride(std::size_t k, std::size_t element_bytes) {
  return (k * element_bytes + 63) / 64 * 64 + 64;
}

/// Converts one row of x into the form that a format's products read; run is null where they read x
/// itself.
template <typename T>
struct PrepareRow {
  void (*run)(const T* x, std::size_t k, void* dst) = nullptr;
  std::size_t element_bytes = 0;
  bool rounds = false;  // to bfloat16, flushing subnormal numbers to zero
};

/// Products of one integer format of weights.
struct IntProducts {
  void (*gemm)(const IntGemmBlock& block) = nullptr;
  /// Of weights with groups; null: composed of gemm per group.
  void (*grouped)(const IntGemmBlock& block) = nullptr;
  PrepareRow<std::int8_t> prepare{};
};

/// out[r, :] += sum over ascending j < counts of w[r, j] * v[j, :].
struct WeighRows {
  const float* weights;
  std::size_t row_stride, column_stride;  // of weights
  std::size_t rows;
  std::size_t first_count, count_step;  // row r has first_count + r * count_step terms
  const float* v;
  std::size_t v_stride;
  std::size_t dim;
  float* out;
  std::size_t out_stride;
};

/// Longest head_dim of attention on codes, and bytes of its queries and weights.
inline constexpr std::size_t kMostCodeDim = 256;
inline constexpr int kCodeDigits = 3;

/// What belongs to a rounded query: its scale, and what sums of its digits start at.
struct CodeQuery {
  float scale;
  std::int32_t starts[kCodeDigits];
};
/// Query rows against the keys of one kv head. Row r sees keys 0 .. seen + r / rows_per_key, and
/// scores of other keys are not defined.
struct CodeScores {
  const std::int8_t* queries;  // as round_query leaves them
  std::size_t query_stride;    // bytes
  const CodeQuery* scales;     // [rows]
  std::size_t rows, rows_per_key, seen;
  StoredKv keys;  // kInt8 or kInt4, scales one after the other
  std::size_t num_keys, dim;
  float scale;
  float* scores;
  std::size_t score_stride;  // at least num_keys rounded up to 32
};
/// The rows of out as sums of the values of one kv head; rows see keys as above.
struct CodeWeights {
  const std::uint8_t* weights;       // as round_weights leaves them
  std::size_t weight_stride, plane;  // bytes
  const float* units;                // [rows]
  std::size_t rows, rows_per_key, seen;
  StoredKv values;  // without scales, which weights contain
  std::size_t num_keys, dim;
  float* const* out;  // [rows], dim floats each
};

struct KernelTable {
  // quantize
  float (*max_abs)(const float* x, std::size_t count);
  /// The least and the largest of the elements and 0; x is finite.
  void (*min_max)(const float* x, std::size_t count, float* low, float* high);
  void (*quantize)(const float* x, std::size_t count, float multiplier, std::int8_t* codes);
  /// quantize, with codes limited to low..high.
  void (*quantize_within)(const float* x, std::size_t count, float multiplier, int low, int high,
                          std::int8_t* codes);
  void (*dequantize)(const std::int8_t* codes, std::size_t count, float scale, float* dst);
  void (*fake_quantize)(const float* x, std::size_t count, float multiplier, float scale,
                        float* dst);
  void (*round_to_bf16)(const float* x, std::size_t count, float* dst);
  void (*round_stochastically)(const float* x, std::size_t count, float multiplier,
                               std::uint32_t key, std::int8_t* codes);
  std::int32_t (*sum_codes)(const std::int8_t* codes, std::size_t count);
  // gemm
  void (*gemm_f32)(const FloatGemmBlock& block);
  void (*gemm_narrow_f32)(const FloatGemmBlock& block);
  void (*gemm_bf16)(const FloatGemmBlock& block);
  IntProducts int8, int4, int3, int2;
  bool adds_low_rank = false;  // true: bf16 and integer products support low_rank
  PrepareRow<float> prepare_bf16{};
  // rows; stats is mean and 1 / sqrt(var + eps)
  void (*layer_norm)(const float* x, std::size_t cols, const float* gamma, const float* beta,
                     float eps, float* dst, float* stats);
  void (*layer_norm_dx)(const float* dy, const float* x, const float* stats, const float* gamma,
                        std::size_t cols, float* dx);
  /// dgamma[c] += dy[c] * (x[c] - mean) * rstd and dbeta[c] += dy[c] for one row; either may be
  /// null.
  void (*layer_norm_dparams)(const float* dy, const float* x, const float* stats, std::size_t cols,
                             float* dgamma, float* dbeta);
  /// y = x / sqrt(mean(x^2) + eps) * gamma; stats is 0 and 1 / sqrt(mean(x^2) + eps).
  void (*rms_norm)(const float* x, std::size_t cols, const float* gamma, float eps, float* dst,
                   float* stats);
  void (*rms_norm_dx)(const float* dy, const float* x, const float* stats, const float* gamma,
                      std::size_t cols, float* dx);
  void (*gelu)(const float* x, std::size_t count, float* dst);
  void (*gelu_dx)(const float* dy, const float* x, std::size_t count, float* dx);
  void (*gelu_erf)(const float* x, std::size_t count, float* dst);
  void (*gelu_erf_dx)(const float* dy, const float* x, std::size_t count, float* dx);
  void (*swiglu)(const float* gate, const float* up, std::size_t count, float* dst);
  void (*swiglu_dx)(const float* dy, const float* gate, const float* up, std::size_t count,
                    float* dgate, float* dup);
  /// Rotates the pairs (x[i], x[half + i]) by the angles of cos and sin [half], in place.
  void (*rotate_pairs)(float* x, std::size_t half, const float* cos, const float* sin);
  void (*add)(const float* src, std::size_t count, float* dst);
  /// x = x * factors [count].
  void (*multiply)(const float* factors, std::size_t count, float* x);
  /// x [power * 12^twelves] = x H, not normalized (hadamard.h).
  void (*hadamard)(float* x, std::size_t power, std::size_t twelves);
  // attention
  /// dst[i, j] = scale * dot(a[i], b[j]).
  void (*dot_rows)(const float* a, std::size_t a_rows, std::size_t a_stride, const float* b,
                   std::size_t b_rows, std::size_t b_stride, std::size_t dim, float scale,
                   float* dst, std::size_t dst_stride);
  /// row = exp(row - max), returns the sum and stores the maximum.
  float (*exp_row)(float* row, std::size_t count, float* max);
  /// row = exp(row - shift).
  void (*exp_shifted)(float* row, std::size_t count, float shift);
  void (*weigh_rows)(const WeighRows& work);
  /// dot_rows and weigh_rows on rows of a KV cache, bit-equal to the dequantized values' results;
  /// work.v and work.v_stride are unused.
  void (*dot_stored)(const float* a, std::size_t a_rows, std::size_t a_stride, const StoredKv& b,
                     std::size_t b_rows, std::size_t dim, float scale, float* dst,
                     std::size_t dst_stride);
  void (*weigh_stored)(const WeighRows& work, const StoredKv& values);
  /// Attention on codes; null where the set has no such products.
  /// Rounds a query to digits, ordered for score_codes. dst holds kCodeDigits times dim rounded up
  /// to 64.
  CodeQuery (*round_query)(const float* x, std::size_t dim, std::int8_t* dst) = nullptr;
  void (*score_codes)(const CodeScores& work) = nullptr;
  /// Rounds row * scales, which are not negative, to digits, plane bytes apart, with zeros from
  /// count to end rounded up to 16. Returns their scale.
  float (*round_weights)(const float* row, std::size_t count, std::size_t end, const float* scales,
                         std::uint8_t* dst, std::size_t plane) = nullptr;
  void (*weigh_codes)(const CodeWeights& work) = nullptr;
  void (*divide)(float* row, std::size_t count, float divisor);
  /// ds = scale * p * (ds - shift).
  void (*softmax_dx)(const float* p, std::size_t count, float shift, float scale, float* ds);
};

/// The products of a format, which is_integer.
inline const IntProducts& int_products(const KernelTable& table, WeightFormat format) {
  switch (format) {
    case WeightFormat::kInt2:
      return table.int2;
    case WeightFormat::kInt3:
      return table.int3;
    case WeightFormat::kInt4:
      return table.int4;
    default:
      return table.int8;
  }
}

extern const KernelTable kPortableTable;
/// Composes a product with groups from one without, group by group. Sizes of a panel, of one
/// group's part of it, and of a prepared element.
struct GroupSteps {
  void (*gemm)(const IntGemmBlock& block);
  std::size_t panel_bytes, group_bytes, element_bytes;
};
void multiply_groups(const IntGemmBlock& block, const GroupSteps& steps);
void portable_dot_stored(const float* a, std::size_t a_rows, std::size_t a_stride,
                         const StoredKv& b, std::size_t b_rows, std::size_t dim, float scale,
                         float* dst, std::size_t dst_stride);
void portable_weigh_stored(const WeighRows& work, const StoredKv& values);
#if defined(__x86_64__)
/// Replace the functions that AVX2 (with FMA, F16C, BMI2) speeds up, one file each.
void set_avx2_quantize(KernelTable& table);
void set_avx2_gemm(KernelTable& table);
void set_avx2_int_gemm(KernelTable& table);
void set_avx2_ops(KernelTable& table);
void set_avx2_attention(KernelTable& table);
void set_avx2_hadamard(KernelTable& table);
/// Replace functions for AVX-VNNI, AVX-512 (F, BW, DQ, VL), and AVX-512 with VNNI or BF16.
void set_avxvnni_int_gemm(KernelTable& table);
void set_avx512_quantize(KernelTable& table);
void set_avx512_gemm(KernelTable& table);
void set_avx512_ops(KernelTable& table);
void set_avx512_attention(KernelTable& table);
void set_avx512_hadamard(KernelTable& table);
void set_avx512vnni_int_gemm(KernelTable& table);
void set_avx512vnni_attention(KernelTable& table);
void set_avx512bf16_gemm(KernelTable& table);
/// Replaces functions for AMX (tile, int8, bf16).
void set_amx_gemm(KernelTable& table);
/// Products that AMX leaves to AVX-512 VNNI.
void avx512vnni_gemm(const IntGemmBlock& block, WeightFormat format);
void avx512vnni_gemm_grouped(const IntGemmBlock& block, WeightFormat format);
#elif defined(__aarch64__)
/// Replace the functions that NEON speeds up, and those for processors with SDOT or SMMLA.
void set_neon_quantize(KernelTable& table);
void set_neon_gemm(KernelTable& table);
void set_neon_int_gemm(KernelTable& table);
void set_neon_ops(KernelTable& table);
void set_neon_attention(KernelTable& table);
void set_neon_hadamard(KernelTable& table);
void set_dotprod_int_gemm(KernelTable& table);
void set_i8mm_int_gemm(KernelTable& table);
#endif

/// The table of active_isa().
const KernelTable& active_table();

/// x = cap * tanh(x / cap) for one row (soft_cap, ops.h).
void soft_cap_row(const KernelTable& table, float* x, std::size_t count, float cap);

struct RowRange;
/// One row of quantize_rows (quantize.h).
void quantize_row(const KernelTable& table, const float* x, std::size_t count, int bits,
                  const RowRange& range, std::int8_t* codes, float* scales);

}  // namespace qalof::kernels
