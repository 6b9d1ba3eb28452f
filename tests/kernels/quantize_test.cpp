// Rounding to codes: the original implementation's codes exactly, portable and vector sets bit for
// bit, bfloat16, and packed codes of every width.
#include "kernels/quantize.h"

#include <bit>
#include <fstream>
#include <limits>

#include "kernels/bf16.h"
#include "kernels/kernel_test_util.h"

namespace qalof::kernels {
namespace quantize_test {

class QuantizeTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, QuantizeTest, testing::ValuesIn(available_isas()), isa_name);

struct Vector {
  int bits = 0;
  std::vector<float> row, reals;
  std::vector<int> codes;
};

std::vector<Vector> read_vectors() {
  std::ifstream file(std::string(QALOF_SOURCE_DIR) + "/tests/kernels/data/quantizer_vectors.txt");
  std::vector<Vector> result;
  Vector v;
  std::size_t count = 0;
  while (file >> v.bits >> count) {
    v.row = read_floats(file, count);
    v.codes.resize(count);
    for (int& code : v.codes) file >> code;
    v.reals = read_floats(file, count);
    EXPECT_TRUE(file.good());
    result.push_back(v);
  }
  return result;
}

// Steps between two floats; -0 and +0 are equal.
std::int64_t ulp_distance(float a, float b) {
  const auto ordered = [](float value) {
    const auto bits = std::bit_cast<std::int32_t>(value);
    return bits < 0 ? -static_cast<std::int64_t>(bits & 0x7FFFFFFF)
                    : static_cast<std::int64_t>(bits);
  };
  return std::abs(ordered(a) - ordered(b));
}

TEST_P(QuantizeTest, CodesEqualTheOriginalsAndRealsAreWithinOneUlp) {
  const std::vector<Vector> vectors = read_vectors();
  ASSERT_EQ(vectors.size(), 7U * 25U + 6U * 2U);
  for (const Vector& v : vectors) {
    const std::size_t count = v.row.size();
    std::vector<std::int8_t> codes(count);
    std::vector<float> reals(count);
    std::vector<float> fake(count);
    float scale = 0.0F;
    quantize_rows(v.row.data(), 1, count, v.bits, codes.data(), &scale, serial_);
    dequantize_rows(codes.data(), &scale, 1, count, reals.data(), serial_);
    fake_quantize_kv(v.row.data(), 1, 1, count, &v.bits, fake.data(), nullptr, nullptr, serial_);
    for (std::size_t i = 0; i < count; ++i) {
      ASSERT_EQ(codes[i], v.codes[i]) << v.bits << " bits, row of " << count << ", element " << i;
      ASSERT_LE(ulp_distance(reals[i], v.reals[i]), 1)
          << v.bits << " bits, row of " << count << ", element " << i;
      ASSERT_EQ(std::bit_cast<std::uint32_t>(fake[i]), std::bit_cast<std::uint32_t>(reals[i]));
    }
  }
}

TEST_P(QuantizeTest, CodesOfMillionsOfNumbersEqualPortableOnes) {
  // Halves among them: multiples of half a step of the 8-bit code.
  const std::size_t cols = 1000, rows = 1500;
  std::vector<float> src = random_floats(rows * cols, random_);
  for (std::size_t i = 0; i < src.size(); i += 3)
    src[i] = std::nearbyint(src[i] * 40.0F) * (0.5F / 127.0F);
  std::vector<std::int8_t> codes(src.size()), expected(src.size());
  std::vector<float> scales(rows);
  quantize_rows(src.data(), rows, cols, 8, codes.data(), scales.data(), serial_);
  force_isa(Isa::kPortable);
  quantize_rows(src.data(), rows, cols, 8, expected.data(), scales.data(), serial_);
  force_isa(GetParam());
  EXPECT_TRUE(codes == expected);
}

TEST_P(QuantizeTest, ZeroRowGivesZeroCodesAndFiniteScale) {
  for (int bits = 2; bits <= 8; ++bits) {
    const std::vector<float> row(33, 0.0F);
    std::vector<std::int8_t> codes(33, 1);
    float scale = std::numeric_limits<float>::quiet_NaN();
    quantize_rows(row.data(), 1, 33, bits, codes.data(), &scale, serial_);
    EXPECT_EQ(codes, std::vector<std::int8_t>(33, 0));
    EXPECT_TRUE(std::isfinite(scale));
  }
}

TEST_P(QuantizeTest, RowsEqualPortableBitForBitAtEverySizeAndWithThreads) {
  for (const std::size_t cols : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 768}) {
    for (int bits = 2; bits <= 8; ++bits) {
      const std::size_t rows = cols == 768 ? 300 : 5;
      const std::vector<float> src = random_floats(rows * cols, random_, 3.0F);
      std::vector<std::int8_t> codes(rows * cols), expected_codes(rows * cols);
      std::vector<float> scales(rows), expected_scales(rows);
      quantize_rows(src.data(), rows, cols, bits, codes.data(), scales.data(), two_threads_);
      std::vector<float> reals(rows * cols), expected_reals(rows * cols);
      dequantize_rows(codes.data(), scales.data(), rows, cols, reals.data(), two_threads_);
      force_isa(Isa::kPortable);
      quantize_rows(src.data(), rows, cols, bits, expected_codes.data(), expected_scales.data(),
                    serial_);
      dequantize_rows(expected_codes.data(), expected_scales.data(), rows, cols,
                      expected_reals.data(), serial_);
      force_isa(GetParam());
      ASSERT_EQ(codes, expected_codes) << cols;
      ASSERT_EQ(scales, expected_scales) << cols;
      ASSERT_EQ(reals, expected_reals) << cols;
      const int level = (1 << (bits - 1)) - 1;
      for (const std::int8_t code : codes) ASSERT_LE(std::abs(code), level);
    }
  }
}

TEST_P(QuantizeTest, KvHeadsShareTheRangeAndTakeTheirOwnWidth) {
  for (const std::size_t head_dim : kSizes) {
    const int bits[] = {4, 8, 16, 32, 2};
    constexpr std::size_t kHeads = 5, kRows = 3;
    const std::size_t cols = kHeads * head_dim;
    std::vector<float> src = random_floats(kRows * cols, random_);
    src[cols - 1] = 9.0F;  // the first row's range comes from the last head
    std::vector<float> dst = src;
    std::vector<std::int8_t> codes(kRows * cols, 99);
    std::vector<float> scales(kRows * kHeads);
    fake_quantize_kv(dst.data(), kRows, kHeads, head_dim, bits, dst.data(), codes.data(),
                     scales.data(), two_threads_);
    for (std::size_t row = 0; row < kRows; ++row) {
      float max_abs = 0.0F;
      for (std::size_t i = 0; i < cols; ++i)
        max_abs = std::max(max_abs, std::fabs(src[row * cols + i]));
      for (std::size_t i = 0; i < cols; ++i) {
        const std::size_t head = i / head_dim;
        const std::size_t at = row * cols + i;
        if (bits[head] <= 8) {
          const RowScale scale = seed_row_scale(max_abs, bits[head]);
          const float code = std::nearbyint(src[at] * scale.multiplier);
          ASSERT_EQ(codes[at], code);
          ASSERT_EQ(scales[row * kHeads + head], scale.scale);
          ASSERT_EQ(dst[at], code * scale.scale);
        } else {
          ASSERT_EQ(codes[at], 0);
          ASSERT_EQ(dst[at],
                    bits[head] == 32 ? src[at] : float_from_bf16(bf16_from_float(src[at])));
        }
      }
    }
  }
}

TEST_P(QuantizeTest, Bfloat16RoundsToNearestTiesToEven) {
  const auto pattern = [](std::uint32_t bits) { return std::bit_cast<float>(bits); };
  const std::pair<std::uint32_t, std::uint32_t> cases[] = {
      {0x3F800000, 0x3F800000}, {0x3F808000, 0x3F800000}, {0x3F808001, 0x3F810000},
      {0x3F818000, 0x3F820000}, {0x3F817FFF, 0x3F810000}, {0xBF808000, 0xBF800000},
      {0xBF818000, 0xBF820000}, {0x7F7FFFFF, 0x7F800000}, {0x7F800000, 0x7F800000},
      {0xFF800000, 0xFF800000}, {0x00000001, 0x00000000}, {0x00008001, 0x00010000},
      {0x80000000, 0x80000000}, {0x7F800001, 0x7FC00000}, {0xFFC12345, 0xFFC10000},
      {0x7FFFFFFF, 0x7FFF0000},
  };
  for (std::size_t pad = 0; pad < 9; ++pad) {  // each case in a vector's body and in its tail
    std::vector<float> src(pad, 1.0F), dst;
    for (const auto& [from, to] : cases) src.push_back(pattern(from));
    dst.resize(src.size());
    round_to_bf16(src.data(), src.size(), dst.data(), serial_);
    for (std::size_t i = 0; i < std::size(cases); ++i) {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(dst[pad + i]), cases[i].second)
          << std::hex << cases[i].first;
      EXPECT_EQ(bf16_from_float(pattern(cases[i].first)), cases[i].second >> 16)
          << std::hex << cases[i].first;
    }
  }
}

TEST(PackCodeBits, RoundTripsAtEveryLengthAndWidth) {
  std::mt19937 random(3);
  for (std::size_t count = 1; count <= 33; ++count) {
    for (int bits = 2; bits <= 8; ++bits) {
      const int level = (1 << (bits - 1)) - 1;
      const std::vector<std::int8_t> codes = random_codes(count, -level, level, random);
      std::vector<std::uint8_t> packed(packed_code_bytes(count, bits));
      ASSERT_EQ(packed.size(), bits <= 4 ? (count + 1) / 2 : count);
      pack_code_bits(codes.data(), count, bits, packed.data());
      std::vector<std::int8_t> back(count);
      ASSERT_TRUE(unpack_code_bits(packed.data(), count, bits, back.data()));
      ASSERT_EQ(back, codes);
    }
  }
}

TEST(PackCodeBits, RefusesCodesOutsideTheWidth) {
  std::int8_t code = 0;
  const std::uint8_t minus_eight = 0;
  EXPECT_FALSE(unpack_code_bits(&minus_eight, 1, 4, &code));
  const std::uint8_t four = 8 + 4;
  EXPECT_FALSE(unpack_code_bits(&four, 1, 3, &code));
  EXPECT_TRUE(unpack_code_bits(&four, 1, 4, &code));
  const std::uint8_t minus_128 = 0x80;
  EXPECT_FALSE(unpack_code_bits(&minus_128, 1, 8, &code));
  const std::uint8_t sixteen = 16;
  EXPECT_FALSE(unpack_code_bits(&sixteen, 1, 5, &code));
}

}  // namespace quantize_test
}  // namespace qalof::kernels
