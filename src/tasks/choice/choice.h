// Multiple choice: which of some texts a language model finds most likely after a context, as
// lm-evaluation-harness scores it (docs/numerics.md, "Multiple choice").
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tasks/task.h"

namespace qalof::tasks {

/// One line of a file: {"context": "...", "choices": ["...", ...], "answer": 0}.
struct ChoiceQuestion {
  std::string context;
  std::vector<std::string> choices;  // at least one
  std::size_t answer = 0;            // index of the right one
  std::size_t line = 0;              // from 1
};

/// Calls take with every question of a JSON Lines file, at least one, until it says false.
/// Error{kNotFound}; {kBadInput} names the line of anything else: other members are passed over.
void read_choices(const std::string& path, const std::function<bool(ChoiceQuestion&&)>& take);

/// A context and a choice as a model reads them.
struct ChoiceTokens {
  std::vector<std::int32_t> ids;  // context, then choice; the last is scored, but not read
  std::size_t scored = 0;         // tokens of the choice, at the end of ids
  bool was_cut = false;           // the context's first tokens do not fit the model
};

/// continuation: what follows the context, the space that joins a choice to it included. White
/// space at the context's end belongs to the continuation, whose tokens are those of both texts
/// together beyond as many as the context has alone. start: the token before an empty context.
/// Error{kBadInput} where a choice has no token of its own, or more than the model has positions;
/// where names the question.
ChoiceTokens encode_choice(const text::TextEncoder& encoder, const std::string& context,
                           const std::string& continuation, std::int32_t start,
                           std::size_t positions, const std::string& where);

class MultipleChoice final : public Task {
 public:
  const char* name() const override { return "multiple_choice"; }
  weights::HeadKind head_kind() const override { return weights::HeadKind::kLm; }
  const char* file_kind() const override { return "JSONL of context, choices and answer"; }
  std::span<const Metric> metrics() const override;
  /// The whole model's positions hold a question; data's length is not used.
  Scores evaluate(const Evaluation& run, const DataOptions& data) const override;
  /// Contexts with their right choices.
  std::vector<std::vector<std::int32_t>> windows(const Reading& reading, const DataOptions& data,
                                                 std::size_t max_windows) const override;
};

}  // namespace qalof::tasks
