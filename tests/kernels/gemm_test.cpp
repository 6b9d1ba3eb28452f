// Matrix products of every instruction set: exact integer sums at every small shape, full range
// without saturation, and rows that are independent of each other.
#include "kernels/gemm.h"

#include <cstring>
#include <limits>

#include <fmt/format.h>

#include "kernels/bf16.h"
#include "kernels/kernel_test_util.h"
#include "kernels/quantize.h"

namespace qalof::kernels {
namespace gemm_test {

class GemmTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, GemmTest, testing::ValuesIn(available_isas()), isa_name);

struct Packed {
  std::vector<std::uint8_t> bytes;
  std::vector<std::int32_t> sums;
  std::vector<float> scales;
  PackedMatrix matrix;
};

Packed allocate(WeightFormat format, std::size_t n, std::size_t k) {
  Packed packed;
  packed.bytes.assign(packed_matrix_bytes(format, n, k), 0xEE);
  packed.matrix = {format, n, k, packed.bytes.data(), nullptr, nullptr};
  return packed;
}

Packed pack_integers(const std::vector<std::int8_t>& codes, std::size_t n, std::size_t k,
                     WeightFormat format, std::mt19937& random) {
  SerialFor serial;
  Packed packed = allocate(format, n, k);
  packed.sums.resize(n);
  packed.scales = random_floats(n, random);
  pack_codes(codes.data(), n, k, format, packed.bytes.data(), packed.sums.data(), serial);
  packed.matrix.scales = packed.scales.data();
  packed.matrix.code_sums = packed.sums.data();
  return packed;
}

std::vector<std::int64_t> exact_product(const std::vector<std::int8_t>& x,
                                        const std::vector<std::int8_t>& w, std::size_t m,
                                        std::size_t n, std::size_t k) {
  std::vector<std::int64_t> result(m * n);
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      std::int64_t sum = 0;
      for (std::size_t c = 0; c < k; ++c) sum += std::int64_t{x[i * k + c]} * w[j * k + c];
      result[i * n + j] = sum;
    }
  }
  return result;
}

void check_integers(std::size_t m, std::size_t n, std::size_t k, WeightFormat format,
                    const std::vector<std::int8_t>& x, const std::vector<std::int8_t>& w,
                    std::mt19937& random, ParallelFor& parallel) {
  const std::string what =
      fmt::format("m {} n {} k {} format {}", m, n, k, static_cast<int>(format));
  const Packed packed = pack_integers(w, n, k, format, random);
  std::vector<std::int8_t> back(n * k);
  unpack_codes(packed.matrix, back.data());
  ASSERT_EQ(back, w) << what;
  const std::vector<std::int64_t> expected = exact_product(x, w, m, n, k);
  std::vector<std::int32_t> acc(m * n, -1);
  gemm_int_acc(x.data(), m, packed.matrix, acc.data(), parallel);
  for (std::size_t i = 0; i < m * n; ++i)
    ASSERT_EQ(acc[i], expected[i]) << what << " element " << i;
  const std::vector<float> x_scales = random_floats(m, random);
  const std::vector<float> bias = random_floats(n, random);
  for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
    std::vector<float> y(m * n, std::numeric_limits<float>::quiet_NaN());
    gemm_int(x.data(), x_scales.data(), m, packed.matrix, b, y.data(), parallel);
    for (std::size_t i = 0; i < m * n; ++i) {
      volatile float value = static_cast<float>(acc[i]) * packed.scales[i % n];
      value = value * x_scales[i / n];
      if (b != nullptr) value = value + b[i % n];
      ASSERT_EQ(y[i], value) << what << " element " << i;
    }
  }
}

TEST_P(GemmTest, IntegerSumsAreExactAtEverySmallShape) {
  for (const std::size_t m : kSizes) {
    for (const std::size_t n : kSizes) {
      for (const std::size_t k : kSizes) {
        const auto x = random_codes(m * k, -127, 127, random_);
        for (const WeightFormat format : kIntegerFormats)
          check_integers(m, n, k, format, x, random_codes(n * k, format, random_), random_,
                         serial_);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(GemmTest, IntegerSumsAreExactAtRandomShapesWithThreads) {
  std::uniform_int_distribution<std::size_t> rows(1, 40), outputs(1, 100), columns(1, 300);
  for (int round = 0; round < 200; ++round) {
    const std::size_t m = rows(random_), n = outputs(random_), k = columns(random_);
    const auto x = random_codes(m * k, -127, 127, random_);
    ParallelFor& parallel = round % 4 == 0 ? static_cast<ParallelFor&>(two_threads_) : serial_;
    for (const WeightFormat format : kIntegerFormats)
      check_integers(m, n, k, format, x, random_codes(n * k, format, random_), random_, parallel);
    if (HasFatalFailure()) return;
  }
}

TEST_P(GemmTest, IntegerSumsAreExactWithManyRowsAndEachRowAloneIsTheSame) {
  constexpr std::size_t m = 512, n = 55, k = 1100;
  for (const WeightFormat format : kIntegerFormats) {
    const auto x = random_codes(m * k, -127, 127, random_);
    const auto w = random_codes(n * k, format, random_);
    check_integers(m, n, k, format, x, w, random_, two_threads_);
    const Packed packed = pack_integers(w, n, k, format, random_);
    const std::vector<float> x_scales = random_floats(m, random_);
    std::vector<float> all(m * n), alone(n);
    gemm_int(x.data(), x_scales.data(), m, packed.matrix, nullptr, all.data(), two_threads_);
    for (std::size_t row = 0; row < m; ++row) {
      gemm_int(x.data() + row * k, &x_scales[row], 1, packed.matrix, nullptr, alone.data(),
               serial_);
      ASSERT_EQ(std::memcmp(alone.data(), all.data() + row * n, n * sizeof(float)), 0) << row;
    }
  }
}

TEST_P(GemmTest, IntegerSumsDoNotSaturateAtTheEndsOfTheRange) {
  for (const std::size_t k : {64, 1000, 4096}) {
    for (const int x_code : {-127, 127}) {
      const std::vector<std::int8_t> x(7 * k, static_cast<std::int8_t>(x_code));
      for (const WeightFormat format : kIntegerFormats) {
        for (const int code : {lowest_code(format), highest_code(format)}) {
          check_integers(7, 17, k, format, x,
                         std::vector<std::int8_t>(17 * k, static_cast<std::int8_t>(code)), random_,
                         serial_);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(GemmTest, LongestAllowedSumFitsThirtyTwoBits) {
  constexpr std::size_t kLongest = 65536;
  const std::vector<std::int8_t> x(2 * kLongest, 127);
  for (const WeightFormat format : kIntegerFormats) {
    const auto code = static_cast<std::int8_t>(
        format == WeightFormat::kInt8 ? lowest_code(format) : highest_code(format));
    check_integers(2, 3, kLongest, format, x, std::vector<std::int8_t>(3 * kLongest, code), random_,
                   serial_);
  }
}

TEST_P(GemmTest, PaddingIsZeroAndSumsAreTheCodes) {
  const auto codes = random_codes(17 * 9, -7, 7, random_);
  const Packed packed = pack_integers(codes, 17, 9, WeightFormat::kInt4, random_);
  for (std::size_t row = 0; row < 17; ++row) {
    int sum = 0;
    for (std::size_t i = 0; i < 9; ++i) sum += codes[row * 9 + i];
    EXPECT_EQ(packed.sums[row], sum);
  }
  ASSERT_EQ(packed.bytes.size(), 2U * 2U * 64U);
  EXPECT_EQ(packed.bytes.back(), 0x88);
  EXPECT_EQ(allocate(WeightFormat::kInt8, 17, 9).bytes.size(), 2U * 3U * 64U);
  EXPECT_EQ(allocate(WeightFormat::kInt2, 17, 17).bytes.size(), 2U * 2U * 64U);
  EXPECT_EQ(allocate(WeightFormat::kInt3, 17, 33).bytes.size(), 2U * 2U * 192U);
  EXPECT_EQ(allocate(WeightFormat::kBf16, 17, 9).bytes.size(), 2U * 5U * 64U);
  EXPECT_EQ(allocate(WeightFormat::kF32, 17, 9).bytes.size(), 2U * 9U * 64U);
}

// The bytes that docs/file_formats.md promises: one code above the padding at a time.
TEST(GemmPanels, BytesOfFewBitsLieAsDocumented) {
  SerialFor serial;
  const auto packed = [&](WeightFormat format, std::size_t column, int stored) {
    std::vector<std::int8_t> codes(2 * 32);
    const int offset = code_layout(format).offset;
    for (std::int8_t& code : codes) code = static_cast<std::int8_t>(-offset);
    codes[32 + column] = static_cast<std::int8_t>(stored - offset);
    std::vector<std::uint8_t> bytes(packed_matrix_bytes(format, 2, 32));
    std::int32_t sums[2];
    pack_codes(codes.data(), 2, 32, format, bytes.data(), sums, serial);
    return bytes;
  };
  // Row 1, k 16 + 9: byte 1 of the second unit, third pair of bits.
  EXPECT_EQ(packed(WeightFormat::kInt2, 25, 3)[64 + 4 + 1], 3 << 4);
  // k 17: byte 1 of part 1, bits 3..5; k 11: byte 3 of part 0, bits 6..7, and bit 6 of part 2.
  EXPECT_EQ(packed(WeightFormat::kInt3, 17, 5)[64 + 4 + 1], 5 << 3);
  EXPECT_EQ(packed(WeightFormat::kInt3, 11, 6)[4 + 3], 2 << 6);
  EXPECT_EQ(packed(WeightFormat::kInt3, 11, 6)[128 + 4 + 3], 1 << 6);
  EXPECT_EQ(packed(WeightFormat::kInt3, 23, 5)[128 + 4 + 3], 1 << 7);
  EXPECT_EQ(packed(WeightFormat::kInt3, 28, 7)[128 + 4], 7 << 3);
  EXPECT_EQ(packed(WeightFormat::kInt4, 13, 9)[64 + 4 + 1], 9 << 4);
}

TEST_P(GemmTest, NarrowPanelsGiveTheBitsOfWideOnes) {
  for (const std::size_t m : {1, 3, 4, 8, 13}) {
    for (const std::size_t n : {1, 5, 8}) {
      for (const std::size_t k : {1, 17, 300}) {
        const auto x = random_floats(m * k, random_), w = random_floats(n * k, random_);
        std::vector<std::vector<float>> y;
        for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kNarrowF32}) {
          Packed packed = allocate(format, n, k);
          pack_f32(w.data(), n, k, k, false, reinterpret_cast<float*>(packed.bytes.data()), serial_,
                   format);
          const PackedMatrix matrix{format, n, k, packed.bytes.data(), nullptr, nullptr};
          y.emplace_back(m * n, 1.0F);
          gemm_f32(x.data(), m, k, matrix, 0.5F, nullptr, Accumulate::kAdd, y.back().data(),
                   two_threads_);
        }
        EXPECT_EQ(y[0], y[1]) << fmt::format("m {} n {} k {}", m, n, k);
      }
    }
  }
}

// One float product with everything that can vary.
struct FloatCase {
  std::size_t m, n, k, x_stride;
  WeightFormat format = WeightFormat::kF32;
  bool transposed = false, scaled = false, biased = false, add = false;
  float alpha = 1.0F;
};

void check_floats(const FloatCase& c, std::mt19937& random, ParallelFor& parallel) {
  SerialFor serial;
  const std::string what =
      fmt::format("m {} n {} k {} format {}", c.m, c.n, c.k, static_cast<int>(c.format));
  std::vector<float> x = random_floats(c.m * c.x_stride, random);
  std::vector<float> w = random_floats(c.n * c.k, random);
  Packed packed = allocate(c.format, c.n, c.k);
  if (c.format == WeightFormat::kBf16) {
    pack_bf16(w.data(), c.n, c.k, reinterpret_cast<std::uint16_t*>(packed.bytes.data()), serial);
    for (float& value : w) value = float_from_bf16(bf16_from_float(value));
    for (float& value : x) value = float_from_bf16(bf16_from_float(value));
  } else {
    std::vector<float> source = w;
    if (c.transposed) {
      for (std::size_t i = 0; i < w.size(); ++i) source[i % c.k * c.n + i / c.k] = w[i];
    }
    pack_f32(source.data(), c.n, c.k, c.transposed ? c.n : c.k, c.transposed,
             reinterpret_cast<float*>(packed.bytes.data()), serial);
  }
  packed.scales = random_floats(c.n, random);
  if (c.scaled) packed.matrix.scales = packed.scales.data();
  const std::vector<float> bias = random_floats(c.n, random);
  const std::vector<float> before = random_floats(c.m * c.n, random);
  std::vector<float> y = before;
  const float* bias_or_null = c.biased ? bias.data() : nullptr;
  const Accumulate accumulate = c.add ? Accumulate::kAdd : Accumulate::kStore;
  gemm_f32(x.data(), c.m, c.x_stride, packed.matrix, c.alpha, bias_or_null, accumulate, y.data(),
           parallel);
  for (std::size_t i = 0; i < c.m; ++i) {
    for (std::size_t j = 0; j < c.n; ++j) {
      double sum = 0.0, magnitude = 0.0;
      for (std::size_t p = 0; p < c.k; ++p) {
        const double term = double{x[i * c.x_stride + p]} * w[j * c.k + p];
        sum += term;
        magnitude += std::fabs(term);
      }
      const double factor = double{c.alpha} * (c.scaled ? packed.scales[j] : 1.0F);
      const double rest = (c.biased ? bias[j] : 0.0) + (c.add ? before[i * c.n + j] : 0.0);
      // An ascending sum of k terms is off by at most k roundings of its magnitude (2^-24 each, two
      // with separate multiplication), the epilogue by four more.
      const double tolerance = (2.0 * static_cast<double>(c.k) + 4.0) * 0x1p-24 *
                               (magnitude * std::fabs(factor) + std::fabs(rest));
      ASSERT_LE(std::fabs(y[i * c.n + j] - (sum * factor + rest)), tolerance)
          << what << " at " << i << ", " << j;
    }
  }
  // Each row alone gives the same bits.
  std::vector<float> alone = before;
  for (std::size_t i = 0; i < c.m; ++i) {
    gemm_f32(x.data() + i * c.x_stride, 1, c.x_stride, packed.matrix, c.alpha, bias_or_null,
             accumulate, alone.data() + i * c.n, serial);
  }
  ASSERT_EQ(std::memcmp(alone.data(), y.data(), y.size() * sizeof(float)), 0) << what;
}

TEST_P(GemmTest, FloatProductsAreRightAtEverySmallShapeAndRowsAreIndependent) {
  int round = 0;
  for (const std::size_t m : kSizes) {
    for (const std::size_t n : kSizes) {
      for (const std::size_t k : kSizes) {
        for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16}) {
          ++round;
          check_floats({.m = m,
                        .n = n,
                        .k = k,
                        .x_stride = k + static_cast<std::size_t>(round % 3),
                        .format = format,
                        .transposed = round % 2 == 0,
                        .scaled = round % 5 == 0,
                        .biased = round % 3 == 0,
                        .add = round % 3 == 1,
                        .alpha = round % 4 == 0 ? 1.0F : 0.7F},
                       random_, serial_);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(GemmTest, FloatProductsAreRightAtLargeShapesWithThreads) {
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16}) {
    check_floats({.m = 150, .n = 200, .k = 300, .x_stride = 300, .format = format, .biased = true},
                 random_, two_threads_);
    check_floats({.m = 5, .n = 777, .k = 129, .x_stride = 129, .format = format, .add = true},
                 random_, two_threads_);
    check_floats({.m = 1, .n = 1000, .k = 64, .x_stride = 64, .format = format}, random_,
                 two_threads_);
    check_floats({.m = 40, .n = 40, .k = 3000, .x_stride = 3000, .format = format}, random_,
                 two_threads_);
  }
}

TEST_P(GemmTest, NanOfOneRowStaysInThatRow) {
  std::vector<float> x = random_floats(7 * 9, random_);
  x[3 * 9 + 8] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> w = random_floats(17 * 9, random_);
  Packed packed = allocate(WeightFormat::kF32, 17, 9);
  pack_f32(w.data(), 17, 9, 9, /*transposed=*/false, reinterpret_cast<float*>(packed.bytes.data()),
           serial_);
  std::vector<float> y(7 * 17);
  gemm_f32(x.data(), 7, 9, packed.matrix, 1.0F, nullptr, Accumulate::kStore, y.data(), serial_);
  for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 17 == 3) << i;
}

TEST_P(GemmTest, NoRowsAndNoColumnsAreFine) {
  Packed packed = allocate(WeightFormat::kF32, 3, 0);
  const float bias[] = {1.0F, 2.0F, 3.0F};
  float y[3] = {};
  gemm_f32(nullptr, 0, 0, packed.matrix, 1.0F, bias, Accumulate::kStore, y, serial_);
  EXPECT_EQ(y[0], 0.0F);
  const float x = 0.0F;
  gemm_f32(&x, 1, 0, packed.matrix, 1.0F, bias, Accumulate::kStore, y, serial_);
  EXPECT_EQ(y[2], 3.0F);
}

}  // namespace gemm_test
}  // namespace qalof::kernels
