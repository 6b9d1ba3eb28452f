// quantize_gemm_int against its parts: operation, quantize_rows, gemm_int, and the adapter's two
// products, bit for bit on every instruction set.
#include <cstring>

#include "kernels/gemm.h"
#include "kernels/kernel_test_util.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"

namespace qalof::kernels {
namespace quantized_product_test {

using Op = RowInput::Op;

struct QuantizedProductTest : IsaTest {
  struct Float {
    std::vector<float> panels;
    PackedMatrix matrix;
  };
  Float float_matrix(std::size_t n, std::size_t k) {
    const auto values = random_floats(n * k, random_);
    Float result;
    result.panels.resize(packed_matrix_bytes(WeightFormat::kF32, n, k) / sizeof(float));
    pack_f32(values.data(), n, k, k, false, result.panels.data(), serial_);
    result.matrix.format = WeightFormat::kF32;
    result.matrix.n = n;
    result.matrix.k = k;
    result.matrix.panels = result.panels.data();
    return result;
  }

  void check(std::size_t m, std::size_t n, std::size_t k, WeightFormat format, Op op,
             bool with_adapter, const RowRange& range = {}) {
    const int bits = format == WeightFormat::kInt8 ? 8 : 4;
    const auto x = random_floats(m * k, random_), bias = random_floats(n, random_);
    const auto gamma = random_floats(k, random_), beta = random_floats(k, random_);
    const auto codes = random_codes(n * k, format, random_);
    std::vector<std::uint8_t> panels(packed_matrix_bytes(format, n, k));
    const std::size_t groups = num_groups(k, range.group);
    std::vector<std::int32_t> sums(range.group == 0 ? n : grouped_count(n, groups));
    if (range.group == 0) {
      pack_codes(codes.data(), n, k, format, panels.data(), sums.data(), serial_);
    } else {
      pack_codes(codes.data(), n, k, format, range.group, panels.data(), sums.data(), serial_);
    }
    std::vector<float> scales = random_floats(sums.size(), random_);
    PackedMatrix w;
    w.group = range.group;
    w.format = format;
    w.n = n;
    w.k = k;
    w.panels = panels.data();
    w.code_sums = sums.data();
    w.scales = scales.data();
    const Float a = float_matrix(3, k), b = float_matrix(n, 3);
    const LowRankProduct adapter{a.matrix, b.matrix, 0.5F};

    std::vector<float> rows = x, expected(m * n), inner(m * 3);
    if (op == Op::kLayerNorm)
      layer_norm(x.data(), m, k, gamma.data(), beta.data(), 1e-5F, rows.data(), nullptr, serial_);
    if (op == Op::kGeluTanh) gelu_new(x.data(), m * k, rows.data(), serial_);
    if (op == Op::kGeluErf) gelu_erf(x.data(), m * k, rows.data(), serial_);
    if (op == Op::kRmsNorm)
      rms_norm(x.data(), m, k, gamma.data(), 1e-5F, rows.data(), nullptr, serial_);
    const auto up = random_floats(m * k, random_);
    if (op == Op::kSwiGlu) swiglu(x.data(), up.data(), m * k, rows.data(), serial_);
    std::vector<std::int8_t> x_codes(m * k);
    std::vector<float> x_scales(m * groups);
    quantize_rows(rows.data(), m, k, bits, range, x_codes.data(), x_scales.data(), serial_);
    gemm_int(x_codes.data(), x_scales.data(), m, w, bias.data(), expected.data(), serial_, nullptr,
             /*x_groups=*/range.group != 0);
    if (with_adapter) {
      gemm_f32(rows.data(), m, k, a.matrix, 1.0F, nullptr, Accumulate::kStore, inner.data(),
               serial_);
      gemm_f32(inner.data(), m, 3, b.matrix, 0.5F, nullptr, Accumulate::kAdd, expected.data(),
               serial_);
    }

    std::vector<float> result(m * k), found(m * n);
    RowInput input{x.data(), op, gamma.data(), beta.data(), 1e-5F, nullptr, up.data()};
    if (with_adapter && op != Op::kNone) input.result = result.data();
    quantize_gemm_int(input, bits, m, w, bias.data(), with_adapter ? &adapter : nullptr,
                      with_adapter ? inner.data() : nullptr, found.data(), two_threads_, range);
    ASSERT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)), 0)
        << "m " << m << " n " << n << " k " << k << " bits " << bits << " operation "
        << static_cast<int>(op) << " adapter " << with_adapter;
  }
};

// Few rows and enough weights for two threads: the adapter's first product runs beside the weights.
TEST_P(QuantizedProductTest, AdapterOfFewRowsHasTheBitsOfItsPartsOnTwoThreads) {
  for (const std::size_t m : {1, 3, 4, 5}) {
    for (const WeightFormat format : kIntegerFormats)
      check(m, 1040, 256, format, Op::kLayerNorm, /*with_adapter=*/true);
  }
}

TEST_P(QuantizedProductTest, HasTheBitsOfItsParts) {
  for (const std::size_t m : {1, 2, 15, 16, 33}) {
    for (const std::size_t k : {1, 30, 33, 256}) {
      for (const std::size_t n : {1, 17, 200}) {
        for (const WeightFormat format : kIntegerFormats) {
          for (const Op op : {Op::kNone, Op::kLayerNorm, Op::kGeluTanh, Op::kGeluErf, Op::kRmsNorm,
                              Op::kSwiGlu}) {
            for (const bool adapter : {false, true}) check(m, n, k, format, op, adapter);
          }
        }
      }
    }
  }
}

TEST_P(QuantizedProductTest, HasTheBitsOfItsPartsForRangesOfActivations) {
  for (const std::size_t group : {0, 32, 64, 128}) {
    for (const bool asymmetric : {false, true}) {
      for (const float clip : {1.0F, 0.7F}) {
        for (const std::size_t m : {1, 5, 33}) {
          for (const std::size_t k : {30, 256, 300}) {
            const RowRange range{group, asymmetric, clip};
            check(m, 49, k, WeightFormat::kInt8, Op::kGeluTanh, true, range);
            check(m, 49, k, WeightFormat::kInt4, Op::kLayerNorm, false, range);
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, QuantizedProductTest, testing::ValuesIn(available_isas()), isa_name);

}  // namespace quantized_product_test
}  // namespace qalof::kernels
