// One forward pass over context and continuation, and the losses of the latter's tokens.
#include "app/continuation.h"

#include <string>

#include "core/error.h"
#include "core/finite.h"
#include "runtime/decoder.h"
#include "tasks/choice/choice.h"
#include "text/unicode.h"

namespace qalof::app {

ContinuationScore score_continuation(const runtime::Execution& execution,
                                     const text::TextEncoder& encoder, std::string_view context,
                                     std::string_view continuation, ParallelFor& parallel) {
  execution.base().require_lm_head();
  const model::ModelConfig& config = execution.base().config();
  text::check_utf8(context, "the context");
  text::check_utf8(continuation, "the continuation");
  const std::vector<std::int32_t>& before = encoder.text_template().before;
  const tasks::ChoiceTokens tokens = tasks::encode_choice(
      encoder, std::string(context), std::string(continuation),
      before.empty() ? static_cast<std::int32_t>(config.bos_token_id) : before.front(),
      config.max_positions, "the continuation");
  const std::vector<std::int32_t>& ids = tokens.ids;
  QALOF_CHECK(!tokens.was_cut && ids.size() <= config.max_positions, ErrorKind::kBadInput,
              "context and continuation have more than {} tokens, the model's positions",
              config.max_positions);
  const std::size_t first = ids.size() - tokens.scored;
  ContinuationScore score;
  score.ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
  // The last token predicts nothing.
  const runtime::Sequence sequence{std::span(ids).first(ids.size() - 1)};
  std::vector<float> hidden(sequence.ids.size() * config.hidden);
  runtime::DecoderWorkspace workspace;
  runtime::forward(execution, {&sequence, 1}, workspace, hidden.data(), parallel);
  score.token_log_likelihoods = runtime::lm_token_losses(
      execution, hidden.data() + (first - 1) * config.hidden, score.ids, parallel);
  for (std::size_t i = 0; i < score.ids.size(); ++i) {
    float& value = score.token_log_likelihoods[i];
    check_finite(static_cast<double>(value), "the loss", [&] {
      return fmt::format("token {} of the continuation at {}", i + 1, execution.description());
    });
    value = -value;
    score.log_likelihood += static_cast<double>(value);
  }
  return score;
}

}  // namespace qalof::app
