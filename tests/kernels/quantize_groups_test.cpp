// Group schemes against vectors computed in float64 (tools/fixtures/make_group_vectors.py), and
// their invariants.
#include <bit>
#include <cmath>
#include <fstream>

#include "kernels/bf16.h"
#include "kernels/gemm.h"
#include "kernels/kernel_test_util.h"
#include "kernels/quantize.h"

namespace qalof::kernels {
namespace quantize_groups_test {

class QuantizeGroupsTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, QuantizeGroupsTest, testing::ValuesIn(available_isas()), isa_name);

struct Vector {
  int bits = 0, asymmetric = 0;
  std::size_t group = 0;
  std::vector<float> row, scales, reals;
  std::vector<int> zeros, codes;
};

std::vector<int> read_ints(std::istream& file, std::size_t count) {
  std::vector<int> result(count);
  for (int& value : result) file >> value;
  return result;
}

std::vector<Vector> read_vectors() {
  std::ifstream file(std::string(QALOF_SOURCE_DIR) + "/tests/kernels/data/group_vectors.txt");
  std::vector<Vector> result;
  Vector v;
  std::size_t count = 0;
  while (file >> v.bits >> v.group >> v.asymmetric >> count) {
    const std::size_t groups = num_groups(count, v.group);
    v.row = read_floats(file, count);
    v.scales = read_floats(file, groups);
    v.zeros = read_ints(file, groups);
    v.codes = read_ints(file, count);
    v.reals = read_floats(file, count);
    EXPECT_TRUE(file.good());
    result.push_back(v);
  }
  return result;
}

struct Groups {
  std::vector<std::int8_t> codes, zeros;
  std::vector<float> scales;
};

Groups quantize(const std::vector<float>& src, std::size_t rows, int bits, std::size_t group,
                bool asymmetric, ParallelFor& parallel) {
  const std::size_t cols = src.size() / rows, count = rows * num_groups(cols, group);
  Groups result{std::vector<std::int8_t>(src.size(), 99), std::vector<std::int8_t>(count, 0),
                std::vector<float>(count, std::nanf(""))};
  quantize_groups(src.data(), rows, cols, bits, group, result.codes.data(), result.scales.data(),
                  asymmetric ? result.zeros.data() : nullptr, parallel);
  return result;
}

TEST_P(QuantizeGroupsTest, CodesScalesZerosAndRealsEqualTheReference) {
  const std::vector<Vector> vectors = read_vectors();
  ASSERT_EQ(vectors.size(), 7U * 2U * (12U + 2U + 2U));
  for (const Vector& v : vectors) {
    SCOPED_TRACE(testing::Message() << v.bits << " bits, group " << v.group << ", asymmetric "
                                    << v.asymmetric << ", count " << v.row.size());
    const Groups found = quantize(v.row, 1, v.bits, v.group, v.asymmetric != 0, serial_);
    EXPECT_EQ(std::vector<int>(found.codes.begin(), found.codes.end()), v.codes);
    EXPECT_EQ(std::vector<int>(found.zeros.begin(), found.zeros.end()), v.zeros);
    EXPECT_EQ(found.scales, v.scales);
    std::vector<float> reals(v.row.size(), std::nanf(""));
    dequantize_groups(found.codes.data(), found.scales.data(),
                      v.asymmetric != 0 ? found.zeros.data() : nullptr, 1, v.row.size(), v.group,
                      reals.data(), serial_);
    EXPECT_EQ(reals, v.reals);
  }
}

TEST_P(QuantizeGroupsTest, ARowDoesNotDependOnItsNeighboursOrOnThreads) {
  const std::size_t rows = 300, cols = 200;
  const std::vector<float> src = random_floats(rows * cols, random_);
  for (const bool asymmetric : {false, true}) {
    const Groups all = quantize(src, rows, 4, 64, asymmetric, two_threads_);
    const std::size_t row = 217, groups = num_groups(cols, 64);
    const std::vector<float> one(src.begin() + row * cols, src.begin() + (row + 1) * cols);
    const Groups alone = quantize(one, 1, 4, 64, asymmetric, serial_);
    EXPECT_TRUE(std::equal(alone.codes.begin(), alone.codes.end(), all.codes.begin() + row * cols));
    EXPECT_TRUE(
        std::equal(alone.scales.begin(), alone.scales.end(), all.scales.begin() + row * groups));
    EXPECT_TRUE(
        std::equal(alone.zeros.begin(), alone.zeros.end(), all.zeros.begin() + row * groups));
  }
}

TEST_P(QuantizeGroupsTest, RealsAreWithinHalfAStepAndZeroStaysZero) {
  const std::size_t cols = 512;
  std::vector<float> row = random_floats(cols, random_);
  for (float& value : row) value += 0.3F;
  row[77] = 0.0F;
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool asymmetric : {false, true}) {
      const Groups found = quantize(row, 1, bits, 64, asymmetric, serial_);
      std::vector<float> reals(cols);
      dequantize_groups(found.codes.data(), found.scales.data(),
                        asymmetric ? found.zeros.data() : nullptr, 1, cols, 64, reals.data(),
                        serial_);
      EXPECT_EQ(reals[77], 0.0F);
      for (std::size_t i = 0; i < cols; ++i) {
        const float scale = found.scales[i / 64];
        // A scale rounded down leaves the ends of the range beyond the last code, by 1/256 of the
        // range; a zero point is rounded too.
        const float ends =
            static_cast<float>(1 << (bits - 1)) / 256.0F * (asymmetric ? 2.0F : 1.0F);
        const float steps = 0.5001F + ends + (asymmetric ? 0.5F : 0.0F);
        EXPECT_LE(std::fabs(row[i] - reals[i]), steps * scale) << bits << " at " << i;
        EXPECT_EQ(float_from_bf16(bf16_from_float(scale)), scale);
      }
    }
  }
}

}  // namespace quantize_groups_test
}  // namespace qalof::kernels
