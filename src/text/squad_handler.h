// Receives the SAX events of one pass over a SQuAD file and passes on paragraphs. A value is
// recognized by its place (a stack of keys and list positions), so the order of members does not
// matter. Internal to src/text.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/squad.h"

namespace qalof::text {

inline constexpr std::size_t kMaxSquadString = std::size_t{4} << 20;

/// The SAX handler for nlohmann::json::sax_parse.
class SquadHandler {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  SquadHandler(const std::string& path, const std::function<bool(SquadParagraph&&)>& on_paragraph,
               SquadSummary* summary)
      : path_(path), on_paragraph_(on_paragraph), summary_(summary) {}

  /// True after on_paragraph returned false.
  bool stopped() const { return stopped_; }
  /// True once a list of examples was found.
  bool found_list() const { return found_list_; }
  /// Starts the document on a line (from 1) of JSON lines, which is one example.
  void begin_line(std::uint64_t line);

  bool null();
  bool boolean(bool value);
  bool number_integer(number_integer_t value);
  bool number_unsigned(number_unsigned_t value);
  bool number_float(number_float_t, const string_t& token);
  bool string(string_t& value);
  bool binary(binary_t&) { return false; }
  bool start_object(std::size_t);
  bool end_object();
  bool start_array(std::size_t);
  bool end_array();
  bool key(string_t& name);
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& error);

 private:
  enum class Place {
    kTop,
    kExamples,  // the outer list
    kExample,   // an article, or a question with its context
    kParagraphs,
    kParagraph,
    kQuestions,
    kQuestion,
    kAnswers,
    kAnswer,
    kFlatAnswers,
    kFlatTexts,
    kFlatStarts,
    kElsewhere,
  };
  struct Level {
    Place place;
    bool is_list;
    std::string key;          // current key of an object
    std::uint64_t index = 0;  // current position in a list
  };

  Place place() const { return levels_.back().place; }
  bool at(Place place, std::string_view key) const {
    return levels_.back().place == place && levels_.back().key == key;
  }
  bool in_question() const { return place() == Place::kQuestion || place() == Place::kExample; }
  Place child_place(bool is_list) const;
  const char* expected() const;
  void push(bool is_list);
  void pop();
  std::string where() const;
  [[noreturn]] void refuse(const std::string& what) const;
  bool scalar(const std::string& found);
  bool number(const std::string& as_key, std::optional<std::int64_t> whole);
  bool position(std::optional<std::int64_t> whole);
  bool impossible(bool value);
  bool string_of_question(string_t& value);
  void once(bool* seen) const;
  void opens_once(bool* seen);
  void set(std::string* field, std::string& value, bool* seen);
  void spend(std::size_t bytes);
  void begin_question();
  void add_answer(SquadAnswer&& answer);
  void end_question();
  void end_flat_answers();
  void end_example();
  void hand_over();

  const std::string& path_;
  const std::function<bool(SquadParagraph&&)>& on_paragraph_;
  SquadSummary* summary_;
  std::uint64_t line_ = 0;
  bool stopped_ = false, found_list_ = false, knows_form_ = false;
  std::vector<Level> levels_;
  std::size_t paragraph_bytes_ = 0;
  SquadParagraph paragraph_;
  SquadQuestion question_;
  SquadAnswer answer_;
  std::vector<std::string> texts_;
  std::vector<std::int64_t> starts_;
  // Members seen so far of the current example, paragraph, question and answer.
  struct Seen {
    bool paragraphs, context, questions, id, question, answers, is_impossible, text, start, texts,
        starts;
  };
  Seen seen_{};
};

}  // namespace qalof::text
