// How likely a text is to follow another: what comparing choices and perplexity of answers need.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/threads.h"
#include "runtime/execution.h"
#include "text/text_encoder.h"

namespace qalof::app {

struct ContinuationScore {
  std::vector<std::int32_t> ids;             // of the continuation
  std::vector<float> token_log_likelihoods;  // nats, [ids.size()]
  double log_likelihood = 0;                 // their sum
};

/// log P(continuation | context). Both are encoded as one text after what the tokenizer puts
/// before texts (the model's bos token where that and the context are empty); the continuation's
/// tokens are those after as many as the context has alone, as lm-evaluation-harness counts them.
/// Error{kBadInput} where the continuation has no token, the text has more tokens than the model
/// positions, or one of them is not UTF-8.
ContinuationScore score_continuation(const runtime::Execution& execution,
                                     const text::TextEncoder& encoder, std::string_view context,
                                     std::string_view continuation, ParallelFor& parallel);

}  // namespace qalof::app
