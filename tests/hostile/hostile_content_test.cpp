// Named damage, tried on every kind of file: contents that are not what the format says, sizes that
// would exhaust memory, and paths that are no files.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "core/json.h"
#include "hostile/hostile_kinds.h"

namespace qalof::testing {
namespace hostile_content_test {

namespace fs = std::filesystem;

enum class Expect { kRefused, kEither };

struct Damage {
  const char* name;
  std::function<std::string(const std::string& sound)> bytes;
  Expect expect = Expect::kRefused;
};

Damage fixed(const char* name, std::string bytes, Expect expect = Expect::kRefused) {
  return {name, [bytes = std::move(bytes)](const std::string&) { return bytes; }, expect};
}
// text put behind the first quote.
Damage in_string(const char* name, std::string text) {
  return {name, [text = std::move(text)](const std::string& sound) {
            std::string bytes = sound;
            return bytes.insert(bytes.find('"') + 1, text);
          }};
}

constexpr std::size_t kLargeBytes = std::size_t{12} << 20;

std::string repeat(std::string start, std::string_view part, std::string_view end) {
  start.reserve(kLargeBytes + 64);
  while (start.size() < kLargeBytes) start += part;
  return start.append(end);
}
std::string repeat_count(std::string_view part, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += part;
  return text;
}

std::vector<Damage> json_damages() {
  using std::string_literals::operator""s;
  return {
      fixed("Empty", ""),
      fixed("OnlySpaces", " \n\t "),
      fixed("Null", "null"),
      fixed("True", "true"),
      fixed("Number", "7"),
      fixed("NegativeNumber", "-7"),
      fixed("Text", "\"text\""),
      fixed("EmptyList", "[]"),
      fixed("EmptyObject", "{}"),
      fixed("NestedEmptyList", "[[]]"),
      fixed("ListOfNulls", "[null,null]"),
      fixed("NotANumber", R"({"a":NaN})"),
      fixed("Infinity", R"({"a":-Infinity})"),
      fixed("HugeExponent", R"({"a":1e999})"),
      fixed("Beyond64Bits", R"({"a":18446744073709551616})"),
      fixed("HundredThousandDigits", "{\"a\":" + std::string(100'000, '9') + "}"),
      fixed("LeadingZero", R"({"a":01})"),
      fixed("PlusSign", R"({"a":+1})"),
      fixed("Hexadecimal", R"({"a":0x10})"),
      fixed("KeyTwice", R"({"a":1,"a":1})"),
      fixed("KeyNotText", R"({1:1})"),
      fixed("KeyBare", R"({a:1})"),
      fixed("SingleQuotes", R"({'a':1})"),
      fixed("DeepLists", std::string(100'000, '[')),
      fixed("DeepListsClosed", std::string(100'000, '[') + std::string(100'000, ']')),
      fixed("DeepObjects", repeat_count("{\"a\":", 100'000)),
      fixed("Utf16", "\xff\xfe{\0}\0"s),
      fixed("Pickle", "\x80\x02}q\x01."s),
      fixed("Gzip", "\x1f\x8b\x08\0\0\0\0\0"s),
      fixed("Elf",
            "\x7f"
            "ELF\x02\x01\x01"s),
      fixed("Html", "<!DOCTYPE html><html></html>"),
      fixed("LargeFilePointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
      {"ByteOrderMark", [](const std::string& sound) { return "\xef\xbb\xbf" + sound; },
       Expect::kEither},
      {"TrailingText", [](const std::string& sound) { return sound + "x"; }},
      {"TrailingBrace", [](const std::string& sound) { return sound + "}"; }},
      {"TrailingComma", [](const std::string& sound) { return sound + ","; }},
      {"TrailingNul", [](const std::string& sound) { return sound + '\0'; }},
      {"TwiceOnALine", [](const std::string& sound) { return sound + sound; }},
      {"CommentInFront", [](const std::string& sound) { return "/* */" + sound; }},
      {"NulInside",
       [](const std::string& sound) { return sound.substr(0, 1) + '\0' + sound.substr(1); }},
      {"LastByteDoubled",
       [](const std::string& sound) { return sound + sound.substr(sound.find_last_of("]}"), 1); }},
      {"FirstByteLost", [](const std::string& sound) { return sound.substr(1); }},
      in_string("NotUtf8", "\xff"),
      in_string("OverlongUtf8", "\xc0\xaf"),
      in_string("SurrogateUtf8", "\xed\xa0\x80"),
      in_string("LoneSurrogate", "\\ud800"),
      in_string("UnknownEscape", "\\x41"),
      in_string("ControlByte", "\x01"),
      in_string("LineBreakInText", "\n"),
  };
}

std::vector<Damage> large_json_damages() {
  return {
      {"LargeSpaces", [](const std::string&) { return repeat("{", " ", "}"); }},
      {"LargeText",
       [](const std::string&) { return repeat("{\"a\":\"", "xxxxxxxxxxxxxxxx", "\"}"); }},
      {"LargeOpenText",
       [](const std::string&) { return repeat("{\"", "\\u00e9\\u00e9\\u00e9", ""); }},
      {"LargeNumber", [](const std::string&) { return repeat("[", "1111111111111111", "]"); }},
      {"ManyZeros", [](const std::string&) { return repeat("{\"a\":[0", ",0,0,0,0,0,0,0", "]}"); }},
      {"ManyLists", [](const std::string&) { return repeat("[[]", ",[],[],[],[]", "]"); }},
      {"ManyObjects", [](const std::string&) { return repeat("[{}", ",{},{},{},{}", "]"); }},
      {"ManyTexts",
       [](const std::string&) { return repeat("{\"vocab\":[\"\"", ",\"\",\"\"", "]}"); }},
      {"ManyKeys",
       [](const std::string&) {
         std::string text = "{\"\":0";
         for (int i = 0; text.size() < kLargeBytes; ++i) text += fmt::format(",\"{}\":0", i);
         return text + "}";
       }},
      {"ManyBrackets", [](const std::string&) { return repeat("", "[[[[[[[[", ""); }},
      {"ManyBraces", [](const std::string&) { return repeat("", "{\"a\":", ""); }},
      {"ManyLines", [](const std::string&) { return repeat("", "\n\n\n\n", "x"); }},
  };
}

std::string length_bytes(std::uint64_t length) {
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return bytes;
}
std::string with_header(const std::string& header) { return length_bytes(header.size()) + header; }

std::vector<Damage> safetensors_damages() {
  using std::string_literals::operator""s;
  const auto tensor = [](const std::string& fields, const std::string& data) {
    return with_header("{\"a\":{" + fields + "}}") + data;
  };
  return {
      fixed("Empty", ""),
      fixed("SevenBytes", std::string(7, '\0')),
      fixed("Zeros", std::string(4096, '\0')),
      fixed("HeaderLengthWraps", std::string(8, '\xff') + "{}"),
      fixed("HeaderLengthNegative", length_bytes(std::uint64_t{1} << 63) + "{}"),
      fixed("HeaderBeyondFile", length_bytes(1000) + "{}"),
      fixed("NoTensors", with_header("{}")),
      fixed("OnlyMetadata", with_header(R"({"__metadata__":{"format":"pt"}})")),
      fixed("PackedWithoutContents", with_header(R"({"__metadata__":{"qalof.packed":"{}"}})")),
      fixed("PackedVersion",
            with_header(R"({"__metadata__":{"qalof.packed":"{\"format_version\":99}"}})")),
      fixed("PackedDeep", with_header(R"({"__metadata__":{"qalof.packed":")" +
                                      std::string(100'000, '[') + "\"}}")),
      fixed("Pickle", "\x80\x02}q\x01."s),
      fixed("ZipOfPyTorch", "PK\x03\x04\0\0\0\0\0\0\0\0archive/data.pkl"s),
      fixed("Gguf", "GGUF\x03\0\0\0\0\0\0\0\0\0\0\0"s),
      fixed("Json", R"({"a": 1})"),
      fixed("Html", "<!DOCTYPE html><html></html>"),
      fixed("LargeFilePointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
      fixed("ShapeOverflows",
            tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])", "")),
      fixed("ShapeNegative", tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", "abcd")),
      fixed("OffsetsReversed", tensor(R"("dtype":"U8","shape":[1],"data_offsets":[1,0])", "a")),
      fixed("OffsetsBeyondFile", tensor(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])", "a")),
      fixed("OffsetsHuge",
            tensor(R"("dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0])", "a")),
      fixed("Overlap", with_header(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                   R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})") +
                           "abc"),
      fixed("TensorTwice", with_header(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})") +
                               "a"),
      fixed("DtypeUnknown", tensor(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])", "abcd")),
      fixed("NotUtf8", with_header("{\"\xff\":{}}")),
      {"DataLost", [](const std::string& sound) { return sound.substr(0, sound.size() - 1); }},
      {"DataAdded", [](const std::string& sound) { return sound + "x"; }},
      {"Doubled", [](const std::string& sound) { return sound + sound; }},
      {"HeaderShifted", [](const std::string& sound) { return "x" + sound; }},
  };
}

constexpr std::size_t kBigHeaderBytes = 99'000'000;

std::string tensors_with(const std::string& prefix, std::size_t count, std::string text = "{") {
  text.reserve(kBigHeaderBytes + 4096);
  for (std::size_t i = 0; i < count && text.size() < kBigHeaderBytes; ++i) {
    text += fmt::format(R"({}"{}{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})",
                        text.back() == '{' ? "" : ",", prefix, i);
  }
  return with_header(text + "}");
}

std::vector<Damage> large_safetensors_damages() {
  const std::string packed = R"({"__metadata__":{"qalof.packed":"{}"})";
  return {
      {"ManyTensors", [](const std::string&) { return tensors_with("t", SIZE_MAX); }},
      {"HundredThousandNames",
       [](const std::string&) { return tensors_with(std::string(150, 'n'), 99'999); }},
      {"ManyLongNames",
       [](const std::string&) { return tensors_with(std::string(900, 'n'), 98'000); }},
      {"ManyTensorsOfPackedFile",
       [=](const std::string&) { return tensors_with(std::string(150, 'n'), 99'999, packed); }},
      {"Padding",
       [](const std::string&) { return with_header("{}" + std::string(kBigHeaderBytes, ' ')); }},
      {"OneString",
       [](const std::string&) {
         return with_header("{\"" + std::string(kBigHeaderBytes, 'x') + "\":0}");
       }},
      {"DepthBomb",
       [](const std::string&) {
         return with_header("{\"a\":" + std::string(kBigHeaderBytes, '['));
       }},
  };
}

std::vector<Damage> merges_damages() {
  return {
      fixed("Empty", ""),
      fixed("OnlyVersion", "#version: 0.2\n"),
      fixed("OneInALine", "#version: 0.2\nth\n"),
      fixed("ThreeInALine", "#version: 0.2\nt h e\n"),
      fixed("UnknownToken", "#version: 0.2\nt zz\n"),
      fixed("ResultNotInVocabulary", "#version: 0.2\nt h\nh t\n"),
      fixed("MergeTwice", "#version: 0.2\nt h\nt h\n", Expect::kEither),  // the later counts
      fixed("Tab", "#version: 0.2\nt\th\n"),
      fixed("NotUtf8", "#version: 0.2\nt h\n\xff x\n"),
      fixed("OtherCount", "#version: 0.2\nt e\n"),
      {"Nul", [](const std::string& sound) { return sound + '\0'; }},
      {"ManyLines", [](const std::string&) { return repeat("", "\n\n\n\n", ""); }},
      {"LargeLine", [](const std::string&) { return repeat("", "aaaaaaaa", ""); }},
      {"ManyMerges", [](const std::string&) { return repeat("", "t h\nt h\n", ""); }},
      {"ManyPairs",
       [](const std::string&) {
         std::string text;
         for (int i = 0; text.size() < kLargeBytes; ++i) text += fmt::format("t{} h{}\n", i, i);
         return text;
       }},
  };
}

// ---- Paths that are no files -----------------------------------------------------------------

struct NoFile {
  const char* name;
  std::function<void(const std::string& path)> make;
};
std::vector<NoFile> no_files() {
  return {
      {"Missing", [](const std::string&) {}},
      {"Directory", [](const std::string& path) { fs::create_directory(path); }},
      {"Fifo", [](const std::string& path) { ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0); }},
      {"LinkToDirectory", [](const std::string& path) { fs::create_symlink("/", path); }},
      {"LinkToNothing", [](const std::string& path) { fs::create_symlink("nothing", path); }},
      {"LinkToItself",
       [](const std::string& path) { fs::create_symlink(fs::path(path).filename(), path); }},
      {"LinkToZeros", [](const std::string& path) { fs::create_symlink("/dev/zero", path); }},
      {"TenGigabytesOfZeros",
       [](const std::string& path) {
         const int fd = ::open(path.c_str(), O_CREAT | O_WRONLY, 0600);
         ASSERT_EQ(::ftruncate(fd, off_t{10} << 30), 0);
         ::close(fd);
       }},
  };
}

class HostileContent : public ::testing::TestWithParam<HostileKind> {
 protected:
  void check(const std::vector<Damage>& damages, double max_seconds = 1.0) {
    const HostileSample sample(GetParam());
    for (const Damage& damage : damages) {
      SCOPED_TRACE(damage.name);
      sample.put(damage.bytes(sample.sound()));
      const Outcome outcome = sample.load(max_seconds);
      EXPECT_TRUE(outcome.refused || damage.expect == Expect::kEither);
    }
  }
};

TEST_P(HostileContent, IsRefusedInOneSentence) {
  switch (GetParam().format) {
    case Format::kJson:
      return check(json_damages());
    case Format::kText:
      return check(merges_damages());
    case Format::kSafetensors:
      return check(safetensors_damages());
  }
}

TEST_P(HostileContent, OfManyMegabytesCostsNoMoreThanItsSize) {
  if (GetParam().format == Format::kJson) return check(large_json_damages(), 5.0);
  if (GetParam().format == Format::kSafetensors) return check(large_safetensors_damages(), 5.0);
}

TEST_P(HostileContent, PathsThatAreNoFilesAreRefused) {
  const HostileSample sample(GetParam());
  for (const NoFile& no_file : no_files()) {
    SCOPED_TRACE(no_file.name);
    sample.remove();
    no_file.make(sample.path());
    EXPECT_TRUE(sample.load().refused);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, HostileContent, ::testing::ValuesIn(hostile_kinds()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace hostile_content_test
}  // namespace qalof::testing
