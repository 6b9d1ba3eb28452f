// Conversations: training on the assistant's answers, their loss, and answers written anew and
// compared with those of the file (docs/numerics.md, "Conversations").
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tasks/chat/read.h"
#include "tasks/task.h"

namespace qalof::tasks {

/// What of a conversation a model learns and is scored on.
enum class TrainOn { kAssistant, kAll, kLast };

/// A conversation as a model reads it.
struct ChatSample {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> scored;  // 1 for each token that is learned
  bool was_cut = false;              // its end does not fit the window

  /// Tokens that are learned and have a predecessor.
  std::size_t num_scored() const;
};

class Chat final : public Task {
 public:
  TrainOn train_on = TrainOn::kAssistant;
  std::string chat_template;       // a file, or "plain"; "": the model's own
  std::string template_variables;  // JSON object; "" = none
  std::string date;                // YYYY-MM-DD, for templates that write it
  bool skip_bad_lines = false;
  std::vector<std::string> mix;  // further files to train on: FILE or FILE:WEIGHT
  bool generate = false;         // score answers that are written anew
  std::size_t max_new_tokens = 64;
  std::size_t generate_batch = 16;  // conversations that are continued together

  const char* name() const override { return "chat"; }
  weights::HeadKind head_kind() const override { return weights::HeadKind::kLm; }
  const char* file_kind() const override { return "JSONL of conversations"; }
  std::span<const Metric> metrics() const override;
  std::size_t least_length() const override { return 2; }
  /// Options of the template alone, for commands that write conversations.
  void list_template(OptionList& list);
  void list_windows(OptionList& list) override;
  void list_training(OptionList& list) override;
  void list_scoring(OptionList& list, bool all) override;

  /// Mean loss of the answers' tokens; with generate, also exact match, F1 and ROUGE-L of the last
  /// answers. A conversation's end that does not fit data's length, else the model's positions, is
  /// left out.
  Scores evaluate(const Evaluation& run, const DataOptions& data) const override;
  bool can_train() const override { return true; }
  void check_without_file() const override;
  /// One window per conversation: a step packs its windows into rows without padding, none of which
  /// sees another. What is cut, and conversations without an answer left, are counted and told.
  std::vector<Example> examples(const Reading& reading, const DataOptions& data) const override;
  /// The same, of which memory holds one at a time.
  void each_example(const Reading& reading, const DataOptions& data,
                    const std::function<void(Example&&)>& take) const override;
  /// The contents of further files, and the template.
  void identify_windows(const Reading& reading, Json& identity) const override;
  std::vector<std::vector<std::int32_t>> windows(const Reading& reading, const DataOptions& data,
                                                 std::size_t max_windows) const override;

  /// The template that the options choose, with their variables. Error{kUsage}, {kNotFound}.
  text::ChatTemplate open_template(const text::TextEncoder& encoder) const;
  text::ChatOptions template_options() const;
  /// Tokens of a conversation, at most length of them. where names it in messages.
  ChatSample make_sample(const text::TextEncoder& encoder, const text::ChatTemplate* chat,
                         const Conversation& conversation, std::size_t length,
                         const std::string& where) const;
};

}  // namespace qalof::tasks
