// Turns of a conversation. See chat.h.
#include "app/chat.h"

#include "core/error.h"
#include "tasks/chat/answers.h"
#include "text/unicode.h"

namespace qalof::app {

ChatSession::ChatSession(const ChatOptions& options, ParallelFor& parallel, Observer& observer)
    : options_(options),
      parallel_(parallel),
      observer_(observer),
      stored_(open_stored(options.model.model, options.model.threads, observer)) {
  stored_.base->require_lm_head();
  text::check_utf8(options.system, "--system", ErrorKind::kUsage);
  std::shared_ptr<const weights::AdapterSet> adapters;
  if (!options_.model.adapter.empty())
    adapters = open_adapters(stored_, options_.model.adapter, observer);
  encoder_.emplace(open_encoder(choose_run(stored_, adapters, options_.model, observer), observer));
  template_.emplace(options_.task.open_template(*encoder_));
  stop_ids_ = tasks::stop_ids_of(*encoder_, *template_, *stored_.base);
  choose(options_.model, std::move(adapters));
  clear();
}

void ChatSession::choose(const ModelOptions& options,
                         std::shared_ptr<const weights::AdapterSet> adapters) {
  std::shared_ptr<const runtime::Execution>& made = made_[{options.adapter, options.precision}];
  if (made == nullptr)
    made = make_execution(choose_run(stored_, adapters, options, observer_), parallel_, observer_);
  execution_ = made;
  adapters_ = std::move(adapters);
  options_.model = options;
}

void ChatSession::set_precision(const std::string& precision) {
  QALOF_CHECK(!precision.empty(), ErrorKind::kUsage,
              "/precision: expected a precision or plan file");
  ModelOptions options = options_.model;
  options.precision = precision;
  choose(options, adapters_);
}

void ChatSession::set_adapter(const std::string& path) {
  ModelOptions options = options_.model;
  options.adapter = path == "none" ? "" : path;
  choose(options,
         options.adapter.empty() ? nullptr : open_adapters(stored_, options.adapter, observer_));
}

void ChatSession::set_system(const std::string& text) {
  options_.system = text;
  clear();
}

void ChatSession::clear() {
  messages_.clear();
  if (!options_.system.empty()) messages_.push_back({"system", options_.system});
}

runtime::Generation ChatSession::answer(const std::string& message,
                                        const runtime::TextCallback& on_text) {
  std::vector<text::ChatMessage> messages = messages_;
  messages.push_back({"user", message});
  text::ChatOptions rendering = options_.task.template_options();
  rendering.add_generation_prompt = true;
  if (!rendering.now) rendering.now = text::local_now();
  const text::ChatTokens prompt =
      text::encode_chat(encoder_->tokenizer(), template_->render_marked(messages, rendering),
                        encoder_->parses_special());
  QALOF_CHECK(prompt.ids.size() <= max_positions(), ErrorKind::kBadInput,
              "the conversation has {} tokens, the model {} positions: begin anew with /clear",
              prompt.ids.size(), max_positions());
  runtime::GenerateOptions generation = options_.generation;
  generation.stop_ids.insert(generation.stop_ids.end(), stop_ids_.begin(), stop_ids_.end());
  generation.memory = &memory_;
  runtime::Generation made = runtime::generate(*execution_, encoder_->tokenizer(), prompt.ids,
                                               generation, parallel_, on_text);
  messages.push_back({"assistant", made.text});
  messages_ = std::move(messages);
  return made;
}

std::string ChatSession::to_jsonl() const {
  Json messages = Json::array();
  for (const text::ChatMessage& message : messages_)
    messages.push_back({{"role", message.role}, {"content", message.content}});
  return Json{{"messages", messages}}.dump() + "\n";
}

}  // namespace qalof::app
