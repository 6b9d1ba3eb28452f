// UTF-8 and character classes against Python and PCRE2, for every code point.
#include "text/unicode.h"

#include <gtest/gtest.h>

#include <functional>

#include "support/error_of.h"
#include "text/fixtures.h"

#ifdef QALOF_HAS_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <random>
#endif

namespace qalof::text {
namespace unicode_test {

using qalof::testing::Fnv;
using qalof::testing::text_data;

void for_each_code_point(const std::function<void(std::uint32_t, const std::string&)>& action) {
  for (std::uint32_t point = 0; point < 0x110000; ++point) {
    if (point >= 0xd800 && point < 0xe000) continue;
    std::string text;
    append_utf8(point, &text);
    action(point, text);
  }
}

TEST(Unicode, EveryCodePointGoesToUtf8AndBack) {
  for_each_code_point([](std::uint32_t point, const std::string& text) {
    std::size_t position = 0;
    ASSERT_EQ(next_code_point(text, &position), point);
    ASSERT_EQ(position, text.size());
  });
}

TEST(Unicode, BytesThatAreNotUtf8AreFoundWhereTheyStand) {
  EXPECT_EQ(find_invalid_utf8("ok \u00e9"), std::string_view::npos);
  for (const std::string bad : {"\x80", "\xc3", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xbf\xbf",
                                "\xf8\x88\x80\x80", "\xf4\x90\x80\x80", "\xf0\x9f\x98"}) {
    EXPECT_EQ(find_invalid_utf8("a\u00e9" + bad), 3U);
  }
}

TEST(Unicode, ARefusalNamesTheFileTheLineAndTheByte) {
  const auto refusal = [](const std::string& text) {
    const auto error = qalof::testing::error_of([&] { check_utf8(text, "notes.txt"); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput);
    return error.message;
  };
  EXPECT_NO_THROW(check_utf8("a\n\u00e9\n", "notes.txt"));
  EXPECT_NO_THROW(check_utf8("", "notes.txt"));
  EXPECT_EQ(refusal("a\nb\ncd\xff"), "notes.txt: line 3: not UTF-8 at byte 6");
  EXPECT_EQ(refusal("\xe9"), "notes.txt: line 1: not UTF-8 at byte 0");
  EXPECT_EQ(refusal(std::string("\xff\xfe\x61\x00", 4)),
            "notes.txt: begins as UTF-16 does, expected UTF-8");
}

// Hashes over all code points, computed by Python itself.
TEST(Unicode, MetricPropertiesAreThoseOfPython) {
  const Json expected = read_json_file(text_data("unicode.json"));
  auto flags = [](const std::function<bool(std::uint32_t)>& property) {
    Fnv hash;
    for_each_code_point(
        [&](std::uint32_t point, const std::string&) { hash.add(property(point)); });
    return hash.text();
  };
  auto lower = [](const std::string& before, const std::string& after) {
    Fnv hash;
    for_each_code_point([&](std::uint32_t, const std::string& text) {
      for (const std::uint32_t point : to_code_points(python_lower(before + text + after))) {
        hash.add(point);
      }
      hash.add('\n');
    });
    return hash.text();
  };
  EXPECT_EQ(flags(is_python_space), expected["python_space"]);
  EXPECT_EQ(flags(is_python_word), expected["python_word"]);
  EXPECT_EQ(lower("", ""), expected["lower"]);
  EXPECT_EQ(lower("A\u03a3", ""), expected["sigma_before"]);
  EXPECT_EQ(lower("A\u03a3", "B"), expected["sigma_between"]);
  EXPECT_EQ(lower("A", "\u03a3"), expected["sigma_after"]);
}

TEST(Unicode, LeadingWhiteSpaceGoesAsInPython) {
  EXPECT_EQ(python_lstrip(" \t\x1c\u0085\u3000 a "), "a ");
  EXPECT_EQ(python_lstrip("\u200ba"), "\u200ba");
  EXPECT_EQ(python_lstrip(" \n"), "");
}

#ifdef QALOF_HAS_PCRE2

class Pattern {
 public:
  explicit Pattern(const char* pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                              PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
    match_.reset(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  }
  /// End of the match at start, or 0.
  std::size_t match(std::string_view text, std::size_t start = 0) const {
    const int found = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                  text.size(), start, PCRE2_ANCHORED, match_.get(), nullptr);
    return found > 0 ? pcre2_get_ovector_pointer(match_.get())[1] : 0;
  }

 private:
  std::unique_ptr<pcre2_code, void (*)(pcre2_code*)> code_{nullptr, pcre2_code_free};
  std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match_{nullptr,
                                                                        pcre2_match_data_free};
};

// PCRE2 may know an older Unicode than the tables: points it calls unassigned are left out. Its \s
// holds U+180E, which Unicode no longer calls white space.
bool is_comparable(const Pattern& unassigned, std::uint32_t point, const std::string& text) {
  return point != 0x180e && unassigned.match(text) == 0;
}

TEST(PreTokenizer, ClassesAreThoseOfPcre2) {
  const Pattern unassigned("\\p{Cn}"), letter("\\p{L}"), number("\\p{N}"), space("\\s");
  std::size_t compared = 0;
  for_each_code_point([&](std::uint32_t point, const std::string& text) {
    if (!is_comparable(unassigned, point, text)) return;
    ++compared;
    ASSERT_EQ(is_letter(point), letter.match(text) > 0) << point;
    ASSERT_EQ(is_number(point), number.match(text) > 0) << point;
    ASSERT_EQ(is_white_space(point), space.match(text) > 0) << point;
  });
  EXPECT_GT(compared, 250'000U);
}

TEST(PreTokenizer, SplitsAsPcre2DoesWithTheOriginalPattern) {
  const Pattern unassigned("\\p{Cn}");
  const Pattern pattern(
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+");
  std::mt19937 engine(11);
  auto random = [&] { return static_cast<std::uint32_t>(engine()); };
  const std::string common = " '  \nstrevmlld19.,-";
  for (int i = 0; i < 20'000; ++i) {
    std::string text;
    for (std::size_t n = random() % 24; n > 0; --n) {
      std::uint32_t point = static_cast<unsigned char>(common[random() % common.size()]);
      const std::uint32_t kind = random() % 8;
      if (kind == 0) point = random() % 0x110000;
      if (kind == 1) point = random() % 0x3000;
      if (kind == 2) point = random() % 0x100;
      std::string piece;
      if (point < 0xd800 || point >= 0xe000) append_utf8(point, &piece);
      if (!piece.empty() && is_comparable(unassigned, point, piece)) text += piece;
    }
    for (std::size_t start = 0; start < text.size();) {
      const std::size_t end = next_pre_token(text, start);
      ASSERT_EQ(end, pattern.match(text, start)) << Json(text).dump() << " from byte " << start;
      start = end;
    }
  }
}

#endif

}  // namespace unicode_test
}  // namespace qalof::text
