// Writing GGUF files: the rounding of every type against the reference, and files that the reader
// accepts.
#include "io/gguf_write.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/random.h"
#include "io/gguf.h"
#include "io/gguf_quantize.h"
#include "io/half.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace gguf_write_test {

using qalof::testing::error_of;
using qalof::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The tensors are those of gguf-py (tools/fixtures/make_gguf_fixtures.py).
TEST(GgufQuantize, EveryTypeHasTheBitsOfTheReference) {
  const GgufFile file = GgufFile::open(QALOF_SOURCE_DIR "/tests/app/data/gguf/encoded.gguf");
  const GgufTensor& source = file.tensors().at("values");
  std::vector<float> values(source.num_elements());
  copy_as_f32(source, 0, values);
  std::size_t types = 0;
  for (const auto& [name, expected] : file.tensors()) {
    if (name == "values") continue;
    ++types;
    EXPECT_TRUE(is_gguf_type_written(expected.type));
    std::vector<std::byte> found(expected.bytes.size());
    EXPECT_TRUE(blocks_of_f32(expected.type, values, found)) << name;
    for (std::size_t i = 0; i < found.size(); ++i)
      ASSERT_EQ(found[i], expected.bytes[i]) << name << " byte " << i;
  }
  EXPECT_EQ(types, 5U);
}

TEST(GgufQuantize, TellsWhatF16CannotHold) {
  std::vector<float> values(32, 1.0F);
  std::vector<std::byte> f16(64), q8_0(34), q4_0(18), q4_1(20);
  const auto fits = [&](GgufType type, std::vector<std::byte>& dst, float largest) {
    values[7] = largest;
    return blocks_of_f32(type, values, dst);
  };
  // 65520 is half way to 65536, which f16 lacks.
  EXPECT_TRUE(fits(GgufType::kF16, f16, -65519.0F));
  EXPECT_FALSE(fits(GgufType::kF16, f16, -65520.0F));
  EXPECT_TRUE(fits(GgufType::kQ8_0, q8_0, 65519.0F * 127.0F));
  EXPECT_FALSE(fits(GgufType::kQ8_0, q8_0, 65521.0F * 127.0F));
  EXPECT_TRUE(fits(GgufType::kQ4_0, q4_0, 65519.0F * 8.0F));
  EXPECT_FALSE(fits(GgufType::kQ4_0, q4_0, 65520.0F * 8.0F));
  EXPECT_TRUE(fits(GgufType::kQ4_1, q4_1, 65000.0F * 15.0F));
  EXPECT_FALSE(fits(GgufType::kQ4_1, q4_1, -65520.0F));
}

TEST(GgufQuantize, ScalesWithoutAnInverseGiveTheCodesOfZeros) {
  std::vector<float> values(32, 1e-44F), zeros(32, 0.0F);
  for (const auto& [type, bytes] :
       {std::pair{GgufType::kQ8_0, 34}, std::pair{GgufType::kQ4_0, 18}}) {
    std::vector<std::byte> found(static_cast<std::size_t>(bytes)), expected(found.size());
    EXPECT_TRUE(blocks_of_f32(type, values, found));
    EXPECT_TRUE(blocks_of_f32(type, zeros, expected));
    EXPECT_TRUE(std::equal(found.begin() + 2, found.end(), expected.begin() + 2));
  }
}

TEST(Half, EveryNumberSurvivesAndEveryMiddleGoesToTheEvenNeighbour) {
  for (std::uint32_t half = 0; half < 0x10000U; ++half) {
    const float value = half_to_float(static_cast<std::uint16_t>(half));
    if (std::isnan(value)) continue;
    ASSERT_EQ(float_to_half(value), half);
    if ((half & 0x7fffU) >= 0x7bffU) continue;
    const float next = half_to_float(static_cast<std::uint16_t>(half + 1));
    const float middle = 0.5F * (value + next);
    ASSERT_EQ(float_to_half(middle), half + (half & 1U));
    ASSERT_EQ(float_to_half(std::nextafter(middle, value)), half);
    ASSERT_EQ(float_to_half(std::nextafter(middle, next)), half + 1);
  }
  EXPECT_TRUE(std::isnan(half_to_float(float_to_half(std::nanf("")))));
}

class GgufWriteTest : public ::testing::Test {
 protected:
  GgufWriteTest() {
    metadata_.add("a.number", std::uint32_t{7});
    metadata_.add("a.real", 0.5F);
    metadata_.add("a.flag", true);
    metadata_.add("a.text", "llama");
    metadata_.add("a.texts", std::vector<std::string>{"one", ""});
    metadata_.add("a.numbers", std::vector<std::int32_t>{3, -1});
    tensors_ = {{"norm", {5}, GgufType::kF32, values_of("norm", 5)},
                {"matrix", {7, 64}, GgufType::kQ4_0, values_of("matrix", 7 * 64)},
                {"half", {3, 5}, GgufType::kF16, values_of("half", 15)},
                // More than a part of the writer's, and not a multiple of it.
                {"large", {9001, 96}, GgufType::kQ8_0, values_of("large", 9001 * 96)}};
  }
  static std::function<std::vector<float>()> values_of(const std::string& name, std::size_t count) {
    return [name, count] {
      const RandomStream stream(3, name);
      std::vector<float> values(count);
      for (std::size_t i = 0; i < count; ++i) values[i] = stream.normal(0, i);
      return values;
    };
  }
  void write(ParallelFor& parallel) {
    made_ = 0;
    write_gguf(
        dir_.file("m.gguf"), metadata_, tensors_, [this] { ++made_; }, parallel);
  }
  GgufMetadata metadata_;
  std::vector<GgufTensorToMake> tensors_;
  TempDir dir_;
  int made_ = 0;
};

TEST_F(GgufWriteTest, ReadsBackAndHasTheSizeThatWasTold) {
  ThreadPool pool(3);
  write(pool);
  EXPECT_EQ(made_, 4);
  EXPECT_EQ(std::filesystem::file_size(dir_.file("m.gguf")), gguf_file_bytes(metadata_, tensors_));
  const GgufFile file = GgufFile::open(dir_.file("m.gguf"));
  EXPECT_EQ(file.integer("a.number", 10), 7U);
  EXPECT_EQ(file.number("a.real"), 0.5);
  EXPECT_EQ(file.boolean("a.flag"), true);
  EXPECT_EQ(file.string("a.text"), "llama");
  EXPECT_THAT(*file.strings("a.texts", 2), ElementsAre("one", ""));
  EXPECT_THAT(*file.integers("a.numbers", 2), ElementsAre(3, -1));
  ASSERT_EQ(file.tensors().size(), tensors_.size());
  for (const GgufTensorToMake& tensor : tensors_) {
    const GgufTensor& stored = file.tensors().at(tensor.name);
    EXPECT_EQ(stored.shape, tensor.shape);
    ASSERT_EQ(stored.type, tensor.type);
    std::vector<std::byte> expected(stored.bytes.size());
    blocks_of_f32(tensor.type, tensor.make(), expected);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), stored.bytes.begin())) << tensor.name;
  }
}

TEST_F(GgufWriteTest, BytesDoNotDependOnThreads) {
  SerialFor serial;
  write(serial);
  const std::string alone = read_file(dir_.file("m.gguf"), std::size_t{8} << 20);
  ThreadPool pool(4);
  write(pool);
  EXPECT_TRUE(read_file(dir_.file("m.gguf"), std::size_t{8} << 20) == alone);
}

TEST_F(GgufWriteTest, ATensorThatDoesNotFitLeavesTheOldFile) {
  SerialFor serial;
  write(serial);
  const std::string old = read_file(dir_.file("m.gguf"), std::size_t{8} << 20);
  tensors_[2].make = [] { return std::vector<float>(15, 1e6F); };
  const auto error = error_of([&] { write(serial); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("tensor half has values beyond the range of f16"));
  EXPECT_TRUE(read_file(dir_.file("m.gguf"), std::size_t{8} << 20) == old);
  tensors_[1].shape = {14, 32};
  tensors_[1].type = GgufType::kQ6_K;
  EXPECT_EQ(error_of([&] { write(serial); }).kind, ErrorKind::kInternal);
}

}  // namespace gguf_write_test
}  // namespace qalof::io
