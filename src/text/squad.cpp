#include "text/squad.h"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

constexpr std::size_t kMaxDepth = 32;
constexpr std::size_t kMaxStringBytes = std::size_t{16} << 20;
constexpr std::size_t kMaxQuestionsPerParagraph = 100'000;

// One SAX pass over either JSON form. Where the document is, is a stack of keys and list positions; a value is taken by the path it
// stands at, whatever stands before or after it.
class SquadHandler {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  SquadHandler(const std::string& path, const std::function<bool(SquadParagraph&&)>& on_paragraph, SquadSummary* summary)
      : path_(path), on_paragraph_(on_paragraph), summary_(summary) {}

  bool stopped() const { return stopped_; }
  bool found_list() const { return found_list_; }
  /// For JSON lines: each line is one example at the top.
  void set_line(std::uint64_t line) {
    line_ = line;
    levels_.clear();
  }

  bool null() { return scalar("null"); }
  bool boolean(bool value) {
    if (in_question() && key() == "is_impossible") {
      question_.is_impossible = value;
      has_is_impossible_ = true;
      return true;
    }
    return scalar("a truth value");
  }
  bool number_integer(number_integer_t value) { return integer(value); }
  bool number_unsigned(number_unsigned_t value) {
    if (value > INT32_MAX) refuse(fmt::format("found {}, expected a position", value));
    return integer(static_cast<std::int64_t>(value));
  }
  bool number_float(number_float_t, const string_t& token) { return scalar(fmt::format("{:.40}", token)); }
  bool string(string_t& value) {
    if (value.size() > kMaxStringBytes) refuse(fmt::format("a string of {} bytes, at most {} are read", value.size(), kMaxStringBytes));
    switch (place()) {
      case Place::kArticle:
        if (key() == "title") paragraph_.title = value;
        return true;
      case Place::kParagraph:
        if (key() == "context") set(&paragraph_.context, value, &has_context_);
        return true;
      case Place::kQuestion:
        if (key() == "id") set(&question_.id, value, &has_id_);
        if (key() == "question") set(&question_.question, value, &has_question_);
        if (is_flat() && key() == "context") set(&paragraph_.context, value, &has_context_);
        if (is_flat() && key() == "title") paragraph_.title = value;
        if (key() == "answers") return scalar("a string");
        return true;
      case Place::kAnswer:
        if (key() == "text") set(&answer_text_, value, &has_answer_text_);
        return true;
      case Place::kFlatAnswerTexts:
        texts_.push_back(value);
        return true;
      default:
        return scalar("a string");
    }
  }
  bool binary(binary_t&) { return false; }

  bool start_object(std::size_t) {
    push(/*is_list=*/false);
    const Place where = place();
    if (where == Place::kParagraph) {
      paragraph_.context.clear();
      paragraph_.questions.clear();
      has_context_ = has_questions_ = false;
    } else if (where == Place::kQuestion) {
      begin_question();
    } else if (where == Place::kAnswer) {
      has_answer_text_ = has_answer_start_ = false;
    }
    return true;
  }
  bool end_object() {
    const Place where = place();
    if (where == Place::kAnswer) end_answer();
    if (where == Place::kFlatAnswers) end_flat_answers();
    if (where == Place::kQuestion) end_question();
    if (where == Place::kParagraph) end_paragraph();
    pop();
    return !stopped_;
  }
  bool start_array(std::size_t) {
    if (levels_.empty() && line_ > 0) refuse("found a list, expected an object a line");
    push(/*is_list=*/true);
    if (place() == Place::kExamples) found_list_ = true;
    if (place() == Place::kQuestions) has_questions_ = true;
    if (place() == Place::kFlatAnswerTexts) texts_.clear();
    if (place() == Place::kFlatAnswerStarts) starts_.clear();
    return true;
  }
  bool end_array() {
    pop();
    return true;
  }
  bool key(string_t& name) {
    levels_.back().key = name.size() <= 256 ? std::move(name) : name.substr(0, 256);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
    std::string reason = error.what();
    if (const std::size_t end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    const std::string line = line_ > 0 ? fmt::format(" line {}", line_) : "";
    fail(ErrorKind::kCorruptFile, "{}:{} not valid JSON (byte {}): {:.200}", path_, line, position, reason);
  }

 private:
  // Nested: {data: [article {paragraphs: [paragraph {context, qas: [question {answers: [answer]}]}]}]}
  // Flat:   {data: [question]} or [question] or one question a line; its answers are {text: [], answer_start: []}.
  enum class Place {
    kTop,
    kExamples,  // the outer list
    kArticle,   // or, in the flat form, kQuestion
    kParagraphs,
    kParagraph,
    kQuestions,
    kQuestion,
    kAnswers,
    kAnswer,
    kFlatAnswers,
    kFlatAnswerTexts,
    kFlatAnswerStarts,
    kElsewhere,
  };
  struct Level {
    bool is_list;
    Place place;
    std::string key;        // current key of an object
    std::uint64_t index = 0;  // current position in a list
  };

  Place place() const { return levels_.empty() ? Place::kTop : levels_.back().place; }
  const std::string& key() const { return levels_.back().key; }
  bool in_question() const { return place() == Place::kQuestion; }
  bool is_flat() const { return flat_; }

  // The place of a container opened now.
  Place child_place(bool is_list) {
    if (levels_.empty()) {
      if (is_list) return Place::kExamples;  // [question, ...]
      return line_ > 0 ? enter_flat() : Place::kTop;
    }
    const Level& parent = levels_.back();
    switch (parent.place) {
      case Place::kTop:
        return is_list && parent.key == "data" ? Place::kExamples : Place::kElsewhere;
      case Place::kExamples:
        if (is_list) return Place::kElsewhere;
        return flat_hint_ || levels_.size() == 1 ? enter_flat() : Place::kArticle;
      case Place::kArticle:
        return parent.key == "paragraphs" && is_list ? Place::kParagraphs : Place::kElsewhere;
      case Place::kParagraphs:
        return is_list ? Place::kElsewhere : Place::kParagraph;
      case Place::kParagraph:
        return parent.key == "qas" && is_list ? Place::kQuestions : Place::kElsewhere;
      case Place::kQuestions:
        return is_list ? Place::kElsewhere : Place::kQuestion;
      case Place::kQuestion:
        if (parent.key != "answers") return Place::kElsewhere;
        return is_list ? Place::kAnswers : Place::kFlatAnswers;
      case Place::kAnswers:
        return is_list ? Place::kElsewhere : Place::kAnswer;
      case Place::kFlatAnswers:
        if (is_list && parent.key == "text") return Place::kFlatAnswerTexts;
        if (is_list && parent.key == "answer_start") return Place::kFlatAnswerStarts;
        return Place::kElsewhere;
      default:
        return Place::kElsewhere;
    }
  }
  Place enter_flat() {
    flat_ = true;
    return Place::kQuestion;
  }

  void push(bool is_list) {
    if (levels_.size() >= kMaxDepth) refuse(fmt::format("more than {} levels", kMaxDepth));
    const Place child = child_place(is_list);
    levels_.push_back({is_list, child, "", 0});
  }
  void pop() {
    levels_.pop_back();
    if (!levels_.empty() && levels_.back().is_list) ++levels_.back().index;
  }

  std::string where() const {
    std::string text = line_ > 0 ? fmt::format("line {}", line_) : "";
    for (const Level& level : levels_) {
      if (level.is_list) {
        text += fmt::format("[{}]", level.index);
      } else if (!level.key.empty()) {
        text += (text.empty() ? "" : ".") + level.key;
      }
    }
    return text.empty() ? "the document" : text;
  }
  [[noreturn]] void refuse(const std::string& what) const { fail(ErrorKind::kBadInput, "{}: {}: {}", path_, where(), what); }

  bool scalar(const std::string& found) {
    const Place at = place();
    if (levels_.empty()) refuse(fmt::format("found {}, expected an object", found));
    const std::string& name = levels_.back().key;
    const bool needed = (at == Place::kParagraph && (name == "context" || name == "qas")) ||
                        (at == Place::kQuestion && (name == "id" || name == "question" || name == "answers" || (flat_ && name == "context"))) ||
                        (at == Place::kAnswer && (name == "text" || name == "answer_start")) ||
                        (at == Place::kArticle && name == "paragraphs") || (at == Place::kTop && name == "data") || at == Place::kExamples ||
                        at == Place::kParagraphs || at == Place::kQuestions || at == Place::kAnswers || at == Place::kFlatAnswerTexts ||
                        at == Place::kFlatAnswerStarts || at == Place::kFlatAnswers;
    if (needed) refuse(fmt::format("found {}, which does not belong there", found));
    if (levels_.back().is_list) ++levels_.back().index;
    return true;
  }
  bool integer(std::int64_t value) {
    if (place() == Place::kAnswer && key() == "answer_start") {
      set_start(value, &answer_start_);
      has_answer_start_ = true;
      return true;
    }
    if (place() == Place::kFlatAnswerStarts) {
      starts_.emplace_back();
      set_start(value, &starts_.back());
      return true;
    }
    return scalar(fmt::format("{}", value));
  }
  void set_start(std::int64_t value, std::int64_t* start) const {
    if (value < 0 || value > INT32_MAX) refuse(fmt::format("found {}, expected a position of 0 or more", value));
    *start = value;
  }
  void set(std::string* field, std::string& value, bool* seen) const {
    if (*seen) refuse("stands twice");
    *field = std::move(value);
    *seen = true;
  }

  void begin_question() {
    question_ = {};
    has_id_ = has_question_ = has_is_impossible_ = false;
    if (flat_) has_context_ = false;
  }
  void end_answer() {
    if (!has_answer_text_) refuse("text is missing");
    if (!has_answer_start_) refuse("answer_start is missing");
    question_.answers.push_back({answer_text_, answer_start_});
  }
  void end_flat_answers() {
    if (texts_.size() != starts_.size()) refuse(fmt::format("answers has {} texts and {} positions", texts_.size(), starts_.size()));
    for (std::size_t i = 0; i < texts_.size(); ++i) question_.answers.push_back({texts_[i], starts_[i]});
    texts_.clear();
    starts_.clear();
  }
  void end_question() {
    levels_.back().key.clear();
    if (!has_id_) refuse("id is missing");
    if (!has_question_) refuse("question is missing");
    summary_->has_is_impossible |= has_is_impossible_;
    if (question_.answers.empty()) ++summary_->unanswered;
    ++summary_->questions;
    paragraph_.questions.push_back(std::move(question_));
    if (paragraph_.questions.size() > kMaxQuestionsPerParagraph) refuse(fmt::format("more than {} questions in a paragraph", kMaxQuestionsPerParagraph));
    if (flat_) {
      if (!has_context_) refuse("context is missing");
      hand_over();
    }
  }
  void end_paragraph() {
    levels_.back().key.clear();
    if (!has_context_) refuse("context is missing");
    if (!has_questions_) refuse("qas is missing");
    hand_over();
  }
  void hand_over() {
    ++summary_->paragraphs;
    SquadParagraph done = std::move(paragraph_);
    paragraph_ = {};
    paragraph_.title = done.title;
    stopped_ = !on_paragraph_(std::move(done));
  }

 public:
  /// The flat form under "data" looks like articles until a key tells: set by the caller's look ahead.
  void set_flat_hint(bool flat) { flat_hint_ = flat; }

 private:
  const std::string& path_;
  const std::function<bool(SquadParagraph&&)>& on_paragraph_;
  SquadSummary* summary_;
  std::uint64_t line_ = 0;
  bool flat_ = false, flat_hint_ = false, stopped_ = false, found_list_ = false;
  std::vector<Level> levels_;
  SquadParagraph paragraph_;
  SquadQuestion question_;
  bool has_context_ = false, has_questions_ = false, has_id_ = false, has_question_ = false, has_is_impossible_ = false;
  std::string answer_text_;
  std::int64_t answer_start_ = 0;
  bool has_answer_text_ = false, has_answer_start_ = false;
  std::vector<std::string> texts_;
  std::vector<std::int64_t> starts_;
};

// The first bytes of the file tell the form: JSON lines begin with an example's object on a line of its own; the flat form shows
// "question" or "context" before any "paragraphs".
struct Peeked {
  bool json_lines = false;
  bool flat = false;
};

Peeked peek_form(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string head(std::size_t{1} << 16, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(file.gcount()));
  Peeked form;
  const std::size_t nested = std::min(head.find("\"paragraphs\""), head.find("\"qas\""));
  const std::size_t flat = std::min(head.find("\"question\""), head.find("\"context\""));
  form.flat = flat < nested;
  const std::size_t first = head.find_first_not_of(" \t\r\n");
  const std::size_t list = head.find('[');
  const std::size_t data = head.find("\"data\"");
  // An object at the top whose own keys are an example's, i.e. no "data" list before them.
  form.json_lines = form.flat && first != std::string::npos && head[first] == '{' && !(data < flat && list < flat);
  if (path.ends_with(".jsonl")) form.json_lines = true;
  return form;
}

}  // namespace

std::string_view to_string(SquadForm form) {
  switch (form) {
    case SquadForm::kNested:
      return "nested JSON";
    case SquadForm::kFlat:
      return "flat JSON";
    case SquadForm::kJsonLines:
      break;
  }
  return "JSON lines";
}

SquadSummary read_squad(const std::string& path, const std::function<bool(SquadParagraph&&)>& on_paragraph) {
  QALOF_CHECK(std::filesystem::is_regular_file(path), ErrorKind::kNotFound, "{}: no such file", path);
  const Peeked form = peek_form(path);
  std::ifstream file(path, std::ios::binary);
  QALOF_CHECK(file.good(), ErrorKind::kResource, "{}: {}", path, std::strerror(errno));
  SquadSummary summary;
  summary.form = form.json_lines ? SquadForm::kJsonLines : form.flat ? SquadForm::kFlat : SquadForm::kNested;
  SquadHandler handler(path, on_paragraph, &summary);
  handler.set_flat_hint(form.flat);
  if (form.json_lines) {
    std::string line;
    for (std::uint64_t number = 1; std::getline(file, line) && !handler.stopped(); ++number) {
      QALOF_CHECK(line.size() <= 4 * kMaxStringBytes, ErrorKind::kBadInput, "{}: line {} has {} bytes", path, number, line.size());
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      handler.set_line(number);
      nlohmann::json::sax_parse(line, &handler);
    }
  } else {
    nlohmann::json::sax_parse(file, &handler);
    QALOF_CHECK(handler.found_list(), ErrorKind::kBadInput, "{}: holds no list of examples (expected {{\"data\": [...]}})", path);
  }
  QALOF_CHECK(summary.questions > 0, ErrorKind::kBadInput, "{}: holds no questions", path);
  return summary;
}

SquadSummary scan_squad(const std::string& path) {
  return read_squad(path, [](SquadParagraph&&) { return true; });
}

std::int64_t find_answer(std::string_view context, const SquadAnswer& answer) {
  const std::vector<std::size_t> offsets = code_point_offsets(context);
  std::int64_t best = -1;
  std::size_t point = 0;
  for (std::size_t at = context.find(answer.text); at != std::string_view::npos; at = context.find(answer.text, at + 1)) {
    while (offsets[point] < at) ++point;
    const auto found = static_cast<std::int64_t>(point);
    if (best < 0 || std::abs(found - answer.start) < std::abs(best - answer.start)) best = found;
  }
  return best;
}

}  // namespace qalof::text
