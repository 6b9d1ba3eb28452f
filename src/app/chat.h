// A conversation with a model: turns, and changes of precision, adapter and system text between
// them. K and V of what was read are kept while precision and adapter stay.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/model_handle.h"
#include "runtime/generator.h"
#include "tasks/chat/chat.h"

namespace qalof::app {

struct ChatOptions {
  ModelOptions model;
  tasks::Chat task;    // its template and variables
  std::string system;  // "" = none
  runtime::GenerateOptions generation;
};

/// One thread at a time.
class ChatSession {
 public:
  /// Opens the model. parallel and observer must outlive the session.
  ChatSession(const ChatOptions& options, ParallelFor& parallel, Observer& observer);

  /// Adds a message of the user and the model's answer, which goes to on_text as it comes; false of
  /// it ends the answer, which is kept as far as it came. A failed answer leaves the conversation
  /// as it was. Errors: those of runtime::generate and of the template.
  runtime::Generation answer(const std::string& message, const runtime::TextCallback& on_text);

  /// The next answers run so; nothing changes where that fails. Error{kUsage} and those of opening.
  void set_precision(const std::string& precision);
  /// "" or "none": without adapter.
  void set_adapter(const std::string& path);
  /// Begins a new conversation, with or without ("") a system text.
  void set_system(const std::string& text);
  void clear();

  /// {"messages": [...]}, one line, as training reads it.
  std::string to_jsonl() const;
  const std::vector<text::ChatMessage>& messages() const { return messages_; }
  /// Effective, in words.
  std::string precision() const { return execution_->description(); }
  const runtime::Execution& execution() const { return *execution_; }
  /// Path; "" = none.
  const std::string& adapter() const { return options_.model.adapter; }
  std::size_t kv_bytes() const { return memory_.bytes(); }
  const text::TextEncoder& encoder() const { return *encoder_; }
  std::size_t max_positions() const { return stored_.base->config().max_positions; }

 private:
  void choose(const ModelOptions& options, std::shared_ptr<const weights::AdapterSet> adapters);

  ChatOptions options_;
  ParallelFor& parallel_;
  Observer& observer_;
  StoredModel stored_;
  std::shared_ptr<const weights::AdapterSet> adapters_;
  std::optional<text::TextEncoder> encoder_;
  std::optional<text::ChatTemplate> template_;
  std::vector<std::int32_t> stop_ids_;
  // By adapter and precision: going back to one packs nothing again.
  std::map<std::pair<std::string, std::string>, std::shared_ptr<const runtime::Execution>> made_;
  std::shared_ptr<const runtime::Execution> execution_;
  std::vector<text::ChatMessage> messages_;
  runtime::KvMemory memory_;
};

}  // namespace qalof::app
