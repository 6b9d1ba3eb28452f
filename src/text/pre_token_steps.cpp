// Reads pre-tokenizers and cuts texts by them, step after step.
#include "text/pre_token_steps.h"

#include <algorithm>

#include "core/error.h"

namespace qalof::text {

namespace pre_token_steps {

constexpr std::size_t kMaxSteps = 32;
constexpr int kMaxDepth = 8;

struct Part {
  std::size_t start, end;
  bool is_match;
};

bool is_on(const Json& object, const char* key, bool by_default, const std::string& where) {
  return object.contains(key) && !object[key].is_null() ? json_bool(object, key, where)
                                                        : by_default;
}

void add_part(std::vector<Part>* parts, std::size_t start, std::size_t end, bool is_match) {
  if (start < end) parts->push_back({start, end, is_match});
}

std::vector<Part> parts_of(std::string_view text, const TextPattern& pattern, bool inverted) {
  std::vector<Part> parts;
  std::size_t done = 0;
  pattern.for_each_match(text, [&](std::size_t start, std::size_t end) {
    add_part(&parts, done, start, inverted);
    add_part(&parts, start, end, !inverted);
    done = end;
  });
  add_part(&parts, done, text.size(), inverted);
  return parts;
}

// Numbers one by one, and the text between.
std::vector<Part> number_parts(std::string_view text) {
  std::vector<Part> parts;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    if (!is_number(next_valid_code_point(text, &at))) continue;
    add_part(&parts, done, start, false);
    add_part(&parts, start, at, true);
    done = at;
  }
  add_part(&parts, done, text.size(), false);
  return parts;
}

// Joins neighbours as the behavior says; is_match then means "left out".
void join_parts(std::vector<Part>* parts, SplitBehavior behavior) {
  if (behavior == SplitBehavior::kRemoved) return;
  std::vector<Part> joined;
  const bool from_end = behavior == SplitBehavior::kMergedWithNext;
  bool after_match = false;
  for (std::size_t i = 0; i < parts->size(); ++i) {
    const Part& part = (*parts)[from_end ? parts->size() - 1 - i : i];
    const bool joins =
        !joined.empty() && (behavior == SplitBehavior::kContiguous ? part.is_match == after_match
                            : behavior == SplitBehavior::kIsolated ? false
                                                                   : part.is_match && !after_match);
    after_match = part.is_match;
    if (!joins) {
      joined.push_back({part.start, part.end, false});
    } else if (from_end) {
      joined.back().start = part.start;
    } else {
      joined.back().end = part.end;
    }
  }
  if (from_end) std::reverse(joined.begin(), joined.end());
  *parts = std::move(joined);
}

}  // namespace pre_token_steps

using pre_token_steps::is_on;

MetaspaceSettings MetaspaceSettings::read(const Json& json, const std::string& where) {
  MetaspaceSettings settings;
  if (json.contains("replacement")) settings.replacement = json_string(json, "replacement", where);
  QALOF_CHECK(count_code_points(settings.replacement) == 1, ErrorKind::kBadInput,
              "{}.replacement: expected one character", where);
  const bool has_scheme = json.contains("prepend_scheme") && !json["prepend_scheme"].is_null();
  const bool prepends = is_on(json, "add_prefix_space", true, where);
  if (has_scheme) {
    const std::string scheme = json_string(json, "prepend_scheme", where);
    QALOF_CHECK(
        scheme == "never" || scheme == "first" || scheme == "always", ErrorKind::kUnsupported,
        "{}.prepend_scheme: is {:.40}, implemented are never, first and always", where, scheme);
    settings.prepend_scheme = scheme == "never"   ? PrependScheme::kNever
                              : scheme == "first" ? PrependScheme::kFirst
                                                  : PrependScheme::kAlways;
    QALOF_CHECK(prepends || scheme == "never", ErrorKind::kBadInput,
                "{}: add_prefix_space is false, but prepend_scheme {}", where, scheme);
  } else if (!prepends) {
    settings.prepend_scheme = PrependScheme::kNever;
  }
  settings.splits = is_on(json, "split", true, where);
  return settings;
}

void PreTokenSteps::add_split(const Json& json, const std::string& where) {
  const std::string behavior = json_string(json, "behavior", where);
  const std::pair<const char*, SplitBehavior> behaviors[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  const auto* const found =
      std::ranges::find_if(behaviors, [&](const auto& one) { return one.first == behavior; });
  QALOF_CHECK(found != std::end(behaviors), ErrorKind::kUnsupported,
              "{}.behavior: {:.40} is not implemented", where, behavior);
  const bool inverted = is_on(json, "invert", false, where);
  if (found->second == SplitBehavior::kIsolated && !inverted && json.contains("pattern")) {
    // These cut the whole text into matches; hand-written code does it several times as fast.
    for (const auto& [pattern, kind] :
         {std::pair{kLlama3Pattern, std::optional(PreTokenizer::kLlama3)},
          {kQwen2Pattern, std::nullopt}}) {
      if (json["pattern"] != Json{{"Regex", std::string(pattern)}}) continue;
      steps_.emplace_back(Tiles{kind});
      return;
    }
  }
  steps_.emplace_back(Split{TextPattern::read(json, where), found->second, inverted});
}

void PreTokenSteps::add(const Json& json, const std::string& where, int depth) {
  using pre_token_steps::kMaxSteps;
  const std::string type = json_string(json, "type", where);
  QALOF_CHECK(steps_.size() < kMaxSteps && depth < pre_token_steps::kMaxDepth,
              ErrorKind::kUnsupported, "{}: has over {} steps", where, kMaxSteps);
  QALOF_CHECK(!is_byte_level_, ErrorKind::kUnsupported,
              "{}: {:.40} after ByteLevel is not implemented", where, type);
  if (type == "Sequence") {
    QALOF_CHECK(json.contains("pretokenizers") && json["pretokenizers"].is_array(),
                ErrorKind::kBadInput, "{}.pretokenizers: is missing or no list", where);
    for (std::size_t i = 0; i < json["pretokenizers"].size(); ++i)
      add(json["pretokenizers"][i], fmt::format("{}.pretokenizers[{}]", where, i), depth + 1);
  } else if (type == "ByteLevel") {
    const bool prefixes = is_on(json, "add_prefix_space", true, where);
    if (prefixes) steps_.emplace_back(PrefixSpace{});
    is_byte_level_ = true;
    if (!is_on(json, "use_regex", true, where)) return;
    const auto* digits = steps_.size() == 1 ? std::get_if<Digits>(&steps_[0]) : nullptr;
    if (digits != nullptr && digits->individual) {
      steps_[0] = Tiles{PreTokenizer::kDigits};
    } else {
      steps_.emplace_back(Tiles{PreTokenizer::kGpt2});
    }
  } else if (type == "Split") {
    add_split(json, where);
  } else if (type == "Digits") {
    steps_.emplace_back(Digits{is_on(json, "individual_digits", false, where)});
  } else if (type == "Metaspace") {
    steps_.emplace_back(MetaspaceSettings::read(json, where));
  } else {
    fail(ErrorKind::kUnsupported,
         "{}: is {:.40}, implemented are ByteLevel, Split, Digits, Metaspace and a Sequence of "
         "them",
         where, type);
  }
}

PreTokenSteps PreTokenSteps::read(const Json& json, const std::string& where) {
  PreTokenSteps result;
  if (!json.is_null()) result.add(json, where, 0);
  return result;
}

void PreTokenSteps::metaspace(std::size_t step, const MetaspaceSettings& settings,
                              const TextPiece& piece, const TakeWord& take) const {
  const std::string& replacement = settings.replacement;
  const std::string_view text = piece.text;
  TextBuffer buffer;
  buffer.reserve(2 * text.size() + replacement.size());
  const bool prepends =
      settings.prepend_scheme == PrependScheme::kAlways ||
      (settings.prepend_scheme == PrependScheme::kFirst && piece.source(0, 1).start == 0);
  if (prepends && text[0] != ' ' && !text.starts_with(replacement))
    buffer.append(replacement, piece.source_of_point(0));
  std::size_t done = 0;
  for (std::size_t at = text.find(' '); at != std::string_view::npos; at = text.find(' ', done)) {
    buffer.append(piece, done, at);
    buffer.append(replacement, piece.source(at, at + 1));
    done = at + 1;
  }
  buffer.append(piece, done, text.size());
  const TextPiece changed = buffer.piece();
  if (!settings.splits) {
    split_from(step + 1, changed, take);
    return;
  }
  // A word begins at each replacement.
  for (std::size_t start = 0; start < changed.text.size();) {
    const std::size_t end =
        std::min(changed.text.find(replacement, start + 1), changed.text.size());
    split_from(step + 1, changed.part(start, end), take);
    start = end;
  }
}

void PreTokenSteps::split_from(std::size_t step, const TextPiece& piece,
                               const TakeWord& take) const {
  if (piece.text.empty()) return;
  if (step == steps_.size()) {
    take(piece);
    return;
  }
  if (const auto* tiles = std::get_if<Tiles>(&steps_[step])) {
    const bool is_last = step + 1 == steps_.size();
    for (std::size_t start = 0; start < piece.text.size();) {
      const std::size_t end = tiles->next(piece.text, start);
      if (is_last) {
        take(piece.part(start, end));
      } else {
        split_from(step + 1, piece.part(start, end), take);
      }
      start = end;
    }
    return;
  }
  if (std::holds_alternative<PrefixSpace>(steps_[step])) {
    if (piece.text[0] == ' ') {
      split_from(step + 1, piece, take);
      return;
    }
    TextBuffer buffer;
    buffer.append(" ", piece.source_of_point(0));
    buffer.append(piece, 0, piece.text.size());
    split_from(step + 1, buffer.piece(), take);
    return;
  }
  if (const auto* settings = std::get_if<MetaspaceSettings>(&steps_[step])) {
    metaspace(step, *settings, piece, take);
    return;
  }
  std::vector<pre_token_steps::Part> parts;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  if (const auto* digits = std::get_if<Digits>(&steps_[step])) {
    parts = pre_token_steps::number_parts(piece.text);
    if (!digits->individual) behavior = SplitBehavior::kContiguous;
  } else {
    const auto& split = std::get<Split>(steps_[step]);
    parts = pre_token_steps::parts_of(piece.text, split.pattern, split.inverted);
    behavior = split.behavior;
  }
  pre_token_steps::join_parts(&parts, behavior);
  for (const pre_token_steps::Part& part : parts)
    if (!part.is_match) split_from(step + 1, piece.part(part.start, part.end), take);
}

}  // namespace qalof::text
