// Patterns for module names: what they match, what is refused, and that no pattern is slow.
#include "quant/name_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "support/error_of.h"

namespace qalof::quant {
namespace {

using ::qalof::testing::error_of;
using ::testing::HasSubstr;

bool matches(const std::string& pattern, const std::string& name) {
  return NamePattern(pattern, "here").matches(name);
}

TEST(NamePattern, MatchesTheWholeNameOnly) {
  EXPECT_TRUE(matches("h\\.0\\.attn", "h.0.attn"));
  EXPECT_FALSE(matches("h\\.0\\.attn", "h.0.attn.c_attn"));
  EXPECT_FALSE(matches("0\\.attn", "h.0.attn"));
  EXPECT_FALSE(matches("h\\.0", "hx0"));
  EXPECT_TRUE(matches("h.0", "hx0"));
  EXPECT_FALSE(matches("a", ""));
  EXPECT_TRUE(matches("a*", ""));
}

TEST(NamePattern, AlternativesRangesAndCountsOfBlocks) {
  EXPECT_TRUE(matches("h\\.(10|11)\\..*", "h.11.mlp.c_fc"));
  EXPECT_FALSE(matches("h\\.(10|11)\\..*", "h.1.mlp.c_fc"));
  EXPECT_TRUE(matches("h\\.[0-3]\\.attn\\.c_proj", "h.3.attn.c_proj"));
  EXPECT_FALSE(matches("h\\.[0-3]\\.attn\\.c_proj", "h.4.attn.c_proj"));
  EXPECT_TRUE(matches("h\\.\\d{2}\\..*", "h.10.mlp"));
  EXPECT_FALSE(matches("h\\.\\d{2}\\..*", "h.9.mlp"));
  EXPECT_TRUE(matches("(?:h)\\.\\d+\\.\\w+", "h.123.c_fc"));
}

TEST(NamePattern, AnchorsAtTheEndsChangeNothing) {
  EXPECT_TRUE(matches("^h\\.0$", "h.0"));
  EXPECT_FALSE(matches("^h\\.0$", "h.00"));
  EXPECT_TRUE(matches("^a|b$", "a"));
  EXPECT_TRUE(matches("^a|b$", "b"));
  EXPECT_TRUE(matches("a\\$", "a$"));
}

// Every pattern of up to a few parts agrees with the standard library on every short text.
TEST(NamePattern, AgreesWithStdRegexOnSmallPatterns) {
  std::vector<std::string> texts = {""};
  for (std::size_t i = 0; texts[i].size() < 4; ++i) {
    for (const char c : {'a', 'b', '.'}) texts.push_back(texts[i] + c);
  }
  const std::vector<std::string> atoms = {"a", ".", "\\.", "[ab]", "[^a]", "(a|b.)", "(ab)"};
  const std::vector<std::string> repeats = {"", "*", "+", "?", "{2}", "{0,1}", "{1,}", "{1,3}"};
  std::vector<std::string> parts;
  for (const std::string& atom : atoms) {
    for (const std::string& repeat : repeats) parts.push_back(atom + repeat);
  }
  std::size_t num_matches = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    for (std::size_t j = 0; j < parts.size(); j += 3) {
      for (const std::string& pattern :
           {parts[i] + parts[j], "(" + parts[i] + "|" + parts[j] + ")*"}) {
        const NamePattern ours(pattern, "here");
        const std::regex theirs(pattern);
        for (const std::string& text : texts) {
          const bool expected = std::regex_match(text, theirs);
          ASSERT_EQ(ours.matches(text), expected) << pattern << " on \"" << text << "\"";
          num_matches += expected;
        }
      }
    }
  }
  EXPECT_GT(num_matches, 1000U);
}

TEST(NamePattern, NestedRepeatsOfNothingEnd) {
  EXPECT_TRUE(matches("(a*)*", "aaa"));
  EXPECT_TRUE(matches("((a?)*)+", ""));
  EXPECT_TRUE(matches("()*", ""));
  EXPECT_FALSE(matches("(|a)*", "b"));
  EXPECT_TRUE(matches("a**", "aa"));
  EXPECT_TRUE(matches("a{0}", ""));
  EXPECT_FALSE(matches("a{0}", "a"));
}

TEST(NamePattern, ClassesTakeEscapesNegationAndLiteralDash) {
  EXPECT_TRUE(matches("[\\d_]+", "1_2"));
  EXPECT_TRUE(matches("[a-]+", "a-a"));
  EXPECT_TRUE(matches("[^0-9]+", "abc"));
  EXPECT_FALSE(matches("[^0-9]+", "a1c"));
  EXPECT_TRUE(matches("[\\]]", "]"));
  EXPECT_TRUE(matches("[\xc3\xa9]+", "\xc3\xa9"));
}

TEST(NamePattern, RefusesWhatItDoesNotKnowByName) {
  const struct {
    const char* pattern;
    const char* words;
  } kCases[] = {{"(", "( without )"},
                {"(a", "( without )"},
                {"a)", ") without ("},
                {"[a", "[ without ]"},
                {"[", "[ without ]"},
                {"[^", "[ without ]"},
                {"a\\", "ends in \\"},
                {"*a", "misplaced *"},
                {"(+)", "misplaced +"},
                {"a|?", "misplaced ?"},
                {"a^b", "misplaced ^"},
                {"a$b", "misplaced $"},
                {"^*", "misplaced *"},
                {"(?=a)", "special group"},
                {"(?<n>a)", "special group"},
                {"\\1", "unsupported \\1"},
                {"\\b", "unsupported \\b"},
                {"\\s", "unsupported \\s"},
                {"[z-a]", "from high to low"},
                {"[A-\\d]", "ends in \\"},
                {"a{", "{ without a number"},
                {"a{,3}", "{ without a number"},
                {"a{2", "{ without }"},
                {"a{2,x}", "{ without a number"},
                {"a{3,2}", "from high to low"},
                {"a{256}", "above 255"},
                {"a{99999999999999999999}", "above 255"},
                {"{2}", "misplaced {"},
                {"a}", "misplaced }"},
                {"a]", "misplaced ]"},
                {"((((a{50}){50}){50}){50})", "more than"},
                {"(((((){255}){255}){255}){255}){255}", "more than"},
                {"", "0 bytes"}};
  for (const auto& test : kCases) {
    const auto error = error_of([&] { NamePattern(test.pattern, "p.json: rules[0]"); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput) << test.pattern;
    EXPECT_THAT(error.message, HasSubstr(test.words)) << test.pattern;
    EXPECT_THAT(error.message, ::testing::StartsWith("p.json: rules[0]: ")) << test.pattern;
  }
}

TEST(NamePattern, BoundsLengthAndNesting) {
  EXPECT_TRUE(matches(std::string(256, 'a'), std::string(256, 'a')));
  EXPECT_THAT(error_of([] { NamePattern(std::string(257, 'a'), "here"); }).message,
              HasSubstr("257 bytes"));
  const std::string deep = std::string(40, '(') + "a" + std::string(40, ')');
  EXPECT_THAT(error_of([&] { NamePattern(deep, "here"); }).message, HasSubstr("too deeply"));
}

// A backtracking matcher would not come to an end here.
TEST(NamePattern, PatternsThatStopABacktrackingMatcherEnd) {
  const std::string name(64, 'a');
  EXPECT_FALSE(matches("(a+)+(a+)+(a+)+b", name));
  EXPECT_FALSE(matches("(a|a)*(a|aa)*c", name));
  std::string many;
  for (int i = 0; i < 60; ++i) many += "a*";
  EXPECT_FALSE(matches(many + "b", name));
  EXPECT_TRUE(matches("((a?){10}){10}a{10}", std::string(100, 'a')));
}

}  // namespace
}  // namespace qalof::quant
