#include "app/lm_evaluation.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/finite.h"
#include "text/records.h"

namespace qalof::app {

namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;
// Windows run together up to about this many tokens: enough rows to fill the GEMM, little memory.
constexpr std::size_t kBatchTokens = 2048;

struct Window {
  std::size_t first;  // first token of the window
  std::size_t end;
  std::size_t scored_from;  // first token (index in the document) that this window scores
};

// Adds the windows of the document that lies at tokens begin..end.
void add_windows(std::size_t begin, std::size_t end, std::size_t length, std::size_t stride,
                 std::vector<Window>& windows) {
  std::size_t scored = begin + 1;
  for (std::size_t first = begin; scored < end; first += stride) {
    const std::size_t last = std::min(first + length, end);
    windows.push_back({first, last, std::max(scored, first + 1)});
    scored = last;
  }
}

}  // namespace

std::vector<std::string_view> documents_of(std::string_view text, bool line_by_line) {
  if (!line_by_line) return {text};
  std::vector<std::string_view> documents;
  for (std::size_t first = 0; first < text.size();) {
    const std::size_t end = std::min(text.find('\n', first), text.size());
    documents.push_back(text.substr(first, end - first));
    first = end + 1;
  }
  return documents;
}

std::vector<std::int32_t> document_tokens(const text::TextEncoder& encoder,
                                          std::string_view document) {
  return document.empty() ? std::vector<std::int32_t>() : encoder.encode(document).ids;
}

LmScores evaluate_lm(const runtime::RequestExecutions& executions, const text::TextEncoder& encoder,
                     const LmEvaluationOptions& options, ParallelFor& parallel, Observer& observer,
                     runtime::Profile* profile) {
  observer.status("reading " + options.validation_file);
  const text::PlainText file = text::read_plain_text(options.validation_file, kMaxTextBytes);
  if (file.is_changed()) observer.info(file.changes(options.validation_file));
  return score_documents(executions, encoder, documents_of(file.text, options.line_by_line),
                         options, parallel, observer, profile);
}

LmScores score_documents(const runtime::RequestExecutions& executions,
                         const text::TextEncoder& encoder,
                         std::span<const std::string_view> documents,
                         const LmEvaluationOptions& options, ParallelFor& parallel,
                         Observer& observer, runtime::Profile* profile) {
  executions.front().base().require_lm_head();
  const model::ModelConfig& config = executions.front().base().config();
  const std::size_t length =
      options.max_seq_length == 0 ? config.max_positions : options.max_seq_length;
  QALOF_CHECK(length >= 2 && length <= config.max_positions, ErrorKind::kUsage,
              "--max_seq_length: found {}, expected 2..{} (the model's positions)", length,
              config.max_positions);
  const std::size_t stride = options.stride == 0 ? length / 2 : options.stride;
  QALOF_CHECK(stride >= 1 && stride < length, ErrorKind::kUsage,
              "--stride: found {}, expected 1..{} (less than the window)", stride, length - 1);
  std::vector<std::int32_t> ids;
  std::vector<Window> windows;
  LmScores scores;
  for (const std::string_view document : documents) {
    const std::vector<std::int32_t> more = document_tokens(encoder, document);
    add_windows(ids.size(), ids.size() + more.size(), length, stride, windows);
    scores.tokens += more.empty() ? 0 : more.size() - 1;
    ids.insert(ids.end(), more.begin(), more.end());
  }
  QALOF_CHECK(scores.tokens > 0, ErrorKind::kBadInput,
              "{}: holds {} tokens, no document with the 2 that are needed",
              options.validation_file, ids.size());
  scores.windows = windows.size();
  const auto start = std::chrono::steady_clock::now();
  // As many tokens for each execution.
  const std::size_t batch_tokens = kBatchTokens * executions.set().size();
  runtime::GroupedWorkspace workspace;
  std::vector<float> hidden, scored_rows;
  std::vector<std::int32_t> targets;
  std::vector<std::size_t> scored;  // index in ids of each target
  double sum = 0;
  observer.progress("windows", 0, windows.size(), "");
  for (std::size_t next = 0; next < windows.size();) {
    std::vector<runtime::Sequence> sequences;
    std::vector<std::shared_ptr<const runtime::Execution>> served;  // window by window
    std::size_t tokens = 0;
    const std::size_t first_window = next;
    while (next < windows.size() &&
           (tokens == 0 || tokens + windows[next].end - windows[next].first <= batch_tokens)) {
      served.push_back(executions.of_request(next));
      const Window& window = windows[next++];
      sequences.push_back({std::span(ids).subspan(window.first, window.end - window.first), nullptr,
                           served.back().get()});
      tokens += window.end - window.first;
    }
    hidden.resize(tokens * config.hidden);
    runtime::forward_by_execution(executions.front(), sequences, workspace, hidden.data(), parallel,
                                  profile);
    const auto score = [&](const runtime::Execution& execution) {
      const runtime::Profile::Scope scope(profile, "lm_head",
                                          targets.size() * config.vocab_size * sizeof(float));
      const std::vector<float> losses =
          runtime::lm_token_losses(execution, scored_rows.data(), targets, parallel);
      for (std::size_t i = 0; i < losses.size(); ++i) {
        check_finite(static_cast<double>(losses[i]), "the loss", [&] {
          return fmt::format("{}: token {} of {} at {}", options.validation_file, scored[i] + 1,
                             ids.size(), execution.description());
        });
        sum += static_cast<double>(losses[i]);
      }
      scored_rows.clear();
      targets.clear();
      scored.clear();
    };
    std::size_t row0 = 0;
    for (std::size_t w = first_window; w < next; ++w) {
      const runtime::Execution& execution = *served[w - first_window];
      const bool is_last = w + 1 == next || served[w + 1 - first_window]->lm_head_width() !=
                                                execution.lm_head_width();
      for (std::size_t t = windows[w].scored_from; t < windows[w].end; ++t) {
        const float* row = hidden.data() + (row0 + t - 1 - windows[w].first) * config.hidden;
        scored_rows.insert(scored_rows.end(), row, row + config.hidden);
        targets.push_back(ids[t]);
        scored.push_back(t);
      }
      row0 += windows[w].end - windows[w].first;
      if (is_last) score(execution);
    }
    observer.progress("windows", next, windows.size(), "");
  }
  scores.loss = sum / static_cast<double>(scores.tokens);
  scores.perplexity = std::exp(scores.loss);
  check_finite(scores.perplexity, "the perplexity",
               [&] { return fmt::format("{}: loss {}", options.validation_file, scores.loss); });
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return scores;
}

}  // namespace qalof::app
