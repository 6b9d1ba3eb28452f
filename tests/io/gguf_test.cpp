// GGUF files: every block type against its definition, files in parts, and damaged headers.
#include "io/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/error.h"
#include "support/error_of.h"
#include "support/gguf_bytes.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace gguf_test {

using qalof::testing::error_of;
using qalof::testing::GgufBytes;
using qalof::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GgufTest : public ::testing::Test {
 protected:
  GgufFile open(const std::string& bytes) {
    std::ofstream(dir_.file("m.gguf"), std::ios::binary) << bytes;
    return GgufFile::open(dir_.file("m.gguf"));
  }
  std::string refused(const GgufBytes& file, ErrorKind kind = ErrorKind::kCorruptFile) {
    const auto error = error_of([&] { open(file.bytes()); });
    EXPECT_EQ(error.kind, kind) << error.message;
    EXPECT_THAT(error.message, HasSubstr(dir_.path()));
    return error.message;
  }
  TempDir dir_;
};

template <typename T>
std::string raw(T value) {
  return GgufBytes::raw(value);
}

constexpr std::uint16_t kHalf = 0x3800, kTwo = 0x4000, kMinusOne = 0xbc00;  // 0.5, 2, -1 in f16

TEST_F(GgufTest, EveryTypeIsReadAsItsDefinitionSays) {
  GgufBytes file;
  std::string block;  // 32 codes
  for (int i = 0; i < 32; ++i) block += static_cast<char>(i * 8 - 128);
  std::string nibbles;  // low: 0..15, high: 15..0
  for (int i = 0; i < 16; ++i) nibbles += static_cast<char>(i | (15 - i) << 4);
  const auto add = [&](const std::string& name, std::uint32_t type, const std::string& values) {
    file.tensor(name, {32}, type, file.data.size());
    file.data += values;
    file.data.resize((file.data.size() + 31) / 32 * 32, '\0');
  };
  add("q8", 8, raw(kHalf) + block);
  add("q4_0", 2, raw(kTwo) + nibbles);
  add("q4_1", 3, raw(kHalf) + raw(kMinusOne) + nibbles);
  std::string halves, brains, floats;
  for (int i = 0; i < 32; ++i) {
    halves += raw(kMinusOne);
    brains += raw<std::uint16_t>(0x3fc0);  // 1.5
    floats += raw(static_cast<float>(i) * 0.25F);
  }
  add("f16", 1, halves);
  add("bf16", 30, brains);
  add("f32", 0, floats);
  const GgufFile found = open(file.bytes());
  ASSERT_EQ(found.tensors().size(), 6U);
  std::vector<float> values(32);
  const auto read = [&](const char* name) {
    EXPECT_EQ(found.tensors().at(name).num_elements(), 32U);
    copy_as_f32(found.tensors().at(name), 0, values);
  };
  read("q8");
  for (int i = 0; i < 32; ++i)
    EXPECT_EQ(values[static_cast<std::size_t>(i)], 0.5F * static_cast<float>(i * 8 - 128));
  read("q4_0");
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(values[static_cast<std::size_t>(i)], 2.0F * static_cast<float>(i - 8));
    EXPECT_EQ(values[static_cast<std::size_t>(i + 16)], 2.0F * static_cast<float>(7 - i));
  }
  read("q4_1");
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(values[static_cast<std::size_t>(i)], 0.5F * static_cast<float>(i) - 1.0F);
    EXPECT_EQ(values[static_cast<std::size_t>(i + 16)], 0.5F * static_cast<float>(15 - i) - 1.0F);
  }
  read("f16");
  EXPECT_EQ(values[31], -1.0F);
  read("bf16");
  EXPECT_EQ(values[31], 1.5F);
  read("f32");
  EXPECT_EQ(values[31], 7.75F);
}

// The numbers beside the blocks are those of gguf-py (tools/fixtures/make_gguf_fixtures.py).
TEST(Gguf, BlocksOfEveryTypeHaveTheBitsOfTheReference) {
  const GgufFile file = GgufFile::open(QALOF_SOURCE_DIR "/tests/app/data/gguf/blocks.gguf");
  std::size_t types = 0;
  for (const auto& [name, stored] : file.tensors()) {
    if (name.ends_with(".f32")) continue;
    ++types;
    EXPECT_EQ(gguf_type_name(static_cast<std::uint32_t>(stored.type)), name);
    std::vector<float> expected(stored.num_elements()), found(expected.size());
    copy_as_f32(file.tensors().at(name + ".f32"), 0, expected);
    copy_as_f32(stored, 0, found);
    ASSERT_GT(found.size(), stored.shape.back());
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)), 0) << name;
    std::vector<float> row(stored.shape.back());
    copy_as_f32(stored, 1, row);
    EXPECT_TRUE(
        std::equal(row.begin(), row.end(), found.begin() + static_cast<std::ptrdiff_t>(row.size())))
        << name;
  }
  EXPECT_EQ(types, 14U);
}

class GgufPartsTest : public GgufTest {
 protected:
  // Part of a file of parts with tensor t0, t1, ...
  void write(
      std::uint16_t part, std::uint16_t parts, const std::string& name,
      const std::function<void(GgufBytes&)>& more = [](GgufBytes&) {}) {
    GgufBytes file;
    file.entry("split.no", 2, raw(part));
    file.entry("split.count", 2, raw(parts));
    more(file);
    file.tensor(fmt::format("t{}", part), {1}, 0, 0);
    file.data = raw(static_cast<float>(part));
    std::ofstream(dir_.file(name), std::ios::binary) << file.bytes();
  }
  std::string refused(const std::string& name, ErrorKind kind) {
    const auto error = error_of([&] { GgufFile::open(dir_.file(name)); });
    EXPECT_EQ(error.kind, kind) << error.message;
    return error.message;
  }
};

TEST_F(GgufPartsTest, AreReadAsOneFromAnyOfThem) {
  write(0, 3, "m-00001-of-00003.gguf", [](GgufBytes& file) {
    file.entry("split.tensors.count", 5, raw<std::int32_t>(3));
    file.entry("general.architecture", 8, GgufBytes::text("llama"));
  });
  write(1, 3, "m-00002-of-00003.gguf");
  write(2, 3, "m-00003-of-00003.gguf");
  for (const int given : {1, 2, 3}) {
    const GgufFile file = GgufFile::open(dir_.file(fmt::format("m-0000{}-of-00003.gguf", given)));
    EXPECT_EQ(file.string("general.architecture"), "llama");
    EXPECT_EQ(file.path(), dir_.file("m-00001-of-00003.gguf"));
    ASSERT_EQ(file.tensors().size(), 3U);
    for (std::size_t part = 0; part < 3; ++part) {
      float value = -1.0F;
      copy_as_f32(file.tensors().at(fmt::format("t{}", part)), 0, {&value, 1});
      EXPECT_EQ(value, static_cast<float>(part));
    }
  }
}

TEST_F(GgufPartsTest, RefusalsNameThePart) {
  write(1, 3, "m-00002-of-00003.gguf");
  EXPECT_THAT(refused("m-00002-of-00003.gguf", ErrorKind::kNotFound),
              HasSubstr("m-00001-of-00003.gguf: no such file, part 1 of 3"));
  write(0, 3, "m.gguf");
  EXPECT_THAT(refused("m.gguf", ErrorKind::kUsage),
              HasSubstr("is part 1 of 3, whose others are found where its name ends in "
                        "-00001-of-00003.gguf"));
  write(0, 3, "m-00001-of-00003.gguf");
  EXPECT_THAT(refused("m-00001-of-00003.gguf", ErrorKind::kNotFound),
              HasSubstr("m-00003-of-00003.gguf: no such file, part 3 of 3"));
  write(1, 3, "m-00003-of-00003.gguf");
  EXPECT_THAT(refused("m-00001-of-00003.gguf", ErrorKind::kCorruptFile),
              HasSubstr("m-00003-of-00003.gguf: its contents are part 2 of 3, its name says part 3 "
                        "of 3"));
  GgufBytes bare;
  std::ofstream(dir_.file("m-00003-of-00003.gguf"), std::ios::binary) << bare.bytes();
  EXPECT_THAT(refused("m-00001-of-00003.gguf", ErrorKind::kCorruptFile),
              HasSubstr("m-00003-of-00003.gguf: split.no and split.count do not say that it is "
                        "part 3 of 3"));
  write(2, 3, "m-00003-of-00003.gguf");
  write(0, 3, "m-00001-of-00003.gguf",
        [](GgufBytes& file) { file.entry("split.tensors.count", 5, raw<std::int32_t>(4)); });
  EXPECT_THAT(refused("m-00001-of-00003.gguf", ErrorKind::kCorruptFile),
              HasSubstr("hold 3 tensors, split.tensors.count is 4"));
}

TEST_F(GgufTest, RowsAreReadOneByOne) {
  GgufBytes file;
  file.tensor("w", {2, 3}, 0, 0);
  for (const float value : {0.F, 1.F, 2.F, 3.F, 4.F, 5.F}) file.data += raw(value);
  const GgufFile found = open(file.bytes());
  EXPECT_THAT(found.tensors().at("w").shape, ElementsAre(3, 2));
  std::vector<float> row(2);
  copy_as_f32(found.tensors().at("w"), 2, row);
  EXPECT_THAT(row, ElementsAre(4.F, 5.F));
}

TEST_F(GgufTest, MetadataHasTypes) {
  GgufBytes file;
  file.entry("small", 0, raw<std::uint8_t>(7));
  file.entry("negative", 5, raw<std::int32_t>(-1));
  file.entry("wide", 10, raw<std::uint64_t>(1ULL << 40));
  file.entry("real", 6, raw(0.5F));
  file.entry("nan", 6, raw(std::nanf("")));
  file.entry("yes", 7, raw<std::uint8_t>(1));
  file.entry("maybe", 7, raw<std::uint8_t>(2));
  file.entry("name", 8, GgufBytes::text("llama"));
  file.list("texts", 8, 2, GgufBytes::text("a") + GgufBytes::text(""));
  file.list("numbers", 5, 2, raw<std::int32_t>(-3) + raw<std::int32_t>(4));
  const GgufFile found = open(file.bytes());
  EXPECT_EQ(found.integer("small", 10), 7U);
  EXPECT_EQ(found.integer("wide", ~0ULL), 1ULL << 40);
  EXPECT_EQ(found.integer("absent", 10), std::nullopt);
  EXPECT_EQ(found.number("real"), 0.5);
  EXPECT_EQ(found.number("small"), 7.0);
  EXPECT_EQ(found.boolean("yes"), true);
  EXPECT_EQ(found.string("name"), "llama");
  EXPECT_THAT(*found.strings("texts", 2), ElementsAre("a", ""));
  EXPECT_THAT(*found.integers("numbers", 2), ElementsAre(-3, 4));
  for (const std::function<void()>& wrong : std::initializer_list<std::function<void()>>{
           [&] { found.integer("small", 6); }, [&] { found.integer("negative", 6); },
           [&] { found.integer("name", 6); }, [&] { found.integer("numbers", 6); },
           [&] { found.number("nan"); }, [&] { found.number("name"); },
           [&] { found.boolean("maybe"); }, [&] { found.boolean("small"); },
           [&] { found.string("small"); }, [&] { found.strings("name", 9); },
           [&] { found.strings("numbers", 9); }, [&] { found.strings("texts", 1); },
           [&] { found.integers("texts", 9); }}) {
    EXPECT_EQ(error_of(wrong).kind, ErrorKind::kBadInput);
  }
}

TEST_F(GgufTest, RulesOfTheFormatAreKept) {
  const auto with = [](const auto& change) {
    GgufBytes file;
    change(file);
    return file;
  };
  using F = GgufBytes;
  constexpr std::uint64_t kHuge = ~0ULL;
  EXPECT_THAT(refused(with([](F& f) { f.magic = "GGML"; })),
              HasSubstr("no GGUF file (it does not begin with the magic \"GGUF\")"));
  EXPECT_THAT(refused(with([](F& f) { f.version = 1; })), HasSubstr("version 1"));
  EXPECT_THAT(refused(with([](F& f) { f.version = 0x03000000; })),
              HasSubstr("is a big-endian GGUF file, read are little-endian ones"));
  EXPECT_THAT(refused(with([](F& f) { f.entry("a", 13, ""); })), HasSubstr("type 13"));
  EXPECT_THAT(refused(with([](F& f) { f.list("a", 9, 1, ""); })), HasSubstr("array in an array"));
  EXPECT_THAT(refused(with([](F& f) { f.list("a", 5, kHuge, ""); })), HasSubstr("numbers"));
  EXPECT_THAT(refused(with([](F& f) { f.list("a", 8, kHuge, ""); })), HasSubstr("are left"));
  EXPECT_THAT(refused(with([](F& f) { f.entry("a", 8, raw(kHuge)); })), HasSubstr("are left"));
  EXPECT_THAT(refused(with([](F& f) { f.entry("", 0, raw('a')); })), HasSubstr("0 bytes"));
  EXPECT_THAT(refused(with([](F& f) { f.entry("a\nb", 0, raw('a')); })),
              HasSubstr("control character"));
  EXPECT_THAT(refused(with([](F& f) {
                f.entry("a", 0, raw('a'));
                f.entry("a", 0, raw('a'));
              })),
              HasSubstr("twice"));
  for (const std::uint32_t alignment : {0U, 4U, 24U, 1U << 20}) {
    EXPECT_THAT(refused(with([=](F& f) { f.entry("general.alignment", 4, raw(alignment)); })),
                HasSubstr("power of two"));
  }
  const auto tensor = [&](std::vector<std::uint64_t> dims, std::uint32_t type, std::uint64_t at,
                          std::size_t bytes) {
    return with([&](F& f) {
      f.tensor("w", dims, type, at);
      f.data.resize(bytes);
    });
  };
  EXPECT_THAT(refused(tensor({}, 0, 0, 0)), HasSubstr("0 dimensions"));
  EXPECT_THAT(refused(tensor({1, 1, 1, 1, 1}, 0, 0, 4)), HasSubstr("5 dimensions"));
  EXPECT_THAT(refused(tensor({0}, 0, 0, 4)), HasSubstr("overflow"));
  EXPECT_THAT(refused(tensor({1ULL << 40, 1ULL << 40}, 0, 0, 4)), HasSubstr("overflow"));
  EXPECT_THAT(refused(tensor({kHuge}, 0, 0, 4)), HasSubstr("overflow"));
  EXPECT_THAT(refused(tensor({33}, 8, 0, 68)), HasSubstr("no multiple of the 32"));
  EXPECT_THAT(refused(tensor({8}, 0, 8, 40)), HasSubstr("alignment"));
  EXPECT_THAT(refused(tensor({8}, 0, 32, 64)), HasSubstr("expected 0"));
  EXPECT_THAT(refused(tensor({9}, 0, 0, 32)), HasSubstr("needs 36 bytes at 0, the data has 32"));
  EXPECT_THAT(refused(tensor({8}, 0, 0, 33)), HasSubstr("1 bytes follow"));
  for (const auto& [type, name] : {std::pair{9U, "type Q8_1,"},
                                   {16U, "type IQ2_XXS,"},
                                   {39U, "type MXFP4,"},
                                   {24U, "type I8,"},
                                   {34U, "type TQ1_0,"},
                                   {41U, "type number 41,"},
                                   {~0U, "type number 4294967295,"}}) {
    EXPECT_THAT(refused(tensor({256}, type, 0, 144), ErrorKind::kUnsupported), HasSubstr(name));
  }
  EXPECT_THAT(refused(tensor({32}, 14, 0, 210)),
              HasSubstr("rows of 32 numbers are no multiple of the 256 of a block of Q6_K"));
  EXPECT_THAT(refused(tensor({256}, 14, 0, 209)), HasSubstr("needs 210 bytes"));
  EXPECT_THAT(refused(with([](F& f) {  // overlap
                f.tensor("a", {16}, 0, 0);
                f.tensor("b", {8}, 0, 32);
                f.data.resize(64);
              })),
              HasSubstr("begins at 32 of the data, expected 64"));
  EXPECT_THAT(refused(with([](F& f) {
                f.tensor("a", {8}, 0, 0);
                f.tensor("a", {8}, 0, 32);
                f.data.resize(64);
              })),
              HasSubstr("appears twice"));
}

TEST_F(GgufTest, HugeCountsEndAtOnce) {
  for (std::size_t at : {8U, 16U}) {  // tensors, entries
    std::string bytes = GgufBytes().bytes();
    const std::string huge = raw<std::uint64_t>(at == 8U ? 100'000 : 10'000);
    bytes.replace(at, 8, huge);
    EXPECT_EQ(error_of([&] { open(bytes); }).kind, ErrorKind::kCorruptFile);
    bytes.replace(at, 8, raw<std::uint64_t>(~0ULL));
    EXPECT_THAT(error_of([&] { open(bytes); }).message, HasSubstr("at most"));
  }
}

}  // namespace gguf_test
}  // namespace qalof::io
