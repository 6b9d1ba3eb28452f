// SQuAD files as a stream of paragraphs: the official nested JSON (v1.1 and v2.0), flat JSON and
// JSON lines. Memory does not grow with the file: each paragraph is passed on as soon as it is
// read.
//
//   nested: {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers":
//           [{"text", "answer_start"}], "is_impossible"}]}]}]}
//   flat:   {"data": [example]}, [example] or one example a line, with an example
//           {"id", "context", "question", "answers": {"text": [], "answer_start": []}}
//
// Both forms of answers are accepted in both kinds of file, as are the variations of common
// exporters (docs/file_formats.md, "Questions"): numeric ids, positions as 83.0 or "83", -1 for an
// unknown position, is_impossible as 0, 1 or "true".
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace qalof::text {

inline constexpr std::int64_t kUnknownStart = -1;

struct SquadAnswer {
  std::string text;
  std::int64_t start = 0;  // code points into the context, or kUnknownStart
};
struct SquadQuestion {
  std::string id, question;  // a numeric id is stored as Python would print it
  std::vector<SquadAnswer> answers;
  bool is_impossible = false;
};
struct SquadParagraph {
  std::string title, context;
  std::vector<SquadQuestion> questions;
};

enum class SquadForm { kNested, kFlat, kJsonLines };
std::string_view to_string(SquadForm form);

struct SquadSummary {
  SquadForm form = SquadForm::kNested;
  std::uint64_t paragraphs = 0;
  std::uint64_t questions = 0;
  std::uint64_t unanswered = 0;    // questions without answers
  bool has_is_impossible = false;  // some question has the field: v2.0
  // Counted by scan_squad only:
  std::uint64_t moved_answers = 0;  // answers found elsewhere in the context
  std::uint64_t lost_answers = 0;   // answers not found in the context
};

/// Reads a file and calls on_paragraph for each paragraph in file order (flat forms: one question
/// each) until it returns false. Error{kNotFound}, {kCorruptFile} where the bytes are not JSON, or
/// {kBadInput} with the place, e.g. "data[3].paragraphs[0].qas[2]: id is missing". Question ids may
/// repeat. Answer positions are not checked against the context (see find_answer); an answer
/// without text at kUnknownStart is dropped. Limits: strings 4 MiB, ids 64 KiB, all strings of a
/// paragraph 64 MiB, nesting 32 levels.
SquadSummary read_squad(const std::string& path,
                        const std::function<bool(SquadParagraph&&)>& on_paragraph);
/// Reads and checks the whole file.
SquadSummary scan_squad(const std::string& path);

/// Ids that occur more than once among the first max_questions (0 = all) questions, with their
/// counts. Reads the file once or twice; memory is 8 bytes a question.
std::unordered_map<std::string, std::uint64_t> repeated_ids(const std::string& path,
                                                            std::uint64_t max_questions);

/// Position of answer in context (code points): its start if it is there, else the occurrence
/// nearest to its start, or the first one for kUnknownStart; -1 where it does not occur or is
/// empty. Time is linear in both lengths.
std::int64_t find_answer(std::string_view context, const SquadAnswer& answer);

}  // namespace qalof::text
