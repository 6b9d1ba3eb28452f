// The reference: every kernel as a plain loop, for any CPU. Vector kernels must match it: integers
// bit for bit, floats up to the order of sums and the last bits of exp.
#include <algorithm>
#include <cmath>

#include "kernels/bf16.h"
#include "kernels/gemm.h"
#include "kernels/hadamard_row.h"
#include "kernels/kernel_table.h"
#include "kernels/stochastic_row.h"

namespace qalof::kernels {

namespace {

float max_abs(const float* x, std::size_t count) {
  float result = 0.0F;
  for (std::size_t i = 0; i < count; ++i) result = std::max(result, std::fabs(x[i]));
  return result;
}

void min_max(const float* x, std::size_t count, float* low, float* high) {
  *low = *high = 0.0F;
  for (std::size_t i = 0; i < count; ++i) {
    *low = std::min(*low, x[i]);
    *high = std::max(*high, x[i]);
  }
}

// Rounds to nearest, ties to even, in the default rounding mode, for |value| < 2^22: the addition
// leaves no fraction bits.
float round_even(float value) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23
  return (value + kMagic) - kMagic;
}

void quantize(const float* x, std::size_t count, float multiplier, std::int8_t* codes) {
  for (std::size_t i = 0; i < count; ++i) {
    codes[i] = static_cast<std::int8_t>(static_cast<int>(round_even(x[i] * multiplier)));
  }
}

void quantize_within(const float* x, std::size_t count, float multiplier, int low, int high,
                     std::int8_t* codes) {
  for (std::size_t i = 0; i < count; ++i) {
    const int code = static_cast<int>(round_even(x[i] * multiplier));
    codes[i] = static_cast<std::int8_t>(std::clamp(code, low, high));
  }
}

void dequantize(const std::int8_t* codes, std::size_t count, float scale, float* dst) {
  for (std::size_t i = 0; i < count; ++i) dst[i] = static_cast<float>(codes[i]) * scale;
}

void fake_quantize(const float* x, std::size_t count, float multiplier, float scale, float* dst) {
  // Through the integer, so that code 0 gives +0, as in dequantize.
  for (std::size_t i = 0; i < count; ++i) {
    dst[i] = static_cast<float>(static_cast<int>(round_even(x[i] * multiplier))) * scale;
  }
}

void round_bf16(const float* x, std::size_t count, float* dst) {
  for (std::size_t i = 0; i < count; ++i) dst[i] = float_from_bf16(bf16_from_float(x[i]));
}

std::int32_t sum_codes(const std::int8_t* codes, std::size_t count) {
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += codes[i];
  return sum;
}

void store_row(const FloatGemmBlock& block, std::size_t row, std::size_t first, std::size_t count,
               const float* acc) {
  float* y = block.y + row * block.y_stride + first;
  for (std::size_t j = 0; j < count; ++j) {
    float value = acc[j] * block.alpha;
    if (block.scales != nullptr) value *= block.scales[first + j];
    if (block.bias != nullptr) value += block.bias[first + j];
    y[j] = block.add ? y[j] + value : value;
  }
}

void gemm_f32(const FloatGemmBlock& block) {
  const auto* panel = static_cast<const float*>(block.panels);
  for (std::size_t first = 0; first < block.n; first += kPanelRows, panel += block.k * kPanelRows) {
    for (std::size_t row = 0; row < block.rows; ++row) {
      const float* x = block.x + row * block.x_stride;
      float acc[kPanelRows] = {};
      for (std::size_t i = 0; i < block.k; ++i) {
        for (std::size_t j = 0; j < kPanelRows; ++j) acc[j] += x[i] * panel[i * kPanelRows + j];
      }
      store_row(block, row, first, std::min(kPanelRows, block.n - first), acc);
    }
  }
}

void gemm_narrow_f32(const FloatGemmBlock& block) {
  const auto* panel = static_cast<const float*>(block.panels);
  for (std::size_t row = 0; row < block.rows; ++row) {
    const float* x = block.x + row * block.x_stride;
    float acc[kNarrowRows] = {};
    for (std::size_t i = 0; i < block.k; ++i) {
      for (std::size_t j = 0; j < kNarrowRows; ++j) acc[j] += x[i] * panel[i * kNarrowRows + j];
    }
    store_row(block, row, 0, block.n, acc);
  }
}

void gemm_bf16(const FloatGemmBlock& block) {
  const auto* panel = static_cast<const std::uint16_t*>(block.panels);
  for (std::size_t first = 0; first < block.n;
       first += kPanelRows, panel += (block.k + 1) / 2 * 2 * kPanelRows) {
    for (std::size_t row = 0; row < block.rows; ++row) {
      const float* x = block.x + row * block.x_stride;
      float acc[kPanelRows] = {};
      for (std::size_t i = 0; i < block.k; ++i) {
        const std::uint16_t* w = panel + i / 2 * 2 * kPanelRows + i % 2;
        for (std::size_t j = 0; j < kPanelRows; ++j) acc[j] += x[i] * float_from_bf16(w[j * 2]);
      }
      store_row(block, row, first, std::min(kPanelRows, block.n - first), acc);
    }
  }
}

void store_int_row(const IntGemmBlock& block, std::size_t row, std::size_t first, std::size_t count,
                   const std::int32_t* acc) {
  if (block.y == nullptr) {
    std::copy_n(acc, count, block.acc + row * block.y_stride + first);
    return;
  }
  float* y = block.y + row * block.y_stride + first;
  for (std::size_t j = 0; j < count; ++j) {
    const float value =
        static_cast<float>(acc[j]) * block.w_scales[first + j] * block.x_scales[row];
    y[j] = block.bias == nullptr ? value : value + block.bias[first + j];
  }
}

void gemm_int8(const IntGemmBlock& block) {
  const auto* panel = static_cast<const std::int8_t*>(block.panels);
  for (std::size_t first = 0; first < block.n;
       first += kPanelRows, panel += (block.k + 3) / 4 * 4 * kPanelRows) {
    for (std::size_t row = 0; row < block.rows; ++row) {
      const std::int8_t* x = block.x + row * block.x_stride;
      std::int32_t acc[kPanelRows] = {};
      for (std::size_t i = 0; i < block.k; ++i) {
        const std::int8_t* w = panel + i / 4 * 4 * kPanelRows + i % 4;
        for (std::size_t j = 0; j < kPanelRows; ++j) acc[j] += x[i] * w[j * 4];
      }
      store_int_row(block, row, first, std::min(kPanelRows, block.n - first), acc);
    }
  }
}

// Formats with an offset.
template <WeightFormat kFormat>
void gemm_few_bits(const IntGemmBlock& block) {
  constexpr CodeLayout kLayout = code_layout(kFormat);
  const std::size_t units = (block.k + kLayout.columns - 1) / kLayout.columns;
  const auto* panel = static_cast<const std::uint8_t*>(block.panels);
  for (std::size_t first = 0; first < block.n;
       first += kPanelRows, panel += units * kLayout.bytes) {
    for (std::size_t row = 0; row < block.rows; ++row) {
      const std::int8_t* x = block.x + row * block.x_stride;
      std::int32_t acc[kPanelRows];
      std::fill_n(acc, kPanelRows, -kLayout.offset * block.x_sums[row]);
      for (std::size_t i = 0; i < block.k; ++i) {
        const CodePlace place = code_place(kFormat, i);
        for (std::size_t j = 0; j < kPanelRows; ++j) acc[j] += x[i] * stored_code(panel, place, j);
      }
      store_int_row(block, row, first, std::min(kPanelRows, block.n - first), acc);
    }
  }
}

void layer_norm(const float* x, std::size_t cols, const float* gamma, const float* beta, float eps,
                float* dst, float* stats) {
  const auto n = static_cast<float>(cols);
  float sum = 0.0F;
  for (std::size_t i = 0; i < cols; ++i) sum += x[i];
  const float mean = sum / n;
  float squares = 0.0F;
  for (std::size_t i = 0; i < cols; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const float inverse = 1.0F / std::sqrt(squares / n + eps);
  for (std::size_t i = 0; i < cols; ++i) dst[i] = (x[i] - mean) * inverse * gamma[i] + beta[i];
  stats[0] = mean;
  stats[1] = inverse;
}

void layer_norm_dx(const float* dy, const float* x, const float* stats, const float* gamma,
                   std::size_t cols, float* dx) {
  const auto n = static_cast<float>(cols);
  const float mean = stats[0];
  const float inverse = stats[1];
  float sum = 0.0F;
  float product = 0.0F;
  for (std::size_t i = 0; i < cols; ++i) {
    const float g = dy[i] * gamma[i];
    sum += g;
    product += g * ((x[i] - mean) * inverse);
  }
  sum /= n;
  product /= n;
  for (std::size_t i = 0; i < cols; ++i) {
    dx[i] = inverse * (dy[i] * gamma[i] - sum - (x[i] - mean) * inverse * product);
  }
}

void layer_norm_dparams(const float* dy, const float* x, const float* stats, std::size_t cols,
                        float* dgamma, float* dbeta) {
  for (std::size_t i = 0; i < cols && dgamma != nullptr; ++i)
    dgamma[i] += dy[i] * ((x[i] - stats[0]) * stats[1]);
  for (std::size_t i = 0; i < cols && dbeta != nullptr; ++i) dbeta[i] += dy[i];
}

void rms_norm(const float* x, std::size_t cols, const float* gamma, float eps, float* dst,
              float* stats) {
  float squares = 0.0F;
  for (std::size_t i = 0; i < cols; ++i) squares += x[i] * x[i];
  const float inverse = 1.0F / std::sqrt(squares / static_cast<float>(cols) + eps);
  for (std::size_t i = 0; i < cols; ++i) dst[i] = x[i] * inverse * gamma[i];
  stats[0] = 0.0F;
  stats[1] = inverse;
}

void rms_norm_dx(const float* dy, const float* x, const float* stats, const float* gamma,
                 std::size_t cols, float* dx) {
  const float inverse = stats[1];
  float product = 0.0F;
  for (std::size_t i = 0; i < cols; ++i) product += dy[i] * gamma[i] * (x[i] * inverse);
  product /= static_cast<float>(cols);
  for (std::size_t i = 0; i < cols; ++i)
    dx[i] = inverse * (dy[i] * gamma[i] - x[i] * inverse * product);
}

constexpr float kGeluFactor = 0.7978845608F;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715F;
constexpr float kGeluFlat = 100.0F;  // beyond it the derivative is 0 or 1, and x^2 stays finite

void gelu(const float* x, std::size_t count, float* dst) {
  for (std::size_t i = 0; i < count; ++i) {
    const float u = kGeluFactor * (x[i] + kGeluCubic * x[i] * x[i] * x[i]);
    dst[i] = x[i] / (1.0F + std::exp(-2.0F * u));
  }
}

void gelu_dx(const float* dy, const float* x, std::size_t count, float* dx) {
  for (std::size_t i = 0; i < count; ++i) {
    const float v = std::clamp(x[i], -kGeluFlat, kGeluFlat);
    const float u = kGeluFactor * (v + kGeluCubic * v * v * v);
    const float slope = kGeluFactor * (1.0F + 3.0F * kGeluCubic * v * v);
    const float t = 1.0F / (1.0F + std::exp(-2.0F * u));
    dx[i] = dy[i] * (t + v * t * (1.0F - t) * 2.0F * slope);
  }
}

constexpr float kHalfRoot = 0.7071067812F;    // sqrt(1 / 2)
constexpr float kDensityAt0 = 0.3989422804F;  // 1 / sqrt(2 pi)

// erfc keeps digits that 1 + erf loses for negative x.
void gelu_erf(const float* x, std::size_t count, float* dst) {
  for (std::size_t i = 0; i < count; ++i) dst[i] = x[i] * (0.5F * std::erfc(-kHalfRoot * x[i]));
}

void gelu_erf_dx(const float* dy, const float* x, std::size_t count, float* dx) {
  for (std::size_t i = 0; i < count; ++i) {
    const float v = std::clamp(x[i], -kGeluFlat, kGeluFlat);
    const float density = kDensityAt0 * std::exp(-0.5F * v * v);
    dx[i] = dy[i] * (0.5F * std::erfc(-kHalfRoot * v) + v * density);
  }
}

void swiglu(const float* gate, const float* up, std::size_t count, float* dst) {
  for (std::size_t i = 0; i < count; ++i) dst[i] = gate[i] / (1.0F + std::exp(-gate[i])) * up[i];
}

void swiglu_dx(const float* dy, const float* gate, const float* up, std::size_t count, float* dgate,
               float* dup) {
  for (std::size_t i = 0; i < count; ++i) {
    const float g = gate[i], u = up[i];
    const float t = 1.0F / (1.0F + std::exp(-g));
    const float slope = g * (1.0F - t) + 1.0F;
    dgate[i] = dy[i] * u * (t * slope);
    dup[i] = dy[i] * (g * t);
  }
}

void rotate_pairs(float* x, std::size_t half, const float* cos, const float* sin) {
  for (std::size_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

void add(const float* src, std::size_t count, float* dst) {
  for (std::size_t i = 0; i < count; ++i) dst[i] += src[i];
}

void dot_rows(const float* a, std::size_t a_rows, std::size_t a_stride, const float* b,
              std::size_t b_rows, std::size_t b_stride, std::size_t dim, float scale, float* dst,
              std::size_t dst_stride) {
  for (std::size_t i = 0; i < a_rows; ++i) {
    for (std::size_t j = 0; j < b_rows; ++j) {
      float sum = 0.0F;
      for (std::size_t d = 0; d < dim; ++d) sum += a[i * a_stride + d] * b[j * b_stride + d];
      dst[i * dst_stride + j] = sum * scale;
    }
  }
}

void exp_shifted(float* row, std::size_t count, float shift) {
  for (std::size_t i = 0; i < count; ++i) row[i] = std::exp(row[i] - shift);
}

float exp_row(float* row, std::size_t count, float* max) {
  float largest = row[0];
  for (std::size_t i = 1; i < count; ++i) largest = std::max(largest, row[i]);
  *max = largest;
  float sum = 0.0F;
  for (std::size_t i = 0; i < count; ++i) {
    row[i] = std::exp(row[i] - largest);
    sum += row[i];
  }
  return sum;
}

void weigh_rows(const WeighRows& work) {
  for (std::size_t row = 0; row < work.rows; ++row) {
    float* out = work.out + row * work.out_stride;
    const float* weights = work.weights + row * work.row_stride;
    const std::size_t count = work.first_count + row * work.count_step;
    for (std::size_t j = 0; j < count; ++j) {
      const float weight = weights[j * work.column_stride];
      const float* v = work.v + j * work.v_stride;
      for (std::size_t d = 0; d < work.dim; ++d) out[d] += weight * v[d];
    }
  }
}

void multiply(const float* factors, std::size_t count, float* x) {
  for (std::size_t i = 0; i < count; ++i) x[i] *= factors[i];
}

void divide(float* row, std::size_t count, float divisor) {
  for (std::size_t i = 0; i < count; ++i) row[i] /= divisor;
}

void softmax_dx(const float* p, std::size_t count, float shift, float scale, float* ds) {
  for (std::size_t i = 0; i < count; ++i) ds[i] = scale * p[i] * (ds[i] - shift);
}

}  // namespace

const KernelTable kPortableTable = {
    .max_abs = max_abs,
    .min_max = min_max,
    .quantize = quantize,
    .quantize_within = quantize_within,
    .dequantize = dequantize,
    .fake_quantize = fake_quantize,
    .round_to_bf16 = round_bf16,
    .round_stochastically = round_stochastically,
    .sum_codes = sum_codes,
    .gemm_f32 = gemm_f32,
    .gemm_narrow_f32 = gemm_narrow_f32,
    .gemm_bf16 = gemm_bf16,
    .int8 = {gemm_int8},
    .int4 = {gemm_few_bits<WeightFormat::kInt4>},
    .int3 = {gemm_few_bits<WeightFormat::kInt3>},
    .int2 = {gemm_few_bits<WeightFormat::kInt2>},
    .layer_norm = layer_norm,
    .layer_norm_dx = layer_norm_dx,
    .layer_norm_dparams = layer_norm_dparams,
    .rms_norm = rms_norm,
    .rms_norm_dx = rms_norm_dx,
    .gelu = gelu,
    .gelu_dx = gelu_dx,
    .gelu_erf = gelu_erf,
    .gelu_erf_dx = gelu_erf_dx,
    .swiglu = swiglu,
    .swiglu_dx = swiglu_dx,
    .rotate_pairs = rotate_pairs,
    .add = add,
    .multiply = multiply,
    .hadamard = transform_row<OneFloat>,
    .dot_rows = dot_rows,
    .exp_row = exp_row,
    .exp_shifted = exp_shifted,
    .weigh_rows = weigh_rows,
    .dot_stored = portable_dot_stored,
    .weigh_stored = portable_weigh_stored,
    .divide = divide,
    .softmax_dx = softmax_dx,
};

}  // namespace qalof::kernels
