// Answers to several conversations at once, the most likely token at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/threads.h"
#include "runtime/execution.h"
#include "text/chat_template.h"
#include "text/text_encoder.h"
#include "weights/base_model.h"

namespace qalof::tasks {

struct Question {
  std::vector<std::int32_t> prompt;
  std::shared_ptr<const runtime::Execution> execution;
};

/// Tokens that end an answer: those that end texts of the model, and the one by which its template
/// ends an assistant's turn.
std::vector<std::int32_t> stop_ids_of(const text::TextEncoder& encoder,
                                      const text::ChatTemplate& chat,
                                      const weights::BaseModel& base);

/// The most likely continuation of each prompt, at most max_new tokens, without the token that ends
/// it; empty where a prompt leaves no position. Each is what runtime::generate makes of it alone.
std::vector<std::vector<std::int32_t>> continue_greedily(
    const std::vector<const Question*>& questions, std::size_t max_new,
    const std::vector<std::int32_t>& stop_ids, const text::BpeTokenizer& tokenizer,
    ParallelFor& parallel);

/// Text of tokens; bytes that are not UTF-8 become U+FFFD.
std::string text_of(const text::BpeTokenizer& tokenizer, const std::vector<std::int32_t>& ids);

}  // namespace qalof::tasks
