// Text forms of precision: what is read, what is refused and with which words.
#include "quant/precision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/error_of.h"

namespace qalof::quant {
namespace precision_test {

using ::qalof::testing::error_of;
using ::testing::HasSubstr;

UniformPrecision uniform(int w, int a, int k, int v) {
  return {{BitWidth{w}, BitWidth{a}}, BitWidth{k}, BitWidth{v}};
}

TEST(Precision, NumberIsEveryWidthAtOnce) {
  for (const int bits : {2, 3, 4, 5, 6, 7, 8, 16, 32}) {
    EXPECT_EQ(parse_uniform_precision(std::to_string(bits)), uniform(bits, bits, bits, bits));
  }
}

TEST(Precision, PartsAreReadApart) {
  EXPECT_EQ(parse_uniform_precision("w4a4kv4"), uniform(4, 4, 4, 4));
  EXPECT_EQ(parse_uniform_precision("w4a8k8v3"), uniform(4, 8, 8, 3));
  EXPECT_EQ(parse_uniform_precision("w8a16kv32"), uniform(8, 16, 32, 32));
  EXPECT_EQ(parse_uniform_precision("w32a32k16v4"), uniform(32, 32, 16, 4));
}

TEST(Precision, KvIs16WhereNothingIsSaid) {
  EXPECT_EQ(parse_uniform_precision("w4a8"), uniform(4, 8, 16, 16));
  EXPECT_EQ(parse_uniform_precision("w32a32"), uniform(32, 32, 16, 16));
}

TEST(Precision, CanonicalTextRoundTripsForEveryLegalCombination) {
  const int widths[] = {2, 3, 4, 5, 6, 7, 8, 16, 32};
  int legal = 0;
  for (const int w : widths) {
    for (const int a : widths) {
      const Precision linear{BitWidth{w}, BitWidth{a}};
      const bool expected = w <= 8 || w == a;
      ASSERT_EQ(is_legal(linear), expected) << w << " " << a;
      if (!expected) {
        EXPECT_EQ(error_of([&] { parse_uniform_precision(to_string(linear)); }).kind,
                  ErrorKind::kUsage);
        continue;
      }
      ++legal;
      EXPECT_EQ(parse_linear_precision(to_string(linear), "here"), linear);
      for (const int k : widths) {
        for (const int v : widths) {
          const UniformPrecision precision = uniform(w, a, k, v);
          EXPECT_EQ(parse_uniform_precision(to_string(precision)), precision);
        }
      }
    }
  }
  EXPECT_EQ(legal, 7 * 9 + 2);
}

TEST(Precision, CanonicalTextIsShortest) {
  EXPECT_EQ(to_string(parse_uniform_precision("8")), "w8a8kv8");
  EXPECT_EQ(to_string(parse_uniform_precision("w4a8k8v4")), "w4a8k8v4");
  EXPECT_EQ(to_string(parse_uniform_precision("w4a8k4v4")), "w4a8kv4");
  EXPECT_EQ(to_string(parse_uniform_precision("w4a8")), "w4a8kv16");
  EXPECT_EQ(to_string(parse_uniform_precision("32")), "w32a32kv32");
}

TEST(Precision, OtherTextIsAUsageErrorThatListsTheForms) {
  for (const char* text : {"",
                           " ",
                           "8 ",
                           " 8",
                           "08",
                           "+8",
                           "-8",
                           "8.0",
                           "0",
                           "1",
                           "9",
                           "12",
                           "17",
                           "33",
                           "320",
                           "1e1",
                           "w8",
                           "a8",
                           "w8a8kv",
                           "w8a8k8",
                           "w8a8v8",
                           "w8a8v8k8",
                           "w8a8kv8kv8",
                           "w8a8kv9",
                           "w9a8",
                           "w8a1",
                           "W8A8",
                           "w08a8",
                           "w8a8kv08",
                           "8w",
                           "w8a8 kv8",
                           "kv8",
                           "w99999999999a8",
                           "99999999999",
                           "int8",
                           "w8a8k8v8x",
                           "f32",
                           "bf16",
                           "random",
                           "\xff\xfe",
                           "w4a4\n"}) {
    const auto error = error_of([&] { parse_uniform_precision(text); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage) << text;
    EXPECT_THAT(error.message, HasSubstr("2..8, 16 or 32")) << text;
    EXPECT_EQ(error_of([&] { parse_linear_precision(text, "here"); }).kind, ErrorKind::kBadInput)
        << text;
  }
}

TEST(Precision, TextWithAZeroByteIsRefused) {
  EXPECT_EQ(error_of([] { parse_uniform_precision(std::string("8\0", 2)); }).kind,
            ErrorKind::kUsage);
}

TEST(Precision, IllegalPairSaysWhatItNeeds) {
  const auto error = error_of([] { parse_uniform_precision("w16a8kv8"); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_THAT(error.message, HasSubstr("weights of 16 bits need activations of 16 bits, found 8"));
  const auto linear = error_of([] { parse_linear_precision("w32a16", "plan: rules[0].set"); });
  EXPECT_EQ(linear.kind, ErrorKind::kBadInput);
  EXPECT_THAT(linear.message, ::testing::StartsWith("plan: rules[0].set: \"w32a16\""));
  EXPECT_THAT(linear.message, HasSubstr("found 16"));
}

TEST(Precision, FormsToComeAndDrawsAreUnsupportedNotUnknown) {
  const auto error = error_of([] { parse_uniform_precision("f16"); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("not implemented"));
  for (const char* text : {"random:4,5,6,7,8", "random:"}) {
    const auto drawn = error_of([&] { parse_uniform_precision(text); });
    EXPECT_EQ(drawn.kind, ErrorKind::kUnsupported) << text;
    EXPECT_THAT(drawn.message, HasSubstr("here one precision is needed")) << text;
  }
}

TEST(Precision, LinearTextHasNoKvPart) {
  EXPECT_EQ(parse_linear_precision("4", "here"), (Precision{BitWidth{4}, BitWidth{4}}));
  EXPECT_EQ(parse_linear_precision("w4a16", "here"), (Precision{BitWidth{4}, BitWidth{16}}));
  const auto error = error_of([] { parse_linear_precision("w4a4kv4", "here"); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("K and V are set by default and kv"));
}

TEST(Precision, LongTextIsShortenedInTheMessage) {
  const auto error = error_of([] { parse_uniform_precision(std::string(100'000, 'w')); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_LT(error.message.size(), 300U);
}

}  // namespace precision_test
}  // namespace qalof::quant
