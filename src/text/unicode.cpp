// UTF-8 decoding, character classes and Python's lower(), over the tables of unicode_tables.cpp.
#include "text/unicode.h"

#include <algorithm>
#include <array>

#include "text/unicode_tables.h"

namespace qalof::text {

namespace {

constexpr std::uint32_t kTableSize = 0x20000;  // looked up directly: two planes

bool in_ranges(std::span<const CodeRange> ranges, std::uint32_t point) {
  const auto it = std::upper_bound(
      ranges.begin(), ranges.end(), point,
      [](std::uint32_t value, const CodeRange& range) { return value < range.first; });
  return it != ranges.begin() && point <= std::prev(it)->last;
}

constexpr std::string_view kCategoryNames =
    "LuLlLtLmLoMnMcMeNdNlNoPcPdPsPePiPfPoSmScSkSoZsZlZpCcCfCsCoCn";
constexpr std::uint32_t kCategoryBits = 5;  // of a run, below its first code point

std::uint8_t category_of_run(std::uint32_t run) {
  return static_cast<std::uint8_t>(run & ((1U << kCategoryBits) - 1));
}

const std::vector<std::uint8_t>& category_table() {
  static const auto table = [] {
    std::vector<std::uint8_t> categories(kTableSize);
    const std::span<const std::uint32_t> runs = category_runs();
    for (std::size_t i = 0; i < runs.size() && runs[i] >> kCategoryBits < kTableSize; ++i) {
      const std::uint32_t next = i + 1 < runs.size() ? runs[i + 1] >> kCategoryBits : kTableSize;
      std::fill(categories.begin() + (runs[i] >> kCategoryBits),
                categories.begin() + std::min(next, kTableSize), category_of_run(runs[i]));
    }
    return categories;
  }();
  return table;
}

std::uint32_t lower_of(std::uint32_t point) {
  const std::span<const LowerRun> runs = lower_runs();
  const auto after =
      std::upper_bound(runs.begin(), runs.end(), point,
                       [](std::uint32_t value, const LowerRun& run) { return value < run.first; });
  if (after == runs.begin()) return point;
  const LowerRun& run = *std::prev(after);
  if (point <= run.last && (point - run.first) % run.step == 0) {
    return static_cast<std::uint32_t>(static_cast<std::int64_t>(point) + run.delta);
  }
  return point;
}

// Unicode's Final_Sigma: a cased letter before, none after; case-ignorable points between are
// skipped.
bool is_final_sigma(const std::vector<std::uint32_t>& points, std::size_t index) {
  auto is_ignorable = [](std::uint32_t point) { return in_ranges(case_ignorable_ranges(), point); };
  std::size_t before = index;
  while (before > 0 && is_ignorable(points[before - 1])) --before;
  if (before == 0 || !in_ranges(cased_ranges(), points[before - 1])) return false;
  std::size_t after = index + 1;
  while (after < points.size() && is_ignorable(points[after])) ++after;
  return after == points.size() || !in_ranges(cased_ranges(), points[after]);
}

}  // namespace

std::uint32_t next_code_point(std::string_view text, std::size_t* position) {
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const std::size_t start = *position;
  const std::uint32_t lead = byte(start);
  *position = start + 1;
  if (lead < 0x80) return lead;
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || start + length > text.size()) return kInvalidCodePoint;
  std::uint32_t point = lead & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(start + i) & 0xc0U) != 0x80) return kInvalidCodePoint;
    point = point << 6 | (byte(start + i) & 0x3fU);
  }
  constexpr std::uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (point < kSmallest[length] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
    return kInvalidCodePoint;
  *position = start + length;
  return point;
}

bool is_ascii(std::string_view text) {
  return std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) >= 0x80; });
}

std::size_t find_invalid_utf8(std::string_view text) {
  constexpr std::size_t kBlock = 32;  // plain ASCII is passed over in blocks
  for (std::size_t i = 0; i < text.size();) {
    if (i + kBlock <= text.size() && is_ascii(text.substr(i, kBlock))) {
      i += kBlock;
      continue;
    }
    const std::size_t start = i;
    if (next_code_point(text, &i) == kInvalidCodePoint) return start;
  }
  return std::string_view::npos;
}

void check_utf8(std::string_view text, const std::string& where, ErrorKind kind) {
  const std::size_t invalid = find_invalid_utf8(text);
  if (invalid == std::string_view::npos) return;
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff"))
    fail(kind, "{}: begins as UTF-16 does, expected UTF-8", where);
  fail(kind, "{}: line {}: not UTF-8 at byte {}", where,
       1 + std::ranges::count(text.substr(0, invalid), '\n'), invalid);
}

void append_utf8(std::uint32_t point, std::string* text) {
  auto add = [&](std::uint32_t byte) { text->push_back(static_cast<char>(byte)); };
  if (point < 0x80) {
    add(point);
  } else if (point < 0x800) {
    add(0xc0 | point >> 6);
    add(0x80 | (point & 0x3f));
  } else if (point < 0x10000) {
    add(0xe0 | point >> 12);
    add(0x80 | (point >> 6 & 0x3f));
    add(0x80 | (point & 0x3f));
  } else {
    add(0xf0 | point >> 18);
    add(0x80 | (point >> 12 & 0x3f));
    add(0x80 | (point >> 6 & 0x3f));
    add(0x80 | (point & 0x3f));
  }
}

std::vector<std::uint32_t> to_code_points(std::string_view text) {
  std::vector<std::uint32_t> points;
  points.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) points.push_back(next_code_point(text, &i));
  return points;
}

std::vector<std::size_t> code_point_offsets(std::string_view text) {
  std::vector<std::size_t> offsets;
  for (std::size_t i = 0; i < text.size();) {
    offsets.push_back(i);
    next_code_point(text, &i);
  }
  offsets.push_back(text.size());
  return offsets;
}

std::size_t count_code_points(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

Category find_category(std::uint32_t point) {
  static const std::uint8_t* const table = category_table().data();
  if (point < kTableSize) return static_cast<Category>(table[point]);
  const std::span<const std::uint32_t> runs = category_runs();
  const auto after = std::upper_bound(
      runs.begin(), runs.end(), point,
      [](std::uint32_t value, std::uint32_t run) { return value < run >> kCategoryBits; });
  return static_cast<Category>(category_of_run(*std::prev(after)));
}

std::uint32_t category_bits(std::string_view prefix) {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < kNumCategories && !prefix.empty() && prefix.size() <= 2; ++i) {
    if (kCategoryNames.substr(2 * i, 2).starts_with(prefix)) bits |= 1U << i;
  }
  return bits;
}

bool is_letter(std::uint32_t point) { return find_category(point) <= Category::kLo; }
bool is_number(std::uint32_t point) {
  const Category category = find_category(point);
  return category >= Category::kNd && category <= Category::kNo;
}
bool is_white_space(std::uint32_t point) {
  if (point < 0x80) return point == ' ' || (point >= 0x09 && point <= 0x0d);
  const Category category = find_category(point);
  return point == 0x85 || (category >= Category::kZs && category <= Category::kZp);
}
bool is_python_space(std::uint32_t point) { return in_ranges(python_space_ranges(), point); }
bool is_python_word(std::uint32_t point) { return in_ranges(python_word_ranges(), point); }

std::string python_lower(std::string_view text) {
  constexpr std::uint32_t kCapitalSigma = 0x3a3, kSigma = 0x3c3, kFinalSigma = 0x3c2,
                          kCapitalIWithDot = 0x130;
  const std::vector<std::uint32_t> points = to_code_points(text);
  std::string lower;
  lower.reserve(text.size());
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (points[i] == kCapitalSigma) {
      append_utf8(is_final_sigma(points, i) ? kFinalSigma : kSigma, &lower);
    } else if (points[i] == kCapitalIWithDot) {
      lower += "i\xcc\x87";  // i and U+0307, a combining dot above
    } else {
      append_utf8(lower_of(points[i]), &lower);
    }
  }
  return lower;
}

std::string_view python_lstrip(std::string_view text) {
  std::size_t start = 0;
  while (start < text.size()) {
    std::size_t next = start;
    if (!is_python_space(next_code_point(text, &next))) break;
    start = next;
  }
  return text.substr(start);
}

}  // namespace qalof::text
