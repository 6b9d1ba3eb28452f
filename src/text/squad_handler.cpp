// The state machine over SAX events that assembles SQuAD paragraphs and words every refusal with
// its place.
#include "text/squad_handler.h"

#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/json_stream.h"
#include "text/python_json.h"
#include "text/records.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

constexpr std::size_t kMaxDepth = 32;
constexpr std::size_t kMaxParagraphBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxKeyBytes = 256;  // longer keys are never ours
// Ids become keys of output files, where escapes make them up to six times as long.
constexpr std::size_t kMaxIdBytes = std::size_t{64} << 10;
constexpr std::size_t kItemBytes = 64;  // cost of an item beyond its text

}  // namespace

void SquadHandler::begin_line(std::uint64_t line) {
  line_ = line;
  levels_.clear();
}

// The place of a container that is opened now.
SquadHandler::Place SquadHandler::child_place(bool is_list) const {
  if (levels_.empty()) {
    if (line_ > 0) return is_list ? Place::kElsewhere : Place::kExample;
    return is_list ? Place::kExamples : Place::kTop;
  }
  const Level& parent = levels_.back();
  struct Rule {
    Place parent;
    std::string_view key;
    bool is_list;
    Place child;
  };
  static constexpr Rule kRules[] = {
      {Place::kTop, "data", true, Place::kExamples},
      {Place::kExamples, "", false, Place::kExample},
      {Place::kExample, "paragraphs", true, Place::kParagraphs},
      {Place::kExample, "answers", true, Place::kAnswers},
      {Place::kExample, "answers", false, Place::kFlatAnswers},
      {Place::kParagraphs, "", false, Place::kParagraph},
      {Place::kParagraph, "qas", true, Place::kQuestions},
      {Place::kQuestions, "", false, Place::kQuestion},
      {Place::kQuestion, "answers", true, Place::kAnswers},
      {Place::kQuestion, "answers", false, Place::kFlatAnswers},
      {Place::kAnswers, "", false, Place::kAnswer},
      {Place::kFlatAnswers, "text", true, Place::kFlatTexts},
      {Place::kFlatAnswers, "answer_start", true, Place::kFlatStarts},
  };
  for (const Rule& rule : kRules) {
    if (rule.parent == parent.place && rule.key == parent.key && rule.is_list == is_list) {
      return rule.child;
    }
  }
  return Place::kElsewhere;
}

// What the current position must hold, for messages; null where anything may be.
const char* SquadHandler::expected() const {
  if (levels_.empty()) return "an object or a list";
  struct Rule {
    Place place;
    std::string_view key;
    const char* expected;
  };
  static constexpr Rule kRules[] = {
      {Place::kTop, "data", "a list"},
      {Place::kExamples, "", "an object"},
      {Place::kExample, "paragraphs", "a list"},
      {Place::kExample, "id", "a string or a number"},
      {Place::kExample, "question", "a string"},
      {Place::kExample, "context", "a string"},
      {Place::kExample, "answers", "a list or an object"},
      {Place::kExample, "is_impossible", "true or false"},
      {Place::kParagraphs, "", "an object"},
      {Place::kParagraph, "context", "a string"},
      {Place::kParagraph, "qas", "a list"},
      {Place::kQuestions, "", "an object"},
      {Place::kQuestion, "id", "a string or a number"},
      {Place::kQuestion, "question", "a string"},
      {Place::kQuestion, "answers", "a list or an object"},
      {Place::kQuestion, "is_impossible", "true or false"},
      {Place::kAnswers, "", "an object"},
      {Place::kAnswer, "text", "a string"},
      {Place::kAnswer, "answer_start", "a position of 0 or more, or -1 for one not known"},
      {Place::kFlatAnswers, "text", "a list"},
      {Place::kFlatAnswers, "answer_start", "a list"},
      {Place::kFlatTexts, "", "a string"},
      {Place::kFlatStarts, "", "a position of 0 or more, or -1 for one not known"},
  };
  for (const Rule& rule : kRules) {
    if (at(rule.place, rule.key)) return rule.expected;
  }
  return nullptr;
}

void SquadHandler::push(bool is_list) {
  if (levels_.size() >= kMaxDepth) refuse(fmt::format("more than {} levels", kMaxDepth));
  const Place child = child_place(is_list);
  if (child == Place::kElsewhere && expected() != nullptr) {
    refuse(fmt::format("found {}, expected {}", is_list ? "a list" : "an object", expected()));
  }
  levels_.push_back({child, is_list, ""});
}

void SquadHandler::pop() {
  levels_.pop_back();
  if (!levels_.empty() && levels_.back().is_list) ++levels_.back().index;
}

std::string SquadHandler::where() const {
  std::string text;
  for (const Level& level : levels_) {
    if (level.is_list) {
      text += fmt::format("[{}]", level.index);
    } else if (!level.key.empty()) {
      text += (text.empty() ? "" : ".") + level.key;
    }
  }
  if (line_ > 0) text = fmt::format("line {}{}{}", line_, text.empty() ? "" : ": ", text);
  return text.empty() ? "the document" : text;
}

void SquadHandler::refuse(const std::string& what) const {
  fail(ErrorKind::kBadInput, "{}: {}: {}", path_, where(), what);
}

// Ignores a value of no interest, unless the position requires something else.
bool SquadHandler::scalar(const std::string& found) {
  if (const char* wanted = expected()) refuse(fmt::format("found {}, expected {}", found, wanted));
  if (levels_.back().is_list) ++levels_.back().index;
  return true;
}

bool SquadHandler::null() {
  // Exporters write null for missing fields of a question.
  if (!levels_.empty() && in_question() &&
      (levels_.back().key == "answers" || levels_.back().key == "is_impossible")) {
    return true;
  }
  return scalar("null");
}

bool SquadHandler::boolean(bool value) {
  if (!levels_.empty() && in_question() && levels_.back().key == "is_impossible") {
    return impossible(value);
  }
  return scalar(value ? "true" : "false");
}

bool SquadHandler::impossible(bool value) {
  question_.is_impossible = value;
  seen_.is_impossible = true;
  return true;
}

bool SquadHandler::number_integer(number_integer_t value) {
  return number(fmt::format("{}", value), value);
}

bool SquadHandler::number_unsigned(number_unsigned_t value) {
  std::optional<std::int64_t> whole;
  if (value <= INT32_MAX) whole = static_cast<std::int64_t>(value);
  return number(fmt::format("{}", value), whole);
}

bool SquadHandler::number_float(number_float_t value, const string_t& token) {
  // An integer of more than 64 bits keeps all its digits.
  if (token.find_first_of(".eE") == string_t::npos) return number(token, std::nullopt);
  std::optional<std::int64_t> whole;
  if (value >= kUnknownStart && value <= INT32_MAX && value == std::floor(value)) {
    whole = static_cast<std::int64_t>(value);
  }
  return number(python_json_float(value), whole);
}

// as_key: the number as Python's json writes it for a key; whole: its value where it is an integer
// that fits a position.
bool SquadHandler::number(const std::string& as_key, std::optional<std::int64_t> whole) {
  const std::string shown = fmt::format("{:.40}", as_key);
  if (levels_.empty()) return scalar(shown);
  if (in_question() && levels_.back().key == "id") {
    std::string id = as_key;
    return string_of_question(id);
  }
  if (in_question() && levels_.back().key == "is_impossible" && (whole == 0 || whole == 1)) {
    return impossible(whole == 1);
  }
  return position(whole) || scalar(shown);
}

// Takes a whole number as a position where one is expected; false otherwise.
bool SquadHandler::position(std::optional<std::int64_t> whole) {
  if (!whole || *whole < kUnknownStart || *whole > INT32_MAX) return false;
  if (at(Place::kAnswer, "answer_start")) {
    once(&seen_.start);
    answer_.start = *whole;
    return true;
  }
  const bool is_single = at(Place::kFlatAnswers, "answer_start");
  if (is_single) once(&seen_.starts);
  if (!is_single && place() != Place::kFlatStarts) return false;
  spend(0);
  starts_.push_back(*whole);
  if (!is_single) ++levels_.back().index;
  return true;
}

bool SquadHandler::string(string_t& value) {
  if (value.size() > kMaxSquadString) {
    refuse(fmt::format("a string of {} bytes, at most {} are read", value.size(), kMaxSquadString));
  }
  if (levels_.empty()) return scalar("a string");
  const std::string& name = levels_.back().key;
  switch (place()) {
    case Place::kExample:
    case Place::kQuestion:
      return string_of_question(value);
    case Place::kParagraph:
      if (name == "context") {
        set(&paragraph_.context, value, &seen_.context);
        return true;
      }
      return scalar("a string");
    case Place::kAnswer:
      if (name == "text") {
        set(&answer_.text, value, &seen_.text);
        return true;
      }
      break;
    case Place::kFlatAnswers:
      if (name == "text") {  // a single answer without a list
        set(&texts_.emplace_back(), value, &seen_.texts);
        return true;
      }
      break;
    case Place::kFlatTexts:
      spend(value.size());
      texts_.push_back(std::move(value));
      ++levels_.back().index;
      return true;
    default:
      break;
  }
  return position(parse_whole_number(value)) || scalar(fmt::format("\"{:.40}\"", value));
}

// A string member of a question, or of an example, which also holds the context.
bool SquadHandler::string_of_question(string_t& value) {
  const std::string& name = levels_.back().key;
  if (place() == Place::kExample) {
    if (name == "title") paragraph_.title = value;
    if (name == "context") set(&paragraph_.context, value, &seen_.context);
  }
  if (name == "id") {
    if (value.size() > kMaxIdBytes) {
      refuse(fmt::format("a string of {} bytes, at most {} are read", value.size(), kMaxIdBytes));
    }
    set(&question_.id, value, &seen_.id);
  }
  if (name == "question") set(&question_.question, value, &seen_.question);
  if (name == "is_impossible") {
    for (const auto& [text, is_true] : {std::pair{"true", true},
                                        {"True", true},
                                        {"1", true},
                                        {"false", false},
                                        {"False", false},
                                        {"0", false}}) {
      if (value == text) return impossible(is_true);
    }
  }
  if (name == "answers" || name == "is_impossible" || name == "paragraphs") {
    return scalar("a string");
  }
  return true;
}

bool SquadHandler::start_object(std::size_t) {
  push(/*is_list=*/false);
  switch (place()) {
    case Place::kExample:
      paragraph_ = {};
      paragraph_bytes_ = 0;
      seen_ = {};
      begin_question();
      break;
    case Place::kParagraph:
      paragraph_bytes_ = 0;
      seen_.context = seen_.questions = false;
      break;
    case Place::kQuestion:
      begin_question();
      break;
    case Place::kAnswer:
      seen_.text = seen_.start = false;
      break;
    case Place::kFlatAnswers:
      opens_once(&seen_.answers);
      seen_.texts = seen_.starts = false;
      break;
    default:
      break;
  }
  return true;
}

bool SquadHandler::end_object() {
  levels_.back().key.clear();
  switch (place()) {
    case Place::kAnswer:
      if (!seen_.text) refuse("text is missing");
      if (!seen_.start) refuse("answer_start is missing");
      spend(0);
      add_answer(std::move(answer_));
      break;
    case Place::kFlatAnswers:
      end_flat_answers();
      break;
    case Place::kQuestion:
      end_question();
      break;
    case Place::kParagraph:
      if (!seen_.context) refuse("context is missing");
      if (!seen_.questions) refuse("qas is missing");
      hand_over();
      break;
    case Place::kExample:
      end_example();
      break;
    default:
      break;
  }
  pop();
  return !stopped_;
}

bool SquadHandler::start_array(std::size_t) {
  push(/*is_list=*/true);
  switch (place()) {
    case Place::kExamples:
      opens_once(&found_list_);
      break;
    case Place::kParagraphs:
      opens_once(&seen_.paragraphs);
      if (line_ > 0 || (knows_form_ && summary_->form == SquadForm::kFlat)) {
        levels_.pop_back();
        refuse("an article among questions");
      }
      summary_->form = SquadForm::kNested;
      knows_form_ = true;
      break;
    case Place::kQuestions:
      opens_once(&seen_.questions);
      break;
    case Place::kAnswers:
      opens_once(&seen_.answers);
      break;
    case Place::kFlatTexts:
      opens_once(&seen_.texts);
      break;
    case Place::kFlatStarts:
      opens_once(&seen_.starts);
      break;
    default:
      break;
  }
  return true;
}

bool SquadHandler::end_array() {
  pop();
  return true;
}

bool SquadHandler::key(string_t& name) {
  levels_.back().key = name.size() <= kMaxKeyBytes ? std::move(name) : name.substr(0, kMaxKeyBytes);
  return true;
}

bool SquadHandler::parse_error(std::size_t position, const std::string& token,
                               const nlohmann::detail::exception& error) {
  // Leaves out the library's own code and its line number.
  std::string reason = error.what();
  if (const std::size_t end = reason.find(": "); end != std::string::npos) reason.erase(0, end + 2);
  const std::string line = line_ > 0 ? fmt::format(" line {}:", line_) : "";
  fail(ErrorKind::kCorruptFile, "{}:{} not valid JSON (byte {}): {:.200}{}", path_, line, position,
       reason, json_token_hint(token));
}

void SquadHandler::once(bool* seen) const {
  if (*seen) refuse("appears twice");
  *seen = true;
}

// once for a container just opened: the message names its key instead of a place inside it.
void SquadHandler::opens_once(bool* seen) {
  if (*seen) levels_.pop_back();
  once(seen);
}

void SquadHandler::set(std::string* field, std::string& value, bool* seen) {
  once(seen);
  spend(value.size());
  *field = std::move(value);
}

void SquadHandler::spend(std::size_t bytes) {
  paragraph_bytes_ += bytes + kItemBytes;
  if (paragraph_bytes_ > kMaxParagraphBytes) {
    refuse(fmt::format("a paragraph of more than {} bytes", kMaxParagraphBytes));
  }
}

void SquadHandler::begin_question() {
  question_ = {};
  seen_.id = seen_.question = seen_.answers = seen_.is_impossible = false;
}

// An answer without text at an unknown position means that there is no answer.
void SquadHandler::add_answer(SquadAnswer&& answer) {
  if (answer.text.empty() && answer.start == kUnknownStart) return;
  question_.answers.push_back(std::move(answer));
}

void SquadHandler::end_flat_answers() {
  if (texts_.size() != starts_.size()) {
    refuse(fmt::format("answers has {} texts and {} positions", texts_.size(), starts_.size()));
  }
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    add_answer({std::move(texts_[i]), starts_[i]});
  }
  texts_.clear();
  starts_.clear();
}

void SquadHandler::end_question() {
  if (!seen_.id) refuse("id is missing");
  if (!seen_.question) refuse("question is missing");
  spend(0);
  summary_->has_is_impossible |= seen_.is_impossible;
  if (question_.answers.empty()) ++summary_->unanswered;
  ++summary_->questions;
  paragraph_.questions.push_back(std::move(question_));
}

void SquadHandler::end_example() {
  if (seen_.paragraphs) return;  // already passed on one by one
  if (line_ == 0) {
    if (knows_form_ && summary_->form == SquadForm::kNested) refuse("paragraphs is missing");
    summary_->form = SquadForm::kFlat;
    knows_form_ = true;
  }
  end_question();
  if (!seen_.context) refuse("context is missing");
  hand_over();
}

void SquadHandler::hand_over() {
  for (const SquadQuestion& question : paragraph_.questions) {
    if (paragraph_.context.empty() && python_lstrip(question.question).empty()) {
      refuse(fmt::format("question \"{:.60}\" and its context are empty", question.id));
    }
  }
  ++summary_->paragraphs;
  SquadParagraph done = std::move(paragraph_);
  paragraph_ = {};
  paragraph_.title = done.title;
  stopped_ = !on_paragraph_(std::move(done));
}

}  // namespace qalof::text
