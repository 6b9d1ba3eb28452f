// Language modelling loss of a text file with windows that move by a stride (docs/numerics.md,
// "Perplexity").
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/progress.h"
#include "core/threads.h"
#include "runtime/request_executions.h"
#include "text/text_encoder.h"

namespace qalof::app {

struct LmEvaluationOptions {
  std::string validation_file;     // UTF-8 text
  bool line_by_line = false;       // every line is a document of its own, else all is one
  std::size_t max_seq_length = 0;  // 0 = the model's positions
  std::size_t stride = 0;          // 0 = half of it
};
struct LmScores {
  double loss = 0;  // mean negative log-likelihood, nats per token
  double perplexity = 0;
  std::uint64_t tokens = 0;  // predicted tokens
  std::uint64_t windows = 0;
  double seconds = 0;
};

/// The documents of a text: all of it, or with line_by_line its lines.
std::vector<std::string_view> documents_of(std::string_view text, bool line_by_line);
/// Of a document with what the tokenizer's template adds; none of an empty one.
std::vector<std::int32_t> document_tokens(const text::TextEncoder& encoder,
                                          std::string_view document);

/// Each token of a document but its first is scored once, in the first window that holds it with a
/// predecessor. What the tokenizer's template adds stands around the document, not around windows,
/// and is scored as other tokens are; an empty document has no tokens.
LmScores evaluate_lm(const runtime::RequestExecutions& executions, const text::TextEncoder& encoder,
                     const LmEvaluationOptions& options, ParallelFor& parallel, Observer& observer,
                     runtime::Profile* profile = nullptr);
/// Scores documents in memory likewise; options.validation_file names them in messages.
LmScores score_documents(const runtime::RequestExecutions& executions,
                         const text::TextEncoder& encoder,
                         std::span<const std::string_view> documents,
                         const LmEvaluationOptions& options, ParallelFor& parallel,
                         Observer& observer, runtime::Profile* profile = nullptr);

}  // namespace qalof::app
