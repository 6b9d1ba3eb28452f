// Hadamard rotations against their definition, on every instruction set.
#include "kernels/hadamard.h"

#include "core/random.h"
#include "kernel_test_util.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {
namespace hadamard_test {

// 12 * 12 * 4 and 12 * 128 are SmolLM2's; 1728 = 12^3; the last are rotated in blocks.
constexpr std::size_t kOrders[] = {1,    2,    4,    8,    16, 32,  64,  128, 256,  512,
                                   1024, 12,   24,   48,   96, 144, 192, 288, 384,  576,
                                   768,  1536, 3072, 1728, 3,  36,  80,  960, 1280, 3584};

using Matrix = std::vector<std::vector<int>>;

Matrix kronecker(const Matrix& a, const Matrix& b) {
  const std::size_t n = b.size();
  Matrix product(a.size() * n, std::vector<int>(a.size() * n));
  for (std::size_t i = 0; i < product.size(); ++i) {
    for (std::size_t j = 0; j < product.size(); ++j)
      product[i][j] = a[i / n][j / n] * b[i % n][j % n];
  }
  return product;
}

// C6 x [[1, 1], [1, -1]] + I x [[1, -1], [-1, -1]], with Legendre symbols modulo 5 in C6.
Matrix twelve() {
  Matrix conference(6, std::vector<int>(6, 1));
  for (int i = 0; i < 6; ++i) conference[i][i] = 0;
  for (int i = 0; i < 5; ++i) {
    for (int j = 0; j < 5; ++j) {
      const int residue = ((i - j) % 5 + 5) % 5;
      conference[i + 1][j + 1] = residue == 0 ? 0 : residue == 1 || residue == 4 ? 1 : -1;
    }
  }
  Matrix identity(6, std::vector<int>(6, 0));
  for (int i = 0; i < 6; ++i) identity[i][i] = 1;
  Matrix result = kronecker(conference, {{1, 1}, {1, -1}});
  const Matrix diagonal = kronecker(identity, {{1, -1}, {-1, -1}});
  for (std::size_t i = 0; i < 12; ++i) {
    for (std::size_t j = 0; j < 12; ++j) result[i][j] += diagonal[i][j];
  }
  return result;
}

Matrix matrix_of(std::size_t order) {
  Matrix result = {{1}};
  while (order % 12 == 0) {
    result = kronecker(twelve(), result);
    order /= 12;
  }
  for (; order % 2 == 0; order /= 2) result = kronecker(result, {{1, 1}, {1, -1}});
  Matrix blocks(order, std::vector<int>(order, 0));
  for (std::size_t i = 0; i < order; ++i) blocks[i][i] = 1;
  return kronecker(blocks, result);
}

class HadamardTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, HadamardTest, testing::ValuesIn(available_isas()), isa_name);

TEST(Hadamard, TwelveIsSymmetricAndOrthogonal) {
  const Matrix h = twelve();
  for (std::size_t i = 0; i < 12; ++i) {
    for (std::size_t j = 0; j < 12; ++j) {
      int dot = 0;
      for (std::size_t k = 0; k < 12; ++k) dot += h[i][k] * h[j][k];
      EXPECT_EQ(dot, i == j ? 12 : 0);
      EXPECT_EQ(h[i][j], h[j][i]);
      EXPECT_EQ(std::abs(h[i][j]), 1);
    }
  }
}

TEST(Hadamard, BlocksAreTheLargestProductOfTwelvesAndAPowerOfTwo) {
  const std::pair<std::size_t, std::size_t> expected[] = {
      {1, 1},      {5, 1},     {6, 2},      {20, 4},      {36, 12},     {576, 576},   {960, 192},
      {1280, 256}, {1600, 64}, {3584, 512}, {5120, 1024}, {11008, 256}, {14336, 2048}};
  for (const auto& [order, block] : expected) EXPECT_EQ(hadamard_block(order), block) << order;
}

TEST_P(HadamardTest, RowsAreTheDefinition) {
  const RandomStream signs(0, "hadamard");
  for (const std::size_t order : kOrders) {
    const Matrix h = matrix_of(order);
    const std::vector<float> x = random_floats(order, random_);
    std::vector<double> expected(order, 0);
    double squares = 0;
    for (std::size_t i = 0; i < order; ++i) {
      const double sign = (signs.words(order, i)[0] & 1U) != 0 ? -1 : 1;
      const double value = sign * static_cast<double>(x[i]) / std::sqrt(hadamard_block(order));
      squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      for (std::size_t j = 0; j < order; ++j) expected[j] += value * h[i][j];
    }
    std::vector<float> found = x;
    const Hadamard rotation(order);
    rotation.apply(found.data());
    // At most 12 + 3 * 12 additions deep, each of half an ulp of numbers no longer than the row.
    const double tolerance = 5e-6 * std::sqrt(squares / static_cast<double>(order));
    expect_close(found, expected, tolerance, 0, "order " + std::to_string(order));
    rotation.invert(found.data());
    expect_close(found, {x.begin(), x.end()}, tolerance, 0, "inverse " + std::to_string(order));
  }
}

// <x R, y> = <x, y R^T>.
TEST_P(HadamardTest, TheInverseIsTheTransposed) {
  for (const std::size_t order : {64, 96, 576}) {
    std::vector<float> x = random_floats(order, random_), y = random_floats(order, random_);
    const std::vector<float> x0 = x, y0 = y;
    const Hadamard rotation(order);
    rotation.apply(x.data());
    rotation.invert(y.data());
    double left = 0, right = 0;
    for (std::size_t i = 0; i < order; ++i) {
      left += static_cast<double>(x[i]) * static_cast<double>(y0[i]);
      right += static_cast<double>(x0[i]) * static_cast<double>(y[i]);
    }
    EXPECT_NEAR(left, right, 1e-5 * static_cast<double>(order)) << order;
  }
}

TEST_P(HadamardTest, BitsAreThoseOfPortableCode) {
  for (const std::size_t order : kOrders) {
    const std::vector<float> x = random_floats(order, random_);
    std::vector<float> found = x, back = x;
    const Hadamard rotation(order);
    rotation.apply(found.data());
    rotation.invert(back.data());
    std::vector<float> expected = x, expected_back = x;
    force_isa(Isa::kPortable);
    rotation.apply(expected.data());
    rotation.invert(expected_back.data());
    force_isa(GetParam());
    EXPECT_EQ(found, expected) << order;
    EXPECT_EQ(back, expected_back) << order;
  }
}

TEST_P(HadamardTest, BlocksOfStridedRowsAreRotatedAloneAndNothingElse) {
  const std::size_t order = 32, blocks = 3, rows = 700, stride = 110;
  const std::vector<float> x = random_floats(rows * stride, random_);
  const Hadamard rotation(order);
  std::vector<float> expected = x;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t block = 0; block < blocks; ++block)
      rotation.apply(expected.data() + row * stride + block * order);
  }
  std::vector<float> found = x, parallel = x;
  rotation.apply(found.data(), rows, stride, blocks, serial_);
  rotation.apply(parallel.data(), rows, stride, blocks, two_threads_);
  EXPECT_EQ(found, expected);
  EXPECT_EQ(parallel, expected);
  // From another place, which stays; what is not rotated is copied.
  std::vector<float> written(x.size(), -1.0F), source = x;
  rotation.apply(written.data(), rows, stride, blocks, two_threads_, source.data());
  EXPECT_EQ(written, expected);
  EXPECT_EQ(source, x);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t block = 0; block < blocks; ++block)
      rotation.invert(expected.data() + row * stride + block * order);
  }
  rotation.invert(found.data(), rows, stride, blocks, two_threads_);
  EXPECT_EQ(found, expected);
  source.swap(written);
  rotation.invert(written.data(), rows, stride, blocks, two_threads_, source.data());
  EXPECT_EQ(written, expected);
}

}  // namespace hadamard_test
}  // namespace qalof::kernels
