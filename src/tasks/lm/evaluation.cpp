// Scores texts on the packed runtime. See lm.h.
#include "tasks/lm/lm.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/finite.h"
#include "tasks/batch.h"
#include "tasks/lm/documents.h"
#include "text/records.h"

namespace qalof::tasks {

namespace {

constexpr Metric kLmMetrics[] = {
    {.key = "eval_loss", .label = "loss", .digits = 6, .decides = Metric::Decides::kLower},
    {.key = "perplexity", .label = "perplexity", .digits = 4},
    {.key = "tokens", .label = "tokens", .is_count = true, .is_logged = false},
};

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

void Lm::list_windows(OptionList& list) {
  list.flag("--line_by_line", line_by_line, "lm: every line is a document of its own");
}

void Lm::list_scoring(OptionList& list, bool all) {
  if (all) list.option("--stride", stride, "lm: how far windows move; 0 = half a window");
}

std::span<const Metric> Lm::metrics() const { return kLmMetrics; }

Scores Lm::evaluate(const Evaluation& run, const DataOptions& data) const {
  run.reading.observer.status("reading " + data.file);
  const text::PlainText file = text::read_plain_text(data.file, kMaxTextBytes);
  if (file.is_changed()) run.reading.observer.info(file.changes(data.file));
  return score_documents(run, split_documents(file.text, line_by_line), data);
}

Scores Lm::score_documents(const Evaluation& run, std::span<const std::string_view> documents,
                           const DataOptions& data) const {
  const runtime::RequestExecutions& executions = run.executions;
  const text::TextEncoder& encoder = run.reading.encoder;
  Observer& observer = run.reading.observer;
  ParallelFor& parallel = run.parallel;
  runtime::Profile* const profile = run.profile;
  executions.front().base().require_lm_head();
  const model::ModelConfig& config = executions.front().base().config();
  const std::size_t length = data.max_seq_length.value_or(config.max_positions);
  QALOF_CHECK(length >= 2 && length <= config.max_positions, ErrorKind::kUsage,
              "--max_seq_length: found {}, expected 2..{} (the model's positions)", length,
              config.max_positions);
  const std::size_t step = stride == 0 ? length / 2 : stride;
  QALOF_CHECK(step >= 1 && step < length, ErrorKind::kUsage,
              "--stride: found {}, expected 1..{} (less than the window)", step, length - 1);
  std::vector<std::int32_t> ids;
  std::vector<Window> windows;
  std::uint64_t scored_tokens = 0;
  for (const std::string_view document : documents) {
    const std::vector<std::int32_t> more = document_tokens(encoder, document);
    add_windows(ids.size(), ids.size() + more.size(), length, step, windows);
    scored_tokens += more.empty() ? 0 : more.size() - 1;
    ids.insert(ids.end(), more.begin(), more.end());
  }
  QALOF_CHECK(scored_tokens > 0, ErrorKind::kBadInput,
              "{}: holds {} tokens, no document with the 2 that are needed", data.file, ids.size());
  const auto start = std::chrono::steady_clock::now();
  // As many tokens for each execution.
  const std::size_t batch_tokens = kBatchTokens * executions.set().size();
  runtime::GroupedWorkspace workspace;
  std::vector<float> hidden, scored_rows, losses;
  std::vector<std::int32_t> targets;
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
    std::size_t scored = 0;
    for (std::size_t w = first_window; w < next; ++w)
      scored += windows[w].end - windows[w].scored_from;
    losses.resize(scored);
    run.fill(losses, [&] {
      hidden.resize(tokens * config.hidden);
      runtime::forward_by_execution(executions.front(), sequences, workspace, hidden.data(),
                                    parallel, profile);
      auto next_loss = losses.begin();
      std::size_t row0 = 0;
      for (std::size_t w = first_window; w < next; ++w) {
        const runtime::Execution& execution = *served[w - first_window];
        for (std::size_t t = windows[w].scored_from; t < windows[w].end; ++t) {
          const float* row = hidden.data() + (row0 + t - 1 - windows[w].first) * config.hidden;
          scored_rows.insert(scored_rows.end(), row, row + config.hidden);
          targets.push_back(ids[t]);
        }
        row0 += windows[w].end - windows[w].first;
        const bool is_last = w + 1 == next || served[w + 1 - first_window]->lm_head_width() !=
                                                  execution.lm_head_width();
        if (!is_last) continue;
        const runtime::Profile::Scope scope(profile, "lm_head",
                                            targets.size() * config.vocab_size * sizeof(float));
        next_loss = std::ranges::copy(
                        runtime::lm_token_losses(execution, scored_rows.data(), targets, parallel),
                        next_loss)
                        .out;
        scored_rows.clear();
        targets.clear();
      }
    });
    std::size_t i = 0;
    for (std::size_t w = first_window; w < next; ++w) {
      for (std::size_t t = windows[w].scored_from; t < windows[w].end; ++t, ++i) {
        check_finite(static_cast<double>(losses[i]), "the loss", [&] {
          return fmt::format("{}: token {} of {} at {}", data.file, t + 1, ids.size(),
                             served[w - first_window]->description());
        });
        sum += static_cast<double>(losses[i]);
      }
    }
    observer.progress("windows", next, windows.size(), "");
  }
  const double loss = sum / static_cast<double>(scored_tokens);
  const double perplexity = std::exp(loss);
  check_finite(perplexity, "the perplexity",
               [&] { return fmt::format("{}: loss {}", data.file, loss); });
  Scores scores;
  scores.metrics = kLmMetrics;
  scores.values = {loss, perplexity, static_cast<double>(scored_tokens)};
  scores.requests = windows.size();
  scores.tokens = scored_tokens;
  scores.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return scores;
}

}  // namespace qalof::tasks
