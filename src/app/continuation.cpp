// One forward pass over context and continuation, and the losses of the latter's tokens.
#include "app/continuation.h"

#include <string>

#include "core/error.h"
#include "core/finite.h"
#include "runtime/decoder.h"
#include "text/unicode.h"

namespace qalof::app {

ContinuationScore score_continuation(const runtime::Execution& execution,
                                     const text::TextEncoder& encoder, std::string_view context,
                                     std::string_view continuation, ParallelFor& parallel) {
  execution.base().require_lm_head();
  const model::ModelConfig& config = execution.base().config();
  text::check_utf8(context, "the context");
  text::check_utf8(continuation, "the continuation");
  std::vector<std::int32_t> ids = encoder.text_template().before;
  const std::vector<std::int32_t> text =
      encoder.encode_bare(std::string(context).append(continuation)).ids;
  std::size_t first = ids.size() + encoder.encode_bare(context).ids.size();
  ids.insert(ids.end(), text.begin(), text.end());
  if (first == 0) {
    ids.insert(ids.begin(), static_cast<std::int32_t>(config.bos_token_id));
    first = 1;
  }
  QALOF_CHECK(first < ids.size(), ErrorKind::kBadInput, "the continuation has no tokens");
  QALOF_CHECK(ids.size() <= config.max_positions, ErrorKind::kBadInput,
              "context and continuation have {} tokens, the model has {} positions", ids.size(),
              config.max_positions);
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
