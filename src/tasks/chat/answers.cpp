// Writes answers in batches. See answers.h.
#include "tasks/chat/answers.h"

#include <algorithm>
#include <span>

#include "runtime/decoder.h"
#include "runtime/kv_cache.h"
#include "runtime/sampling.h"
#include "text/text_stream.h"

namespace qalof::tasks {

namespace chat_answers_file {

// Prompt tokens per forward pass: bounds memory.
constexpr std::size_t kChunk = 1024;

struct Running {
  std::size_t index;  // of the question
  const Question* question;
  runtime::KvCache cache;
  std::size_t limit;  // tokens that it may still choose
};

}  // namespace chat_answers_file

std::vector<std::int32_t> stop_ids_of(const text::TextEncoder& encoder,
                                      const text::ChatTemplate& chat,
                                      const weights::BaseModel& base) {
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : base.config().eos_token_ids)
    ids.push_back(static_cast<std::int32_t>(id));
  if (const auto end = text::turn_end(encoder.tokenizer(), chat);
      end && std::ranges::find(ids, *end) == ids.end())
    ids.push_back(*end);
  return ids;
}

std::vector<std::vector<std::int32_t>> continue_greedily(
    const std::vector<const Question*>& questions, std::size_t max_new,
    const std::vector<std::int32_t>& stop_ids, const text::BpeTokenizer& tokenizer,
    ParallelFor& parallel) {
  using namespace chat_answers_file;
  std::vector<std::vector<std::int32_t>> answers(questions.size());
  if (questions.empty()) return answers;
  const runtime::Execution& first = *questions.front()->execution;
  const model::ModelConfig& config = first.base().config();
  const std::size_t choices = std::min(config.vocab_size, tokenizer.vocab_size());
  runtime::DecoderWorkspace workspace;
  std::vector<float> hidden, last_rows, logits;
  std::vector<Running> running;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const Question& question = *questions[i];
    if (question.prompt.empty() || question.prompt.size() > config.max_positions) continue;
    const std::size_t limit = std::min(max_new, config.max_positions - question.prompt.size() + 1);
    running.push_back(
        {i, &question,
         runtime::KvCache(config, question.execution->kv(), question.prompt.size() + limit - 1),
         limit});
    const float* last = nullptr;
    for (std::size_t at = 0; at < question.prompt.size(); at += kChunk) {
      const auto chunk =
          std::span(question.prompt).subspan(at, std::min(kChunk, question.prompt.size() - at));
      hidden.resize(std::max(hidden.size(), chunk.size() * config.hidden));
      const runtime::Sequence sequence{chunk, &running.back().cache, nullptr};
      runtime::forward(*question.execution, {&sequence, 1}, workspace, hidden.data(), parallel);
      last = hidden.data() + (chunk.size() - 1) * config.hidden;
    }
    last_rows.insert(last_rows.end(), last, last + config.hidden);
  }
  runtime::Sampler sampler({});
  for (std::uint64_t step = 0; !running.empty(); ++step) {
    logits.resize(running.size() * config.vocab_size);
    for (std::size_t i = 0; i < running.size();) {
      const runtime::Execution* execution = running[i].question->execution.get();
      std::size_t end = i + 1;
      while (end < running.size() && running[end].question->execution.get() == execution) ++end;
      runtime::lm_logits(*execution, last_rows.data() + i * config.hidden, end - i,
                         logits.data() + i * config.vocab_size, parallel, &workspace.linear);
      i = end;
    }
    std::size_t row = 0;
    std::erase_if(running, [&](Running& one) {
      const std::span<const float> own(logits.data() + row++ * config.vocab_size, choices);
      const std::int32_t id = sampler.sample(own, step);
      if (std::ranges::find(stop_ids, id) != stop_ids.end()) return true;
      answers[one.index].push_back(id);
      return --one.limit == 0;
    });
    if (running.empty()) break;
    std::vector<runtime::Sequence> sequences;
    sequences.reserve(running.size());
    for (Running& one : running) {
      sequences.push_back(
          {std::span(answers[one.index]).last(1), &one.cache, one.question->execution.get()});
    }
    last_rows.resize(running.size() * config.hidden);
    runtime::forward(first, sequences, workspace, last_rows.data(), parallel);
  }
  return answers;
}

std::string text_of(const text::BpeTokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  text::TextStream stream;
  std::string text;
  for (const std::int32_t id : ids) text += stream.push(tokenizer.piece(id));
  return text + std::string(stream.finish());
}

}  // namespace qalof::tasks
