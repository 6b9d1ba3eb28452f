// Files of questions with choices, and their tokens. See choice.h.
#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "tasks/choice/choice.h"
#include "text/records.h"
#include "text/unicode.h"

namespace qalof::tasks {

namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 30;
constexpr std::size_t kMaxLineBytes = std::size_t{4} << 20;
constexpr std::int64_t kMaxChoices = 1024;

ChoiceQuestion parse_question(std::string_view line, const std::string& where) {
  QALOF_CHECK(line.size() <= kMaxLineBytes, ErrorKind::kBadInput,
              "{}: {} bytes, expected at most {}", where, line.size(), kMaxLineBytes);
  const Json json = parse_json(line, where);
  QALOF_CHECK(json.is_object(), ErrorKind::kBadInput,
              "{}: found {}, expected an object with context, choices and answer", where,
              json.type_name());
  ChoiceQuestion question;
  question.context = json_string(json, "context", where);
  const auto choices = json.find("choices");
  QALOF_CHECK(choices != json.end() && choices->is_array() && !choices->empty() &&
                  choices->size() <= kMaxChoices,
              ErrorKind::kBadInput, "{}: choices: expected a list of 1..{} texts", where,
              kMaxChoices);
  for (const Json& choice : *choices) {
    QALOF_CHECK(choice.is_string(), ErrorKind::kBadInput, "{}: choices: found {}, expected a text",
                where, choice.dump());
    question.choices.push_back(choice.get<std::string>());
  }
  question.answer = static_cast<std::size_t>(
      json_int(json, "answer", where, 0, static_cast<std::int64_t>(question.choices.size()) - 1));
  return question;
}

// Bytes of Python's white space at the end.
std::size_t trailing_space(std::string_view text) {
  const std::vector<std::size_t> offsets = text::code_point_offsets(text);
  std::size_t end = offsets.size() - 1;
  while (end > 0) {
    std::size_t at = offsets[end - 1];
    if (!text::is_python_space(text::next_code_point(text, &at))) break;
    --end;
  }
  return text.size() - offsets[end];
}

// A text with what the tokenizer puts before one, and without what it puts after: more is to come.
std::vector<std::int32_t> begin_of(const text::TextEncoder& encoder, std::string_view text) {
  const std::vector<std::int32_t>& before = encoder.text_template().before;
  std::vector<std::int32_t> ids = before;
  const std::vector<std::int32_t> bare = encoder.encode_bare(text).ids;
  ids.insert(ids.end(), bare.begin(), bare.end());
  // The text has it already.
  if (!before.empty() && encoder.begins_twice(ids))
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(before.size()));
  return ids;
}

}  // namespace

void read_choices(const std::string& path, const std::function<bool(ChoiceQuestion&&)>& take) {
  const std::string text = text::read_plain_text(path, kMaxFileBytes).text + "\n";
  std::size_t questions = 0;
  bool wants_more = true;
  text::for_each_whole_line(text, [&](std::string_view line, std::size_t number) {
    if (!wants_more) return;
    ChoiceQuestion question = parse_question(line, fmt::format("{}: line {}", path, number));
    question.line = number;
    ++questions;
    wants_more = take(std::move(question));
  });
  QALOF_CHECK(questions > 0, ErrorKind::kBadInput, "{}: holds no question", path);
}

ChoiceTokens encode_choice(const text::TextEncoder& encoder, const std::string& context,
                           const std::string& continuation, std::int32_t start,
                           std::size_t positions, const std::string& where) {
  const std::string text = context + continuation;
  const std::size_t length = context.size() - trailing_space(context);
  std::vector<std::int32_t> before = begin_of(encoder, std::string_view(context).substr(0, length));
  std::vector<std::int32_t> added = begin_of(encoder, text);
  if (before.empty()) {
    before = {start};
  } else {
    added.erase(added.begin(),
                added.begin() + static_cast<std::ptrdiff_t>(std::min(added.size(), before.size())));
  }
  QALOF_CHECK(!added.empty(), ErrorKind::kBadInput,
              "{}: what follows the context has no token of its own", where);
  QALOF_CHECK(added.size() <= positions, ErrorKind::kBadInput,
              "{}: what follows the context has {} tokens, the model has {} positions", where,
              added.size(), positions);
  ChoiceTokens tokens;
  tokens.scored = added.size();
  tokens.ids = std::move(before);
  tokens.ids.insert(tokens.ids.end(), added.begin(), added.end());
  if (tokens.ids.size() > positions + 1) {  // the last token is not read
    tokens.was_cut = true;
    tokens.ids.erase(tokens.ids.begin(),
                     tokens.ids.end() - static_cast<std::ptrdiff_t>(positions + 1));
  }
  return tokens;
}

}  // namespace qalof::tasks
