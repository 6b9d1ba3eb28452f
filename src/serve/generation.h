// Generated text as responses: the sequences of one completion or chat, from tokens to the JSON or
// the event stream that its client gets.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "serve/http.h"
#include "serve/request_body.h"
#include "serve/scheduler.h"

namespace qalof::serve {

enum class ReplyKind { kCompletion, kChat };

/// A request whose prompts are tokens and whose limits are checked.
struct GenerationPlan {
  ReplyKind kind = ReplyKind::kCompletion;
  GenerationRequest request;
  std::vector<std::vector<std::int32_t>> prompts;
  std::vector<std::string> prompt_texts;  // for echo; else empty
  bool echo = false;
  std::size_t max_tokens = 16;
  std::vector<std::shared_ptr<const Variant>> variants;  // by elastic level
  std::vector<std::string> levels;                       // their names; empty: not elastic
};

/// One job per choice; they answer exchange together. catalog must outlive them.
std::vector<Job> make_generation(GenerationPlan plan, const Catalog& catalog,
                                 std::shared_ptr<Exchange> exchange);

/// What a sequence's end means to its client; nothing is said of kDone.
ApiError ending_error(EndReason reason, const std::string& message);
/// "cmpl-" and hexadecimal digits that nobody can guess.
std::string random_id(const char* prefix);
/// The headers that say what ran.
std::vector<std::pair<std::string, std::string>> variant_headers(const Variant& variant);
/// The members of a response that say what ran.
void add_variant(const Variant& variant, Json& json);

}  // namespace qalof::serve
