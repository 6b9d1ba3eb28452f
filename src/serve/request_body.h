// Bodies of requests: JSON of bounded size and depth to checked values. Pure functions.
//
// Fields are read as OpenAI's API reads them: one that is unknown or of another type than expected
// is an error that names it, never ignored; so is one that is known there and not implemented here,
// unless it has the value that changes nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "serve/catalog.h"
#include "serve/limits.h"

namespace qalof::serve {

/// A prompt as text or as token ids.
using Prompt = std::variant<std::string, std::vector<std::int32_t>>;

/// What completions and chats share.
struct GenerationRequest {
  VariantChoice choice;
  std::optional<std::size_t> max_tokens;  // none: the kind of request decides
  double temperature = 1, top_p = 1;
  std::size_t top_k = 0;  // 0: all
  double presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::size_t n = 1;
  std::vector<std::string> stop;
  bool stream = false, include_usage = false;
  bool ignore_eos = false;
  std::optional<std::size_t> logprobs;  // most likely tokens told beside each chosen one
};
struct CompletionRequest : GenerationRequest {
  std::vector<Prompt> prompts;
  bool echo = false;
};
struct ChatRequest : GenerationRequest {
  std::vector<text::ChatMessage> messages;
  bool add_generation_prompt = true;
};
struct AnswerRequest {
  VariantChoice choice;
  std::string question, context;
  std::size_t n_best = 5, max_answer_length = 30, doc_stride = 128;
  std::optional<std::size_t> max_seq_length;
  bool may_be_missing = false;
};
struct ClassificationRequest {
  VariantChoice choice;
  std::vector<std::string> inputs;
};
struct TokenizeRequest {
  std::string model;
  std::string prompt;
  std::vector<text::ChatMessage> messages;  // instead of prompt
  bool add_special_tokens = true, add_generation_prompt = true, return_token_strs = false;
};
struct DetokenizeRequest {
  std::string model;
  std::vector<std::int32_t> tokens;
};
struct AdapterRequest {
  std::string name, path;
};

/// All throw ApiError{400} that names the field.
CompletionRequest parse_completion(std::string_view body, const Limits& limits);
ChatRequest parse_chat(std::string_view body, const Limits& limits);
AnswerRequest parse_answer(std::string_view body, const Limits& limits);
ClassificationRequest parse_classification(std::string_view body, const Limits& limits);
TokenizeRequest parse_tokenize(std::string_view body, const Limits& limits);
DetokenizeRequest parse_detokenize(std::string_view body, const Limits& limits);
/// with_path false: of unloading.
AdapterRequest parse_adapter(std::string_view body, const Limits& limits, bool with_path);

}  // namespace qalof::serve
