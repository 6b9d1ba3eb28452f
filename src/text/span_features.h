// Question and context to windows of tokens, as Hugging Face's run_qa.py makes them (only the
// context is cut; doc_stride is the overlap of neighbouring windows; what the tokenizer's template
// puts around a pair is in every window), plus an optional separator token behind the question.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "text/squad.h"
#include "text/text_encoder.h"

namespace qalof::text {

struct SpanFeatureOptions {
  std::size_t max_seq_length = 384;
  std::size_t doc_stride = 128;
  std::optional<std::int32_t> separator;  // token id; none by default
};

/// Cuts windows to the positions of a model, and their overlap to a third of them; false where they
/// fit as they are.
bool fit_windows(SpanFeatureOptions& options, std::size_t positions);

/// One window: question tokens, the separator if any, then a stretch of the context; before,
/// between and behind them the tokens of the template.
struct SpanWindow {
  std::vector<std::int32_t> ids;
  std::size_t context_start = 0;  // index in ids of the first context token
  /// Code points [start, end) of each context token.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> offsets;
};

/// Tokens of a context, computed once for all its questions.
struct EncodedContext {
  Encoding encoding;
};
EncodedContext encode_context(const TextEncoder& encoder, const std::string& context);

/// Windows of a question over a context; every context token is in at least one, an empty context
/// has one window. A question that would leave less room than doc_stride + 1 tokens is cut to its
/// first kCutQuestionTokens tokens, or fewer where these leave too little room (was_cut tells).
/// Error{kUsage} where doc_stride does not leave room in max_seq_length.
inline constexpr std::size_t kCutQuestionTokens = 64;
std::vector<SpanWindow> make_windows(const TextEncoder& encoder, const std::string& question,
                                     const EncodedContext& context,
                                     const SpanFeatureOptions& options, bool* was_cut = nullptr);

/// Token indices (into ids, both inclusive) of an answer that begins at code point start and has
/// length code points; {0, 0} where the window does not hold all of it. Where several tokens share
/// the answer's only character, the label spans all of them.
std::pair<std::int32_t, std::int32_t> label_window(const SpanWindow& window, std::uint32_t start,
                                                   std::uint32_t length);

}  // namespace qalof::text
