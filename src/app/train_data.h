// Training windows out of files: SQuAD questions with labels, or text cut into stretches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"
#include "text/bpe_tokenizer.h"
#include "text/span_features.h"
#include "train/options.h"

namespace qalof::app {

/// The first max_samples questions (0 = all) as windows with start and end labels. An answer that
/// does not stand where the file says is taken where it stands nearest; a question whose answer
/// stands nowhere is left out and counted in a warning.
std::vector<train::Example> load_qa_examples(const std::string& path,
                                             const text::BpeTokenizer& tokenizer,
                                             const text::SpanFeatureOptions& features,
                                             std::uint64_t max_samples, Observer& observer);
/// A UTF-8 text cut into windows of length tokens; a rest of one token is dropped. With
/// line_by_line every line is a document of its own and windows never span two.
std::vector<train::Example> load_lm_examples(const std::string& path,
                                             const text::BpeTokenizer& tokenizer,
                                             std::size_t length, std::uint64_t max_samples,
                                             bool line_by_line = false);

}  // namespace qalof::app
