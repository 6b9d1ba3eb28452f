// NEON: float products on f32 panels, and on bf16 panels widened to f32. Every output is one chain
// of fused multiply-adds over ascending k, as on AVX2.
#if defined(__aarch64__)
#include "kernels/neon/neon_vectors.h"

namespace qalof::kernels {

namespace {

using Floats = Four<float32x4_t>;

// One after the other, each rounded once.
Floats result(const FloatGemmBlock& block, const float* y, std::size_t first, std::size_t left,
              const Floats& sum) {
  Floats value = four(QALOF_PART { return vmulq_n_f32(sum.part[i], block.alpha); });
  if (block.scales != nullptr) {
    const Floats scales = load_outputs(block.scales + first, left);
    value = four(QALOF_PART { return vmulq_f32(value.part[i], scales.part[i]); });
  }
  if (block.bias != nullptr) {
    const Floats bias = load_outputs(block.bias + first, left);
    value = four(QALOF_PART { return vaddq_f32(value.part[i], bias.part[i]); });
  }
  if (block.add) {
    const Floats before = load_outputs(y, left);
    value = four(QALOF_PART { return vaddq_f32(before.part[i], value.part[i]); });
  }
  return value;
}

struct F32Format : NeonFormat {
  using Block = FloatGemmBlock;
  using Sum = Floats;
  using Vector = Floats;
  static constexpr bool kGrouped = false;
  static constexpr std::size_t kTallest = 6;  // 24 of 32 registers
  static constexpr int kSteps = 1;
  static constexpr std::size_t kStepBytes = 4;
  static RowBytes rows(const Block& block) {
    return {reinterpret_cast<const char*>(block.x), block.x_stride * sizeof(float)};
  }
  static std::size_t num_vectors(const Block& block) { return block.k; }
  static Floats weights(const char* at, int) { return load(reinterpret_cast<const float*>(at)); }
  static float32x4_t broadcast(const char* x) {
    return vld1q_dup_f32(reinterpret_cast<const float*>(x));
  }
  static Floats multiply(const Floats& sum, float32x4_t x, const Floats& w) {
    return four(QALOF_PART { return vfmaq_f32(sum.part[i], x, w.part[i]); });
  }
  static Floats start(const Block&, std::size_t, std::size_t, std::size_t) {
    const float32x4_t zero = vdupq_n_f32(0.0F);
    return {{zero, zero, zero, zero}};
  }
  static Floats load(const float* at) {
    return four(QALOF_PART { return vld1q_f32(at + 4 * i); });
  }
  static void store(float* at, const Floats& sum) { store_outputs(at, sum, kPanelRows); }
  static void finish(const Block& block, std::size_t row, std::size_t first, std::size_t left,
                     const Floats& sum) {
    float* y = block.y + row * block.y_stride + first;
    store_outputs(y, result(block, y, first, left, sum), left);
  }
};

// One vector holds both floats of a pair of k; x is padded to whole pairs.
struct WideBf16Format : F32Format {
  static constexpr int kSteps = 2;
  static RowBytes rows(const Block& block) {
    return {static_cast<const char*>(block.prepared), block.prepared_stride};
  }
  static std::size_t num_vectors(const Block& block) { return (block.k + 1) / 2; }
  static Floats weights(const char* at, int step) {
    const auto* pairs = reinterpret_cast<const std::uint32_t*>(at);
    return four(QALOF_PART {
      const uint32x4_t pair = vld1q_u32(pairs + 4 * i);
      return vreinterpretq_f32_u32(step == 0 ? vshlq_n_u32(pair, 16)
                                             : vandq_u32(pair, vdupq_n_u32(0xFFFF0000U)));
    });
  }
};

void pad_row(const float* x, std::size_t k, void* dst) {
  __builtin_memcpy(dst, x, k * sizeof(float));
  if (k % 2 != 0) static_cast<float*>(dst)[k] = 0.0F;
}

// A tile on kNarrowF32 panels of eight outputs, with one sum per row.
template <int kRows>
void narrow_tile(const FloatGemmBlock& block, std::size_t row) {
  const auto* w = static_cast<const float*>(block.panels);
  const float* x = block.x + row * block.x_stride;
  F32x8 sum[kRows];
  unrolled<kRows>(QALOF_UNROLLED(r) { sum[r] = EightFloats::all(0.0F); });
  for (std::size_t i = 0; i < block.k; ++i, w += 8) {
    const F32x8 weights = EightFloats::load(w);
    unrolled<kRows>(QALOF_UNROLLED(r) {
      const float* at = x + static_cast<std::size_t>(r) * block.x_stride + i;
      sum[r] = EightFloats::fmadd(EightFloats::all(*at), weights, sum[r]);
    });
  }
  unrolled<kRows>(QALOF_UNROLLED(r) {
    const float32x4_t none = vdupq_n_f32(0.0F);
    float* y = block.y + (row + static_cast<std::size_t>(r)) * block.y_stride;
    store_outputs(y, result(block, y, 0, block.n, {{sum[r].low, sum[r].high, none, none}}),
                  block.n);
  });
}

void multiply_narrow(const FloatGemmBlock& block) {
  std::size_t row = 0;
  for (; row + 8 <= block.rows; row += 8) narrow_tile<8>(block, row);
  for (; row + 4 <= block.rows; row += 4) narrow_tile<4>(block, row);
  for (; row < block.rows; ++row) narrow_tile<1>(block, row);
}

}  // namespace

void set_neon_gemm(KernelTable& table) {
  table.gemm_f32 = multiply<F32Format>;
  table.gemm_narrow_f32 = multiply_narrow;
  table.gemm_bf16 = multiply<WideBf16Format>;
  table.prepare_bf16 = {pad_row, sizeof(float)};
}

}  // namespace qalof::kernels
#endif
