// Patterns for module names: what they match, what is refused, and that no pattern is slow.
#include "core/name_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <vector>

#include "core/error.h"
#include "support/error_of.h"
#include "support/thread_seconds.h"

namespace qalof {
namespace name_pattern_test {

using testing::error_of;
using ::testing::HasSubstr;
using ::testing::StartsWith;

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
  // The longest way to match counts, not the first.
  EXPECT_TRUE(matches("a|ab", "ab"));
  EXPECT_TRUE(matches("a*?", "aaa"));
}

TEST(NamePattern, MatchesTheStartOfANameAndTellsAGroup) {
  const NamePattern pattern("(?:^|.*?\\.)(h|layers)\\.(?P<idx>\\d+)\\.", "here");
  std::string group;
  EXPECT_TRUE(pattern.matches_start("model.layers.12.h.3.x", "idx", &group));
  EXPECT_EQ(group, "12");
  EXPECT_TRUE(pattern.matches_start("h.3.x", "idx", &group));
  EXPECT_EQ(group, "3");
  EXPECT_FALSE(pattern.matches_start("h.3", "idx", &group));
  EXPECT_TRUE(NamePattern("a|b(?P<idx>c)", "here").matches_start("ax", "idx", &group));
  EXPECT_EQ(group, "");
  EXPECT_TRUE(NamePattern("ab", "here").matches_start("abc"));
  EXPECT_FALSE(NamePattern("bc", "here").matches_start("abc"));
}

TEST(NamePattern, AlternativesRangesAndCountsOfBlocks) {
  EXPECT_TRUE(matches("h\\.(10|11)\\..*", "h.11.mlp.c_fc"));
  EXPECT_FALSE(matches("h\\.(10|11)\\..*", "h.1.mlp.c_fc"));
  EXPECT_TRUE(matches("h\\.[0-3]\\.attn\\.c_proj", "h.3.attn.c_proj"));
  EXPECT_FALSE(matches("h\\.[0-3]\\.attn\\.c_proj", "h.4.attn.c_proj"));
  EXPECT_TRUE(matches("h\\.\\d{2}\\..*", "h.10.mlp"));
  EXPECT_FALSE(matches("h\\.\\d{2}\\..*", "h.9.mlp"));
  EXPECT_TRUE(matches("(?:h)\\.\\d+\\.\\w+", "h.123.c_fc"));
  EXPECT_TRUE(matches("a{300}", std::string(300, 'a')));
  EXPECT_TRUE(matches("\\bh\\b.*\\bc_fc\\b", "h.1.mlp.c_fc"));
}

TEST(NamePattern, AnchorsAtTheEndsChangeNothing) {
  EXPECT_TRUE(matches("^h\\.0$", "h.0"));
  EXPECT_FALSE(matches("^h\\.0$", "h.00"));
  EXPECT_TRUE(matches("^a|b$", "a"));
  EXPECT_TRUE(matches("^a|b$", "b"));
  EXPECT_TRUE(matches("a\\$", "a$"));
  // Elsewhere they can match nothing.
  EXPECT_FALSE(matches("a^b", "ab"));
  EXPECT_FALSE(matches("a$b", "ab"));
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
  EXPECT_TRUE(matches("a{0}", ""));
  EXPECT_FALSE(matches("a{0}", "a"));
}

TEST(NamePattern, ClassesTakeEscapesNegationAndLiteralDash) {
  EXPECT_TRUE(matches("[\\d_]+", "1_2"));
  EXPECT_TRUE(matches("[a-]+", "a-a"));
  EXPECT_TRUE(matches("[^0-9]+", "abc"));
  EXPECT_FALSE(matches("[^0-9]+", "a1c"));
  EXPECT_TRUE(matches("[\\]]", "]"));
  EXPECT_TRUE(matches("[]a]+", "a]"));
  EXPECT_TRUE(matches("[^]a]+", "b("));
  EXPECT_TRUE(matches("[\xc3\xa9]+", "\xc3\xa9"));
  // A code point, not a byte.
  EXPECT_TRUE(matches(".", "\xc3\xa9"));
}

// What only looks like something that is refused.
TEST(NamePattern, LiteralsThatLookLikeOtherThings) {
  EXPECT_TRUE(matches("[(?=a)]+", "(?=a)"));
  EXPECT_TRUE(matches("\\(\\?=a\\)", "(?=a)"));
  EXPECT_TRUE(matches("a{2", "a{2"));
  EXPECT_TRUE(matches("a{,x}", "a{,x}"));
  EXPECT_TRUE(matches("[{,3}]+", "{,3}"));
  EXPECT_TRUE(matches("a}", "a}"));
  EXPECT_TRUE(matches("a]", "a]"));
}

TEST(NamePattern, RefusesWhatIsMalformedByName) {
  const struct {
    const char* pattern;
    const char* words;
  } kCases[] = {{"(", "missing ): ("},
                {"(a", "missing ): (a"},
                {"a)", "unexpected ): a)"},
                {"[a", "missing ]: [a"},
                {"[^", "missing ]: [^"},
                {"a\\", "trailing \\"},
                {"*a", "no argument for repetition operator: *"},
                {"(+)", "no argument for repetition operator: +"},
                {"a|?", "no argument for repetition operator: ?"},
                {"[z-a]", "invalid character class range: z-a"},
                {"\xff", "invalid UTF-8"},
                {"", "0 bytes"}};
  for (const auto& test : kCases) {
    const auto error = error_of([&] { NamePattern(test.pattern, "p.json: rules[0]"); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput) << test.pattern;
    EXPECT_THAT(error.message, HasSubstr(test.words)) << test.pattern;
    EXPECT_THAT(error.message, StartsWith("p.json: rules[0]: ")) << test.pattern;
  }
}

TEST(NamePattern, RefusesWhatRe2DoesNotHaveByName) {
  const struct {
    const char* pattern;
    const char* words;
  } kCases[] = {{"(?=a)", "uses look-around, (?="},
                {"^(?!.*vision).*", "uses look-around, (?!"},
                {"[]]a(?<=a)b", "uses look-around, (?<="},
                {"(?<!a)b", "uses look-around, (?<!"},
                {"(a)\\1", "uses a back reference, \\1"},
                {"(?P<n>a)(?P=n)", "uses a back reference, (?P="},
                {"(a)?(?(1)b|c)", "uses a back reference, (?("},
                {"(?>a)", "uses a group that is not implemented, (?>"},
                {"a(?#b)", "uses a group that is not implemented, (?#"},
                {"a{,3}", "uses {,3}, which is to be written {0,3}"},
                {"[[:alpha:]]", "uses a named class, [:"},
                {"a\\Z", "invalid escape sequence: \\Z"},
                {"a*+", "bad repetition operator: *+"},
                {"a**", "bad repetition operator: **"},
                {"a{3,2}", "invalid repetition size: {3,2}"},
                {"a{1001}", "invalid repetition size: {1001}"},
                {"(?x)a", "invalid perl operator: (?x"},
                {"((((a{50}){50}){50}){50})", "invalid repetition size: {50}"},
                {"\\pL{1000}", "pattern too large"}};
  for (const auto& test : kCases) {
    const auto error = error_of([&] { NamePattern(test.pattern, "p.json: rules[0]"); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported) << test.pattern << ": " << error.message;
    EXPECT_THAT(error.message, HasSubstr(test.words)) << test.pattern;
    EXPECT_THAT(error.message, StartsWith("p.json: rules[0]: ")) << test.pattern;
  }
}

TEST(NamePattern, BoundsLengthAndNesting) {
  const std::string longest(NamePattern::kMaxBytes, 'a');
  EXPECT_TRUE(matches(longest, longest));
  const auto error = error_of([&] { NamePattern(longest + "a", "here"); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("a pattern of 65537 bytes, at most 65536"));
  EXPECT_TRUE(matches(std::string(500, '(') + "a" + std::string(500, ')'), "a"));
}

// A backtracking matcher would not come to an end here.
TEST(NamePattern, PatternsThatStopABacktrackingMatcherEnd) {
  const double start = testing::thread_seconds();
  const std::string name(64, 'a');
  EXPECT_FALSE(matches("(a+)+(a+)+(a+)+b", name));
  EXPECT_FALSE(matches("(a|a)*(a|aa)*c", name));
  std::string many;
  for (int i = 0; i < 60; ++i) many += "a*";
  EXPECT_FALSE(matches(many + "b", name));
  EXPECT_TRUE(matches("((a?){10}){10}a{10}", std::string(100, 'a')));
  std::string alternatives;
  for (int i = 0; i < 3000; ++i) alternatives += fmt::format(".*{}.*|", i);
  EXPECT_FALSE(matches(alternatives + "b", name));
  EXPECT_LT(testing::thread_seconds_since(start), 5.0);
}

}  // namespace name_pattern_test
}  // namespace qalof
