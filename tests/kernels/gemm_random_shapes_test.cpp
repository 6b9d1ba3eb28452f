// Integer products of every instruction set against int64 at ten thousand random shapes, of each
// format, codes over the full range and at its ends.
#include <iterator>

#include <fmt/format.h>

#include "kernels/gemm.h"
#include "kernels/kernel_test_util.h"

namespace qalof::kernels {
namespace gemm_random_shapes_test {

constexpr std::size_t kShapes = 10000;

// What the codes of one matrix are drawn from.
enum class Values { kAll, kEnds, kLowest, kHighest };

std::vector<std::int8_t> draw(std::size_t count, int low, int high, Values values,
                              std::mt19937& random) {
  std::vector<std::int8_t> codes = random_codes(count, low, high, random);
  for (std::int8_t& code : codes) {
    if (values == Values::kLowest || (values == Values::kEnds && code < 0))
      code = static_cast<std::int8_t>(low);
    if (values == Values::kHighest || (values == Values::kEnds && code >= 0))
      code = static_cast<std::int8_t>(high);
  }
  return codes;
}

struct Shape {
  std::size_t m, n, k;
};

Shape random_shape(std::size_t index, std::mt19937& random) {
  const auto upto = [&](std::size_t most) {
    return std::uniform_int_distribution<std::size_t>(1, most)(random);
  };
  // Mostly small and odd; one in a hundred long, one in fifty with many rows.
  if (index % 100 == 0) return {upto(3), upto(40), upto(4096)};
  if (index % 50 == 1) return {upto(120), upto(60), upto(64)};
  return {upto(10), upto(50), upto(160)};
}

TEST(GemmRandomShapesTest, EveryInstructionSetEqualsInt64AtTenThousandShapes) {
  const Isa before = active_isa();
  std::mt19937 random(11);
  SerialFor serial;
  std::uint64_t checked = 0;
  for (std::size_t index = 0; index < kShapes * std::size(kIntegerFormats); ++index) {
    const Shape s = random_shape(index, random);
    const WeightFormat format = kIntegerFormats[index / kShapes];
    const auto x_values = static_cast<Values>(index % 4);
    const auto w_values = static_cast<Values>(index / 4 % 4);
    const auto x = draw(s.m * s.k, -127, 127, x_values, random);
    const auto w = draw(s.n * s.k, lowest_code(format), highest_code(format), w_values, random);
    std::vector<std::int64_t> expected(s.m * s.n);
    for (std::size_t i = 0; i < s.m; ++i) {
      for (std::size_t j = 0; j < s.n; ++j) {
        for (std::size_t c = 0; c < s.k; ++c)
          expected[i * s.n + j] += std::int64_t{x[i * s.k + c]} * w[j * s.k + c];
      }
    }
    std::vector<std::uint8_t> panels(packed_matrix_bytes(format, s.n, s.k));
    std::vector<std::int32_t> sums(s.n);
    pack_codes(w.data(), s.n, s.k, format, panels.data(), sums.data(), serial);
    PackedMatrix matrix;
    matrix.format = format;
    matrix.n = s.n;
    matrix.k = s.k;
    matrix.panels = panels.data();
    matrix.code_sums = sums.data();
    for (const Isa isa : available_isas()) {
      force_isa(isa);
      std::vector<std::int32_t> acc(s.m * s.n, -1);
      gemm_int_acc(x.data(), s.m, matrix, acc.data(), serial);
      for (std::size_t i = 0; i < acc.size(); ++i) {
        ASSERT_EQ(acc[i], expected[i])
            << fmt::format("{} shape {}: m {} n {} k {} bits {} element {}", to_string(isa), index,
                           s.m, s.n, s.k, code_layout(format).bits, i);
      }
      checked += acc.size();
    }
  }
  force_isa(before);
  EXPECT_GE(checked, kShapes * available_isas().size());
}

}  // namespace gemm_random_shapes_test
}  // namespace qalof::kernels
