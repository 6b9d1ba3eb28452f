// The table of pre-tokenizers that llama.cpp has a name for.
#include "app/gguf/pre_tokenizer.h"

#include <array>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "text/tokenizer_json.h"

namespace qalof::app {

namespace {

// The steps of a pre-tokenizer, each in a short form: a regular expression, or a word.
constexpr std::string_view kByteLevel = "ByteLevel", kDigits = "Digits";

constexpr std::string_view kContractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|";
constexpr std::string_view kWords = R"([^\r\n\p{L}\p{N}]?\p{L}+|)";
constexpr std::string_view kRest = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kCasedWords =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)";
constexpr std::string_view kCasedWordsToo =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)";
constexpr std::string_view kRestWithSlash =
    R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kSuffixes = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";

struct Known {
  const char* name;
  bool ignores_merges;  // a word that is a token is taken whole
  bool adds_bos;
  std::vector<std::string> steps;
};

// Other names of the same.
constexpr std::array kAliases = {
    std::pair{"llama3", "llama-bpe"},  std::pair{"llama-v3", "llama-bpe"},
    std::pair{"falcon3", "llama-bpe"}, std::pair{"default", "gpt-2"},
    std::pair{"dbrx", "smaug-bpe"},    std::pair{"deepseek-r1-qwen", "qwen2"},
    std::pair{"megrez", "qwen2"},      std::pair{"llama4", "gpt-4o"},
    std::pair{"phi-2", "gpt-2"},       std::pair{"starcoder", "smollm"},
    std::pair{"refact", "smollm"},     std::pair{"command-r", "smollm"}};

template <typename... Parts>
std::string joined(const Parts&... parts) {
  std::string text;
  (text.append(parts), ...);
  return text;
}

const std::vector<Known>& known_pre_tokenizers() {
  static const std::string llama3 = joined(kContractions, kWords, R"(\p{N}{1,3})", kRest);
  static const std::vector<Known> all = {
      {"gpt-2", false, false, {std::string(kByteLevel)}},
      {"smollm", false, false, {std::string(kDigits), std::string(kByteLevel)}},
      {"llama-bpe", true, true, {llama3}},
      // The same words, and merges count.
      {"smaug-bpe", false, false, {llama3}},
      {"qwen2", false, false, {joined(kContractions, kWords, R"(\p{N})", kRest)}},
      {"gpt-4o",
       false,
       false,
       {joined(kCasedWords, kSuffixes, "|", kCasedWordsToo, kSuffixes, R"(|\p{N}{1,3})",
               kRestWithSlash)}},
      {"tekken",
       true,
       true,
       {joined(kCasedWords, "|", kCasedWordsToo, R"(|\p{N})", kRestWithSlash)}},
      {"deepseek-v3",
       false,
       false,
       {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+",
        R"RE([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)RE"
        R"RE([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)RE"
        R"RE(\s*[\r\n]+|\s+(?!\S)|\s+)RE"}},
  };
  return all;
}

// Expressions are compared with their line ends written out.
std::string with_escaped_lines(const std::string& pattern) {
  std::string text;
  for (const char c : pattern) {
    if (c == '\n') {
      text += "\\n";
    } else if (c == '\r') {
      text += "\\r";
    } else {
      text += c;
    }
  }
  return text;
}

// Appends the short form of a step; one that cannot be is its JSON.
void add_step(const Json& step, std::vector<std::string>& steps) {
  const std::string type = step.is_object() ? step.value("type", "") : "";
  if (type == "Sequence" && step.contains("pretokenizers")) {
    for (const Json& inner : step["pretokenizers"]) add_step(inner, steps);
    return;
  }
  if (type == "ByteLevel" && !step.value("add_prefix_space", true)) {
    if (step.value("use_regex", true)) steps.emplace_back(kByteLevel);
    return;
  }
  if (type == "Digits" && step.value("individual_digits", false)) {
    steps.emplace_back(kDigits);
    return;
  }
  if (type == "Split" && step.value("behavior", "") == "Isolated" && !step.value("invert", false) &&
      step.contains("pattern") && step["pattern"].contains("Regex") &&
      step["pattern"]["Regex"].is_string()) {
    steps.push_back(with_escaped_lines(step["pattern"]["Regex"].get<std::string>()));
    return;
  }
  steps.push_back(step.dump());
}

Json step_of(const Known& known) {
  Json steps = Json::array();
  for (const std::string& step : known.steps) {
    if (step == kByteLevel) {
      steps.push_back(text::byte_level_step(true));
    } else if (step == kDigits) {
      steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
    } else {
      steps.push_back({{"type", "Split"},
                       {"pattern", {{"Regex", step}}},
                       {"behavior", "Isolated"},
                       {"invert", false}});
    }
  }
  if (known.steps.back() != kByteLevel) steps.push_back(text::byte_level_step(false));
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

}  // namespace

PreTokenizerParts pre_tokenizer_parts(std::string_view name, const std::string& where) {
  std::string_view known_as = name;
  for (const auto& [alias, same_as] : kAliases) {
    if (name == alias) known_as = same_as;
  }
  std::vector<std::string> names;
  for (const Known& known : known_pre_tokenizers()) {
    if (known_as == known.name) return {step_of(known), known.ignores_merges, known.adds_bos};
    names.emplace_back(known.name);
  }
  fail(ErrorKind::kUnsupported, "{}: tokenizer.ggml.pre is {:.40}, implemented are {}", where, name,
       fmt::join(names, ", "));
}

std::string pre_tokenizer_name(const Json& tokenizer_json, const std::string& where) {
  std::vector<std::string> steps;
  if (const auto step = tokenizer_json.find("pre_tokenizer");
      step != tokenizer_json.end() && !step->is_null())
    add_step(*step, steps);
  const auto model = tokenizer_json.find("model");
  const bool ignores_merges =
      model != tokenizer_json.end() && model->is_object() && model->value("ignore_merges", false);
  std::vector<std::string> names;
  for (const Known& known : known_pre_tokenizers()) {
    if (known.steps == steps && known.ignores_merges == ignores_merges) return known.name;
    names.emplace_back(known.name);
  }
  fail(ErrorKind::kUnsupported,
       "{}: its pre_tokenizer ({:.200}{}) is none that llama.cpp has a name for here: {}", where,
       fmt::join(steps, ", then "), ignores_merges ? ", ignoring merges" : "",
       fmt::join(names, ", "));
}

}  // namespace qalof::app
