// Canonical composition with alignments, prepending and replacing.
#include "text/normalizer.h"

#include <algorithm>

#include "core/error.h"
#include "text/unicode_tables.h"

namespace qalof::text {

namespace normalizer {

constexpr std::size_t kMaxSteps = 32;
constexpr int kMaxDepth = 8;
constexpr std::size_t kTableSize = 0x30000;  // no code point beyond it has such a property
constexpr std::uint8_t kUnstable = 255;      // a starter that changes, or composes with another

// Hangul syllables are computed, not listed.
constexpr std::uint32_t kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11a7;
constexpr std::uint32_t kNumLeads = 19, kNumVowels = 21, kNumTails = 28;
constexpr std::uint32_t kNumSyllables = kNumLeads * kNumVowels * kNumTails;

struct Composition {
  std::uint32_t first, second, point;
};

// Combining classes, or kUnstable, by code point; and the pairs that compose, sorted.
struct Tables {
  std::vector<std::uint8_t> classes = std::vector<std::uint8_t>(kTableSize);
  std::vector<Composition> compositions;

  Tables() {
    for (const CombiningRun& run : combining_runs())
      std::fill(classes.begin() + run.first, classes.begin() + run.last + 1,
                static_cast<std::uint8_t>(run.combining_class));
    const auto unsettle = [&](std::uint32_t point) {
      if (classes[point] == 0) classes[point] = kUnstable;
    };
    for (const Decomposition& one : decompositions()) {
      if (one.composes == 0) {
        unsettle(one.point);
      } else {
        compositions.push_back({one.first, one.second, one.point});
        unsettle(one.second);
      }
    }
    for (std::uint32_t i = 0; i < kNumVowels; ++i) unsettle(kVowels + i);
    for (std::uint32_t i = 1; i < kNumTails; ++i) unsettle(kTails + i);
    std::ranges::sort(compositions, [](const Composition& a, const Composition& b) {
      return a.first != b.first ? a.first < b.first : a.second < b.second;
    });
  }
};

const Tables& tables() {
  static const Tables instance;
  return instance;
}

std::uint8_t property(const std::uint8_t* classes, std::uint32_t point) {
  return point < kTableSize ? classes[point] : std::uint8_t{0};
}

std::uint32_t combining_class(std::uint32_t point) {
  const std::uint8_t found = property(tables().classes.data(), point);
  return found == kUnstable ? 0 : found;
}

// The composition of two code points, or 0.
std::uint32_t compose(std::uint32_t first, std::uint32_t second) {
  if (first - kLeads < kNumLeads && second - kVowels < kNumVowels)
    return kSyllables + ((first - kLeads) * kNumVowels + (second - kVowels)) * kNumTails;
  if (first - kSyllables < kNumSyllables && (first - kSyllables) % kNumTails == 0 &&
      second - kTails - 1 < kNumTails - 1)
    return first + (second - kTails);
  const auto& all = tables().compositions;
  const auto found = std::ranges::lower_bound(
      all, std::pair(first, second), {},
      [](const Composition& one) { return std::pair(one.first, one.second); });
  const bool is_found = found != all.end() && found->first == first && found->second == second;
  return is_found ? found->point : 0;
}

// A code point of the new text, and how it relates to the old one: change 0 stands for the next old
// code point, -n for it and the n after it, 1 for none of its own.
struct Changed {
  std::uint32_t point;
  int change;
  std::uint32_t combining_class = 0;
};

void decompose(std::uint32_t point, std::vector<Changed>* out) {
  std::vector<std::uint32_t> parts;  // from the last one on
  const auto split = [&](const auto& self, std::uint32_t one) -> void {
    if (one - kSyllables < kNumSyllables) {
      const std::uint32_t index = one - kSyllables;
      parts.push_back(kLeads + index / (kNumVowels * kNumTails));
      parts.push_back(kVowels + index / kNumTails % kNumVowels);
      if (index % kNumTails != 0) parts.push_back(kTails + index % kNumTails);
      return;
    }
    const auto all = decompositions();
    const auto found = std::ranges::lower_bound(all, one, {}, &Decomposition::point);
    if (found == all.end() || found->point != one) {
      parts.push_back(one);
      return;
    }
    self(self, found->first);
    if (found->second != 0) self(self, found->second);
  };
  split(split, point);
  for (std::size_t i = 0; i < parts.size(); ++i)
    out->push_back({parts[i], i == 0 ? 0 : 1, combining_class(parts[i])});
}

void sort_marks(std::vector<Changed>* points) {
  for (std::size_t i = 0; i < points->size();) {
    std::size_t end = i;
    while (end < points->size() && (*points)[end].combining_class != 0) ++end;
    std::stable_sort(
        points->begin() + static_cast<std::ptrdiff_t>(i),
        points->begin() + static_cast<std::ptrdiff_t>(end),
        [](const Changed& a, const Changed& b) { return a.combining_class < b.combining_class; });
    i = end + 1;
  }
}

// Composes points in canonical order: a mark joins the last starter unless a mark between them has
// its class or a higher one.
std::vector<Changed> recompose(const std::vector<Changed>& points) {
  std::vector<Changed> out;
  std::size_t starter = SIZE_MAX;  // in out
  std::uint32_t last_class = 0;    // of the marks after it, 0: none
  for (const Changed& one : points) {
    const bool may_join =
        starter != SIZE_MAX &&
        (starter + 1 == out.size() || (last_class != 0 && last_class < one.combining_class));
    const std::uint32_t joined = may_join ? compose(out[starter].point, one.point) : 0;
    if (joined != 0) {
      out[starter].point = joined;
      out[starter].change += one.change - 1;
      continue;
    }
    last_class = one.combining_class;
    if (one.combining_class == 0) starter = out.size();
    out.push_back(one);
  }
  return out;
}

// Composes bytes first .. last of piece into buffer.
void compose_part(const TextPiece& piece, std::size_t first, std::size_t last, TextBuffer* buffer) {
  std::vector<Changed> points;
  for (std::size_t at = first; at < last;)
    decompose(next_valid_code_point(piece.text, &at), &points);
  sort_marks(&points);
  std::size_t at = first;
  std::string bytes;
  for (const Changed& one : recompose(points)) {
    // A code point of no old one stands for what the one before it stood for.
    const SourceSpan source = one.change <= 0 && at < last ? piece.source_of_point(at)
                              : at > 0
                                  ? piece.source_of_point(previous_code_point(piece.text, at))
                                  : SourceSpan{piece.source(0, 1).start, piece.source(0, 1).start};
    for (int i = 0; i >= one.change && at < last; --i) next_valid_code_point(piece.text, &at);
    bytes.clear();
    append_utf8(one.point, &bytes);
    buffer->append(bytes, source);
  }
}

// True where piece changes, which is then in buffer.
bool to_nfc(const TextPiece& piece, TextBuffer* buffer) {
  constexpr std::uint32_t kFirst = 0x300;  // no code point below it is a mark or unstable
  const std::uint8_t* classes = tables().classes.data();
  const std::string_view text = piece.text;
  std::size_t done = 0, starter = 0;  // start of the last starter that stays
  bool is_changed = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    const std::uint32_t point = next_valid_code_point(text, &at);
    if (point < kFirst || property(classes, point) == 0) {
      starter = start;
      continue;
    }
    // From the last starter before to the next one after, which begins anew.
    while (at < text.size()) {
      std::size_t next = at;
      if (property(classes, next_valid_code_point(text, &next)) == 0) break;
      at = next;
    }
    if (!is_changed) buffer->reserve(text.size());
    is_changed = true;
    buffer->append(piece, done, starter);
    compose_part(piece, starter, at, buffer);
    done = starter = at;
  }
  if (is_changed) buffer->append(piece, done, text.size());
  return is_changed;
}

}  // namespace normalizer

TextPattern TextPattern::read(const Json& object, const std::string& where) {
  const bool has_pattern = object.is_object() && object.contains("pattern");
  const Json pattern = has_pattern ? object["pattern"] : Json();
  QALOF_CHECK(pattern.is_object() && pattern.size() == 1 && pattern.begin()->is_string() &&
                  (pattern.contains("String") || pattern.contains("Regex")),
              ErrorKind::kBadInput,
              "{}: pattern is {:.60}, expected {{\"String\": ..}} or "
              "{{\"Regex\": ..}}",
              where, pattern.dump());
  TextPattern result;
  const auto& text = pattern.begin()->get_ref<const std::string&>();
  QALOF_CHECK(!text.empty(), ErrorKind::kUnsupported, "{}: an empty pattern is not implemented",
              where);
  if (pattern.contains("String")) {
    result.literal_ = text;
  } else {
    result.regex_ = std::make_shared<const SplitPattern>(SplitPattern::parse(text, where));
  }
  return result;
}

void Normalizer::add(const Json& json, const std::string& where, int depth) {
  const std::string type = json_string(json, "type", where);
  QALOF_CHECK(steps_.size() < normalizer::kMaxSteps && depth < normalizer::kMaxDepth,
              ErrorKind::kUnsupported, "{}: has over {} steps", where, normalizer::kMaxSteps);
  if (type == "Sequence") {
    QALOF_CHECK(json.contains("normalizers") && json["normalizers"].is_array(),
                ErrorKind::kBadInput, "{}.normalizers: is missing or no list", where);
    for (std::size_t i = 0; i < json["normalizers"].size(); ++i)
      add(json["normalizers"][i], fmt::format("{}.normalizers[{}]", where, i), depth + 1);
  } else if (type == "NFC") {
    steps_.emplace_back(Nfc{});
  } else if (type == "Prepend") {
    steps_.emplace_back(Prepend{json_string(json, "prepend", where)});
  } else if (type == "Replace") {
    steps_.emplace_back(
        Replace{TextPattern::read(json, where), json_string(json, "content", where)});
  } else {
    fail(ErrorKind::kUnsupported,
         "{}: is {:.40}, implemented are NFC, Prepend, Replace and a Sequence of them", where,
         type);
  }
}

Normalizer Normalizer::read(const Json& json, const std::string& where) {
  Normalizer result;
  if (!json.is_null()) result.add(json, where, 0);
  return result;
}

TextPiece Normalizer::apply(TextPiece piece, TextBuffer* buffer) const {
  for (const Step& step : steps_) {
    if (piece.text.empty()) break;
    TextBuffer next;
    bool is_changed = true;
    if (std::holds_alternative<Nfc>(step)) {
      is_changed = normalizer::to_nfc(piece, &next);
    } else if (const auto* prepend = std::get_if<Prepend>(&step)) {
      next.reserve(piece.text.size() + prepend->text.size());
      next.append(prepend->text, piece.source_of_point(0));
      next.append(piece, 0, piece.text.size());
    } else {
      const auto& replace = std::get<Replace>(step);
      std::size_t done = 0;
      next.reserve(piece.text.size() + piece.text.size() / 2);
      replace.pattern.for_each_match(piece.text, [&](std::size_t start, std::size_t end) {
        next.append(piece, done, start);
        next.append(replace.content, piece.source_of_point(previous_code_point(piece.text, end)));
        done = end;
      });
      is_changed = done > 0;
      if (is_changed) next.append(piece, done, piece.text.size());
    }
    if (!is_changed) continue;
    *buffer = std::move(next);
    piece = buffer->piece();
  }
  return piece;
}

}  // namespace qalof::text
