// Splits question and context into windows of tokens as Hugging Face's run_qa.py does: only the
// context is cut, doc_stride is the overlap of neighbouring windows, and every window has the
// tokens of the tokenizer's template for pairs. Adds an optional separator token after the
// question.
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

/// Limits windows to a model's positions, and their overlap to a third of that; false where they
/// already fit.
bool fit_windows(SpanFeatureOptions& options, std::size_t positions);

/// One window: question tokens, the separator if any, then a stretch of the context, with the
/// template's tokens before, between and after.
struct SpanWindow {
  std::vector<std::int32_t> ids;
  std::size_t context_start = 0;  // index in ids of the first context token
  /// Code points [start, end) of each context token.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> offsets;
};

/// The tokens of a context, computed once for all its questions.
struct EncodedContext {
  Encoding encoding;
};
EncodedContext encode_context(const TextEncoder& encoder, const std::string& context);

/// Windows of a question over a context. Every context token is in at least one window; an empty
/// context has one window. A question that would leave less than doc_stride + 1 tokens for the
/// context is cut to kCutQuestionTokens tokens, or fewer where even those leave too little;
/// *was_cut reports it. Error{kUsage} where doc_stride does not leave room in max_seq_length.
inline constexpr std::size_t kCutQuestionTokens = 64;
std::vector<SpanWindow> make_windows(const TextEncoder& encoder, const std::string& question,
                                     const EncodedContext& context,
                                     const SpanFeatureOptions& options, bool* was_cut = nullptr);

/// Token indices (into ids, both inclusive) of an answer that begins at code point start and has
/// length code points; {0, 0} where the window does not contain all of it. Where several tokens
/// share the answer's only character, the label spans all of them.
std::pair<std::int32_t, std::int32_t> label_window(const SpanWindow& window, std::uint32_t start,
                                                   std::uint32_t length);

}  // namespace qalof::text
