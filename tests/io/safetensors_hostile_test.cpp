// Damaged and hostile safetensors files: each rule of the format broken by a named case, every
// truncation, every flipped bit of a header, and what the largest headers cost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "io/io_test_util.h"
#include "io/safetensors.h"
#include "support/count_allocations.h"
#include "support/error_of.h"
#include "support/temp_dir.h"
#include "support/thread_seconds.h"

namespace qalof::io {
namespace safetensors_hostile_test {

using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

struct BadFile {
  const char* name;
  std::string bytes;
  const char* message;
  ErrorKind kind = ErrorKind::kCorruptFile;
};

class RefusedSafetensors : public ::testing::TestWithParam<BadFile> {};

TEST_P(RefusedSafetensors, IsRefusedWithItsOwnSentence) {
  const TempDir dir;
  put_file(dir.file("bad.safetensors"), GetParam().bytes);
  const auto error = error_of([&] { SafetensorsFile::open(dir.file("bad.safetensors")); });
  EXPECT_EQ(error.kind, GetParam().kind);
  EXPECT_THAT(error.message, HasSubstr(dir.file("bad.safetensors")));
  EXPECT_THAT(error.message, HasSubstr(GetParam().message));
}

// A file of one header; data_bytes of data.
BadFile header(const char* name, const std::string& text, std::size_t data_bytes,
               const char* message, ErrorKind kind = ErrorKind::kCorruptFile) {
  return {name, safetensors_bytes(text, data_bytes), message, kind};
}
// A file of one tensor "a" whose fields are given.
BadFile tensor(const char* name, const std::string& fields, std::size_t data_bytes,
               const char* message, ErrorKind kind = ErrorKind::kCorruptFile) {
  return header(name, "{\"a\":{" + fields + "}}", data_bytes, message, kind);
}
std::string entry(const std::string& name, std::size_t begin, std::size_t end) {
  return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", name,
                     end - begin, begin, end);
}

std::vector<BadFile> bad_files() {
  const auto unsupported = ErrorKind::kUnsupported;
  return {
      {"Empty", "", "has 0 bytes"},
      {"SevenBytes", std::string(7, '\0'), "has 7 bytes, a safetensors file has at least 8"},
      {"NoHeader", length_bytes(0), "header does not begin with {"},
      {"HeaderLongerThanFile", length_bytes(3) + "{}", "over the 2 bytes left in the file"},
      {"HeaderOverLimit", length_bytes(100'000'001) + "{}", "over the limit of 100000000"},
      {"HeaderLengthWraps", length_bytes(UINT64_MAX) + "{}", "over the limit"},
      {"HeaderLengthWrapsAgain", length_bytes(UINT64_MAX - 7) + "{}", "over the limit"},
      header("LeadingSpace", " {}", 0, "header does not begin with {"),
      header("ByteOrderMark", "\xef\xbb\xbf{}", 0, "header does not begin with {"),
      header("List", "[]", 0, "header does not begin with {"),
      header("NotJson", "{x}", 0, "header is not valid JSON"),
      header("NotUtf8Name", "{\"\xff\":1}", 0, "header is not valid JSON"),
      header("NotUtf8Outside", "{}\xff", 0, "header is not valid JSON"),
      header("Unclosed", "{\"a\":{", 0, "header is not valid JSON"),
      header("TrailingText", "{}x", 0, "header is not valid JSON"),
      header("SecondObject", "{} {}", 0, "header is not valid JSON"),
      header("HiddenBehindNul", std::string("{}\0polyglot", 11), 0, "NUL byte"),
      header("TensorIsNumber", "{\"a\":1}", 0, "entry \"a\" holds the number 1"),
      header("TensorIsNull", "{\"a\":null}", 0, "entry \"a\" holds null"),
      header("TensorIsBool", "{\"a\":true}", 0, "entry \"a\" holds true or false"),
      header("TensorIsList", "{\"a\":[]}", 0, "entry \"a\" holds a list"),
      header("TensorIsString", "{\"a\":\"b\"}", 0, "entry \"a\" holds the string \"b\""),
      header("EmptyTensor", "{\"a\":{}}", 0, "tensor \"a\" has no dtype"),
      tensor("NoShape", R"("dtype":"U8","data_offsets":[0,1])", 1, "has no shape"),
      tensor("NoOffsets", R"("dtype":"U8","shape":[1])", 1, "has no data_offsets"),
      tensor("UnknownField", R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0)", 1,
             "unknown field \"x\""),
      tensor("FieldTwice", R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])", 1,
             "has dtype twice"),
      header("TensorTwice", "{" + entry("a", 0, 1) + "," + entry("a", 0, 1) + "}", 1,
             "names \"a\" twice"),
      header("MetadataTwice", R"({"__metadata__":{},"__metadata__":{}})", 0,
             "names \"__metadata__\" twice"),
      header("MetadataKeyTwice", R"({"__metadata__":{"k":"1","k":"2"}})", 0,
             "__metadata__ names \"k\" twice"),
      header("MetadataNumber", R"({"__metadata__":{"k":1}})", 0,
             "__metadata__ \"k\" holds the number 1"),
      header("MetadataObject", R"({"__metadata__":{"k":{}}})", 0,
             "__metadata__ \"k\" holds an object"),
      header("MetadataList", R"({"__metadata__":[]})", 0, "holds a list"),
      tensor("DtypeUnknown", R"("dtype":"F31","shape":[1],"data_offsets":[0,1])", 1,
             "dtype \"F31\""),
      tensor("DtypeLowerCase", R"("dtype":"f32","shape":[1],"data_offsets":[0,4])", 4,
             "dtype \"f32\""),
      tensor("DtypeSubByte4", R"("dtype":"F4","shape":[2],"data_offsets":[0,1])", 1, "dtype \"F4\"",
             unsupported),
      tensor("DtypeSubByte6", R"("dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3])", 3,
             "dtype \"F6_E2M3\"", unsupported),
      tensor("DtypeNumber", R"("dtype":1,"shape":[1],"data_offsets":[0,1])", 1,
             "tensor \"a\": dtype holds the number 1"),
      tensor("ShapeNegative", R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])", 1,
             "shape holds the negative number -1"),
      tensor("ShapeMinusZero", R"("dtype":"U8","shape":[-0],"data_offsets":[0,0])", 0,
             "shape holds"),
      tensor("ShapeFloat", R"("dtype":"U8","shape":[1.0],"data_offsets":[0,1])", 1,
             "shape holds the number 1.0"),
      tensor("ShapeExponent", R"("dtype":"U8","shape":[1e0],"data_offsets":[0,1])", 1,
             "shape holds the number 1e0"),
      tensor("ShapeBeyond64Bits",
             R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1])", 1,
             "expected an integer of 64 bits"),
      tensor("ShapeString", R"("dtype":"U8","shape":["1"],"data_offsets":[0,1])", 1,
             "shape holds the string"),
      tensor("ShapeNested", R"("dtype":"U8","shape":[[1]],"data_offsets":[0,1])", 1,
             "shape holds a list"),
      tensor("ShapeNumber", R"("dtype":"U8","shape":1,"data_offsets":[0,1])", 1,
             "shape holds the number 1"),
      tensor("RankNine", R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])", 1,
             "more than 8 dimensions"),
      tensor("ShapeOverflows",
             R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0,
             "overflows"),
      tensor("BitsOverflow", R"("dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,0])",
             0, "overflows"),
      tensor("OneOffset", R"("dtype":"U8","shape":[1],"data_offsets":[0])", 1,
             "data_offsets has 1 numbers"),
      tensor("ThreeOffsets", R"("dtype":"U8","shape":[1],"data_offsets":[0,1,2])", 1,
             "more than two numbers"),
      tensor("OffsetsReversed", R"("dtype":"U8","shape":[1],"data_offsets":[1,0])", 1,
             "lie outside"),
      tensor("OffsetsBeyondFile", R"("dtype":"U8","shape":[2],"data_offsets":[0,2])", 1,
             "lie outside the 1 bytes"),
      tensor("OffsetsHuge", R"("dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0])",
             1, "lie outside"),
      tensor("SizeTooSmall", R"("dtype":"F32","shape":[1],"data_offsets":[0,2])", 2,
             "span 2 bytes, its shape needs 4"),
      tensor("SizeTooLarge", R"("dtype":"U8","shape":[1],"data_offsets":[0,2])", 2,
             "span 2 bytes, its shape needs 1"),
      tensor("FirstNotAtZero", R"("dtype":"U8","shape":[1],"data_offsets":[1,2])", 2,
             "begins at 1, expected 0"),
      header("Overlap", "{" + entry("a", 0, 4) + "," + entry("b", 2, 6) + "}", 6,
             "overlaps another"),
      header("SameBytes", "{" + entry("a", 0, 4) + "," + entry("b", 0, 4) + "}", 4,
             "overlaps another"),
      header("Hole", "{" + entry("a", 0, 4) + "," + entry("b", 5, 6) + "}", 6,
             "there is a hole before it"),
      header("TailBehindTensors", "{" + entry("a", 0, 4) + "}", 5, "1 bytes of data follow"),
      header("TailWithoutTensors", "{}", 3, "3 bytes of data follow"),
      header("EmptyTensorInside", "{" + entry("a", 0, 4) + "," + entry("b", 2, 2) + "}", 4,
             "begins at 2, expected 4"),
      header("LongName", "{" + entry(std::string(1025, 'n'), 0, 1) + "}", 1,
             "a name of 1025 bytes, at most 1024"),
      header("NameWithNul", "{" + entry("a\\u0000b", 0, 1) + "}", 1, "a name with a NUL byte"),
      header("LongString", "{\"__metadata__\":{\"k\":\"" + std::string(5'000'000, 'x') + "\"}}", 0,
             "bytes in one value"),
  };
}

INSTANTIATE_TEST_SUITE_P(Cases, RefusedSafetensors, ::testing::ValuesIn(bad_files()),
                         [](const auto& test) { return test.param.name; });

std::string tiny_file() {
  return safetensors_bytes(R"({"__metadata__":{"format":"pt"},)" + entry("a", 0, 4) + "," +
                               entry("b.c", 4, 4) +
                               R"(,"w":{"dtype":"F16","shape":[1,3],"data_offsets":[4,10]}} )",
                           10);
}

TEST(HostileSafetensors, RefusesTruncationAtEveryByte) {
  const TempDir dir;
  const std::string bytes = tiny_file();
  put_file(dir.file("x"), bytes);
  ASSERT_EQ(SafetensorsFile::open(dir.file("x")).tensors().size(), 3U);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    put_file(dir.file("x"), bytes.substr(0, size));
    EXPECT_EQ(error_of([&] { SafetensorsFile::open(dir.file("x")); }).kind, ErrorKind::kCorruptFile)
        << size;
  }
}

// A flipped bit may rename a tensor or change an equally large dtype, and nothing can tell; every
// such file still has tensors that tile the data. Any other flip is refused.
TEST(HostileSafetensors, FlippedHeaderBitsAreRefusedOrLeaveTensorsThatTileTheData) {
  const TempDir dir;
  const std::string bytes = tiny_file();
  std::size_t refused = 0, accepted = 0;
  for (std::size_t bit = 0; bit < 8 * (bytes.size() - 10); ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    put_file(dir.file("x"), damaged);
    try {
      const SafetensorsFile file = SafetensorsFile::open(dir.file("x"));
      ++accepted;
      std::size_t total = 0;
      for (const auto& [name, view] : file.tensors()) {
        std::size_t elements = 1;
        for (const std::size_t extent : view.shape) elements *= extent;
        EXPECT_EQ(elements, view.num_elements()) << bit;
        EXPECT_GE(view.bytes.data(), file.file_bytes().data() + bytes.size() - 10) << bit;
        total += view.bytes.size();
      }
      EXPECT_EQ(total, 10U) << bit;
      // Outside names and texts only a dtype of the same width or an extra space can differ.
      if (file.tensors().contains("a") && file.tensors().contains("w")) {
        EXPECT_EQ(file.tensors().at("a").shape, std::vector<std::size_t>{4}) << bit;
        EXPECT_EQ(file.tensors().at("w").shape, (std::vector<std::size_t>{1, 3})) << bit;
      }
    } catch (const Error& error) {
      ++refused;
      EXPECT_TRUE(error.kind() == ErrorKind::kCorruptFile ||
                  error.kind() == ErrorKind::kUnsupported)
          << error.what();
    }
  }
  EXPECT_GT(refused, 10 * accepted) << refused << " refused, " << accepted << " accepted";
}

struct BigHeader {
  const char* name;
  std::string (*text)();
  const char* message;  // "" = accepted
};

constexpr std::size_t kBigHeaderBytes = 99'999'000;

// Entries "prefix0", "prefix1", ... of no bytes until the header is full.
std::string full_of(const std::string& prefix, std::size_t max_count) {
  std::string text = "{";
  text.reserve(kBigHeaderBytes + 4096);
  for (std::size_t i = 0; i < max_count && text.size() < kBigHeaderBytes; ++i) {
    text +=
        fmt::format(R"({}"{}{}":{{"dtype":"U8","shape":[0,1,1,1,1,1,1,1],"data_offsets":[0,0]}})",
                    i == 0 ? "" : ",", prefix, i);
  }
  return text + "}";
}

std::string ten_million() {
  std::string text = "{";
  for (int i = 0; i < 10'000'000; ++i) {
    text += "\"";
    text += std::to_string(i);
    text += "\":0,";
    if (text.size() > kBigHeaderBytes) break;
  }
  return text + "\"x\":0}";
}

class BigHeaders : public ::testing::TestWithParam<BigHeader> {};

TEST_P(BigHeaders, CostLessThanFiveSecondsAndTheFileAnd64MiB) {
  const TempDir dir;
  {
    std::string text = GetParam().text();
    put_safetensors(dir.file("big"), text, 0);
  }
  const std::size_t file_bytes = std::filesystem::file_size(dir.file("big"));
  std::string message;
  const double start = testing::thread_seconds();
  const std::size_t peak = testing::peak_of([&] {
    try {
      SafetensorsFile::open(dir.file("big"));
    } catch (const Error& error) {
      message = error.what();
    }
  });
  EXPECT_LE(testing::thread_seconds_since(start), 5.0);
  EXPECT_LE(peak, file_bytes + (std::size_t{64} << 20));
  if (*GetParam().message == '\0') {
    EXPECT_EQ(message, "");
  } else {
    EXPECT_THAT(message, HasSubstr(GetParam().message));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Headers, BigHeaders,
    ::testing::Values(
        BigHeader{"ManyTensors", [] { return full_of("t", SIZE_MAX); }, "more than 100000 tensors"},
        BigHeader{"ManyLongNames", [] { return full_of(std::string(920, 'n'), 98'000); },
                  "bytes of names"},
        BigHeader{"HundredThousandNames", [] { return full_of(std::string(150, 'n'), 100'000); },
                  ""},
        BigHeader{"TenMillionNames", ten_million, "entry \"0\" holds the number 0"},
        BigHeader{"Padding", [] { return "{}" + std::string(kBigHeaderBytes, ' '); }, ""},
        BigHeader{"PaddingInside", [] { return "{" + std::string(kBigHeaderBytes, '\n') + "}"; },
                  "without a value"},
        BigHeader{"OneString", [] { return "{\"" + std::string(kBigHeaderBytes, 'x') + "\":0}"; },
                  "in one value"},
        BigHeader{"OneNumber", [] { return "{\"a\":" + std::string(kBigHeaderBytes, '1') + "}"; },
                  "in one value"},
        BigHeader{"DepthBomb", [] { return "{\"a\":" + std::string(kBigHeaderBytes, '['); },
                  "without a value"},
        BigHeader{"LongShape",
                  [] {
                    std::string text = R"({"a":{"dtype":"U8","shape":[1)";
                    while (text.size() < kBigHeaderBytes) text += ",1";
                    return text + "]}}";
                  },
                  "more than 8 dimensions"},
        BigHeader{"Metadata",
                  [] {
                    std::string text = R"({"__metadata__":{"":"")";
                    for (int i = 0; text.size() < kBigHeaderBytes; ++i)
                      text += fmt::format(",\"{}\":\"\"", i);
                    return text + "}}";
                  },
                  "more than 1000 entries"},
        BigHeader{"MetadataText",
                  [] {
                    std::string text = R"({"__metadata__":{"":"")";
                    for (int i = 0; i < 24; ++i)
                      text += fmt::format(",\"{}\":\"{}\"", i, std::string(4'100'000, 'x'));
                    return text + "}}";
                  },
                  ""}),
    [](const auto& test) { return test.param.name; });

}  // namespace safetensors_hostile_test
}  // namespace qalof::io
