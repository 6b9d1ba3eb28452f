// Codebooks and row-wise int8 against bitsandbytes (tools/fixtures/make_bitsandbytes_vectors.py).
#include "kernels/codebook.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/threads.h"

namespace qalof::kernels {
namespace codebook_test {

class CodebookTest : public ::testing::Test {
 protected:
  CodebookTest()
      : file_(std::string(QALOF_SOURCE_DIR) + "/tests/kernels/data/bitsandbytes_vectors.txt") {}

  std::vector<std::string> words() {
    std::string line, word;
    std::getline(file_, line);
    std::istringstream stream(line);
    std::vector<std::string> result;
    while (stream >> word) result.push_back(word);
    return result;
  }
  std::vector<float> floats() {
    std::vector<float> result;
    for (const std::string& word : words())
      result.push_back(
          std::bit_cast<float>(static_cast<std::uint32_t>(std::stoul(word, nullptr, 16))));
    return result;
  }
  template <typename T>
  std::vector<T> ints() {
    std::vector<T> result;
    for (const std::string& word : words()) result.push_back(static_cast<T>(std::stoi(word)));
    return result;
  }
  static std::vector<std::uint32_t> bits(const std::vector<float>& values) {
    std::vector<std::uint32_t> result;
    for (const float value : values) result.push_back(std::bit_cast<std::uint32_t>(value));
    return result;
  }

  void check_4bit(Codebook codebook) {
    const std::vector<float> source = floats();
    const auto packed = ints<std::uint8_t>();
    const std::vector<float> scales = floats(), reals = floats(), mean = floats();
    const auto scale_codes = ints<std::uint8_t>();
    const std::vector<float> block_scales = floats(), nested = floats();

    std::vector<std::uint8_t> found(codebook_bytes(source.size()));
    std::vector<float> found_scales(codebook_blocks(source.size()), std::nanf(""));
    quantize_codebook(source.data(), source.size(), codebook, found.data(), found_scales.data(),
                      serial_);
    EXPECT_EQ(found, packed);
    EXPECT_EQ(bits(found_scales), bits(scales));
    std::vector<float> found_reals(source.size(), std::nanf(""));
    dequantize_codebook(packed.data(), scales.data(), source.size(), codebook, found_reals.data(),
                        serial_);
    EXPECT_EQ(found_reals, reals);

    // The mean of bitsandbytes is an f32 sum in PyTorch's order, so it is given for codes.
    std::vector<std::uint8_t> found_codes(scales.size());
    std::vector<float> found_blocks(scale_blocks(scales.size()), std::nanf(""));
    const float own_mean =
        quantize_scales(scales.data(), scales.size(), found_codes.data(), found_blocks.data());
    EXPECT_NEAR(own_mean, mean.at(0), 1e-6F * std::fabs(mean.at(0)));
    quantize_scales(scales.data(), scales.size(), mean.at(0), found_codes.data(),
                    found_blocks.data());
    EXPECT_EQ(found_codes, scale_codes);
    EXPECT_EQ(found_blocks, block_scales);
    std::vector<float> found_nested(scales.size(), std::nanf(""));
    dequantize_scales(scale_codes.data(), block_scales.data(), mean.at(0), scales.size(),
                      found_nested.data());
    EXPECT_EQ(found_nested, nested);
  }

  void check_int8(std::size_t rows, std::size_t cols) {
    const std::vector<float> source = floats();
    const auto codes = ints<std::int8_t>();
    const std::vector<float> stats = floats(), reals = floats();
    ASSERT_EQ(source.size(), rows * cols);
    std::vector<std::int8_t> found(rows * cols);
    std::vector<float> found_stats(rows);
    quantize_vectorwise(source.data(), rows, cols, found.data(), found_stats.data(), serial_);
    EXPECT_EQ(found, codes);
    EXPECT_EQ(found_stats, stats);
  }

  std::ifstream file_;
  SerialFor serial_;
};

TEST_F(CodebookTest, CodesScalesAndRealsEqualBitsandbytes) {
  std::size_t records = 0;
  for (std::vector<std::string> head = words(); !head.empty(); head = words(), ++records) {
    SCOPED_TRACE(testing::Message()
                 << "record " << records << ", " << head[0] << " " << head.back());
    if (head[0] == "map") {
      const std::vector<float> map = floats();
      EXPECT_EQ(std::vector<float>(dynamic_map().begin(), dynamic_map().end()), map);
    } else if (head[0] == "4bit") {
      check_4bit(head[1] == "nf4" ? Codebook::kNf4 : Codebook::kFp4);
    } else {
      ASSERT_EQ(head[0], "int8");
      check_int8(std::stoul(head[1]), std::stoul(head[2]));
    }
  }
  EXPECT_EQ(records, 1U + 2U * 11U + 4U);
}

TEST_F(CodebookTest, EveryNumberTakesTheNearestCodeAndThreadsChangeNothing) {
  const RandomStream stream(5, "codebook");
  std::vector<float> source(64 * 700 + 9);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = stream.normal(0, i);
  ThreadPool pool(3);
  for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    std::vector<std::uint8_t> packed(codebook_bytes(source.size())), again(packed.size());
    std::vector<float> scales(codebook_blocks(source.size())), scales_again(scales.size());
    quantize_codebook(source.data(), source.size(), codebook, packed.data(), scales.data(),
                      serial_);
    quantize_codebook(source.data(), source.size(), codebook, again.data(), scales_again.data(),
                      pool);
    EXPECT_EQ(packed, again);
    EXPECT_EQ(scales, scales_again);
    std::vector<float> reals(source.size());
    dequantize_codebook(packed.data(), scales.data(), source.size(), codebook, reals.data(), pool);
    for (std::size_t i = 0; i < source.size(); ++i) {
      const float scale = scales[i / kCodebookBlock];
      float nearest = std::fabs(source[i] - codebook_reals(codebook)[0] * scale);
      for (const float real : codebook_reals(codebook))
        nearest = std::min(nearest, std::fabs(source[i] - real * scale));
      // Two middles may be an ulp of the scale apart.
      ASSERT_LE(std::fabs(source[i] - reals[i]), nearest + 1e-6F * scale) << i;
    }
  }
}

}  // namespace codebook_test
}  // namespace qalof::kernels
