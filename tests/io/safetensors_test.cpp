// safetensors: round trips, the bytes of a written file, conversions.
#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "io/io_test_util.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace safetensors_test {

using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

TEST(WriteSafetensors, WritesExactlyTheBytesOfTheFormat) {
  const TempDir dir;
  const std::vector<float> a = {1.0F, -2.0F};
  const std::vector<std::uint8_t> b = {7, 8, 9};
  write_safetensors(dir.file("x"),
                    {{"b", DType::kU8, {3}, bytes_of(b)}, {"a", DType::kF32, {2}, bytes_of(a)}},
                    {{"k", "v"}});
  const std::string bytes = read_file(dir.file("x"), 1000);
  const std::string header =
      R"({"__metadata__":{"format":"pt","k":"v"},"a":{"data_offsets":[0,8],"dtype":"F32","shape":[2]},"b":{"data_offsets":[8,11],"dtype":"U8","shape":[3]}})";
  const std::size_t padded = (header.size() + 7) / 8 * 8;
  ASSERT_EQ(bytes.size(), 8 + padded + 11);
  EXPECT_EQ(static_cast<unsigned char>(bytes[0]), padded);
  EXPECT_EQ(bytes.substr(1, 7), std::string(7, '\0'));
  EXPECT_EQ(bytes.substr(8, padded), header + std::string(padded - header.size(), ' '));
  EXPECT_EQ(bytes.substr(8 + padded), std::string("\0\0\x80\x3f\0\0\0\xc0\x07\x08\x09", 11));
}

TEST(WriteSafetensors, OrdersByAlignmentThenNameWhateverTheInputOrder) {
  const TempDir dir;
  const std::vector<std::uint8_t> bytes(16);
  const auto view = bytes_of(bytes);
  std::vector<TensorToWrite> tensors = {{"z", DType::kI64, {2}, view},
                                        {"b", DType::kBF16, {8}, view},
                                        {"a", DType::kBF16, {8}, view},
                                        {"c", DType::kF32, {4}, view}};
  write_safetensors(dir.file("x"), tensors, {});
  std::swap(tensors[0], tensors[3]);
  write_safetensors(dir.file("y"), tensors, {});
  EXPECT_EQ(read_file(dir.file("x"), 1000), read_file(dir.file("y"), 1000));
  const SafetensorsFile file = SafetensorsFile::open(dir.file("x"));
  const auto begin = [&](const char* name) { return file.tensors().at(name).bytes.data(); };
  EXPECT_LT(begin("z"), begin("c"));
  EXPECT_LT(begin("c"), begin("a"));
  EXPECT_LT(begin("a"), begin("b"));
}

TEST(WriteSafetensors, RefusesDuplicatesWrongSizesAndNamesThatAreNotUtf8) {
  const TempDir dir;
  const std::vector<float> values(4);
  const auto view = bytes_of(values);
  const auto kind = [&](std::vector<TensorToWrite> tensors) {
    return error_of([&] { write_safetensors(dir.file("x"), tensors, {}); }).kind;
  };
  EXPECT_EQ(kind({{"a", DType::kF32, {4}, view}, {"a", DType::kF32, {2, 2}, view}}),
            ErrorKind::kInternal);
  EXPECT_EQ(kind({{"a", DType::kF32, {5}, view}}), ErrorKind::kInternal);
  EXPECT_EQ(kind({{"__metadata__", DType::kF32, {4}, view}}), ErrorKind::kInternal);
  EXPECT_EQ(kind({{"\xff", DType::kF32, {4}, view}}), ErrorKind::kBadInput);
  EXPECT_FALSE(path_exists(dir.file("x")));
}

TEST(Safetensors, ReadsBackWhatItWroteForEveryDtypeAndShape) {
  const TempDir dir;
  const RandomStream stream(1, "round trip");
  for (std::uint64_t round = 0; round < 50; ++round) {
    std::vector<std::vector<std::uint8_t>> storage;
    std::vector<TensorToWrite> tensors;
    for (std::uint64_t t = 0; t < stream.below(20, round, 0); ++t) {
      const auto dtype = static_cast<DType>(stream.below(15, round, 100 + t));
      std::vector<std::size_t> shape(stream.below(5, round, 200 + t));
      std::size_t size = static_cast<std::size_t>(dtype_bits(dtype)) / 8;
      for (std::size_t d = 0; d < shape.size(); ++d)
        size *= shape[d] = stream.below(4, round, 300 + 10 * t + d);
      storage.emplace_back(size, static_cast<std::uint8_t>(t));
      tensors.push_back({fmt::format("t\"{}\n", t), dtype, shape, bytes_of(storage.back())});
    }
    write_safetensors(dir.file("x"), tensors, {{"note", "\xc3\xa9"}});
    SafetensorsFile opened = SafetensorsFile::open(dir.file("x"));
    const SafetensorsFile file = std::move(opened);
    ASSERT_EQ(file.tensors().size(), tensors.size());
    EXPECT_EQ(file.metadata(),
              (std::map<std::string, std::string>{{"format", "pt"}, {"note", "\xc3\xa9"}}));
    for (const TensorToWrite& tensor : tensors) {
      const TensorView& view = file.tensors().at(tensor.name);
      EXPECT_EQ(view.dtype, tensor.dtype);
      EXPECT_EQ(view.shape, tensor.shape);
      EXPECT_TRUE(std::equal(view.bytes.begin(), view.bytes.end(), tensor.bytes.begin(),
                             tensor.bytes.end()));
    }
  }
}

TEST(SafetensorsFile, ReadsAHeaderWrittenByHandWithSpacesAndWithoutMetadata) {
  const TempDir dir;
  put_safetensors(dir.file("x"),
                  "{ \"s\" : {\"shape\":[],\"data_offsets\":[0,4],\"dtype\":\"I32\"} }\n  \t", 4);
  const SafetensorsFile file = SafetensorsFile::open(dir.file("x"));
  EXPECT_TRUE(file.tensors().at("s").shape.empty());
  EXPECT_EQ(file.tensors().at("s").num_elements(), 1U);
  EXPECT_TRUE(file.metadata().empty());
}

TEST(CopyAsF32, ConvertsEveryHalfExactly) {
  std::vector<std::uint16_t> halves(65536);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
  std::vector<float> values(halves.size());
  copy_as_f32({DType::kF16, {halves.size()}, bytes_of(halves)}, values);
  for (std::size_t i = 0; i < halves.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31), mantissa = static_cast<int>(i & 1023);
    const double sign = i >> 15 != 0 ? -1 : 1;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(values[i]), mantissa != 0);
      EXPECT_TRUE(mantissa != 0 ||
                  values[i] == static_cast<float>(sign) * std::numeric_limits<float>::infinity());
      continue;
    }
    const double expected =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(values[i], static_cast<float>(sign * expected)) << i;
    ASSERT_EQ(std::signbit(values[i]), sign < 0) << i;
  }
}

TEST(Bf16Bytes, RoundsToNearestEvenAndIsUndoneByCopyAsF32) {
  const std::vector<float> values = {0.0F,
                                     -0.0F,
                                     1.0F,
                                     0x1.01p0F,
                                     0x1.03p0F,
                                     0x1.010002p0F,
                                     -0x1.01p0F,
                                     3.4e38F,
                                     1e-40F,
                                     std::numeric_limits<float>::infinity(),
                                     std::numeric_limits<float>::quiet_NaN(),
                                     std::bit_cast<float>(0x7f800001U)};
  const std::vector<std::byte> bytes = bf16_bytes(values);
  std::vector<float> back(values.size());
  copy_as_f32({DType::kBF16, {values.size()}, bytes}, back);
  EXPECT_EQ(back[0], 0.0F);
  EXPECT_TRUE(std::signbit(back[1]));
  EXPECT_EQ(back[2], 1.0F);
  EXPECT_EQ(back[3], 1.0F) << "a tie goes to the even neighbour below";
  EXPECT_EQ(back[4], 0x1.04p0F) << "and above";
  EXPECT_EQ(back[5], 0x1.02p0F);
  EXPECT_EQ(back[6], -1.0F);
  EXPECT_TRUE(std::isinf(back[7]));
  EXPECT_LE(std::abs(back[8] - 1e-40F), 5e-41F);
  EXPECT_TRUE(std::isinf(back[9]));
  EXPECT_TRUE(std::isnan(back[10]) && std::isnan(back[11]));
}

TEST(CopyAsF32, RefusesOtherDtypesAndWrongSizes) {
  const std::vector<std::int32_t> ints(3);
  std::vector<float> dst(3), small(2);
  const auto error = error_of([&] { copy_as_f32({DType::kI32, {3}, bytes_of(ints)}, dst); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("dtype I32"));
  EXPECT_EQ(error_of([&] {
              copy_as_f32({DType::kF32, {3}, bytes_of(ints)}, small);
            }).kind,
            ErrorKind::kInternal);
}

}  // namespace safetensors_test
}  // namespace qalof::io
