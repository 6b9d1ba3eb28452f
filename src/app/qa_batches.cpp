#include "app/qa_batches.h"

#include <algorithm>

#include "core/error.h"

namespace qalof::app {

std::vector<runtime::Sequence> QaBatch::sequences() const {
  std::vector<runtime::Sequence> sequences;
  for (const QaItem& item : items) {
    for (const text::SpanWindow& window : item.windows) sequences.push_back({window.ids});
  }
  return sequences;
}

QaReader::QaReader(const text::TextEncoder& encoder, const QaEvaluationOptions& options,
                   std::size_t positions, Observer& observer)
    : encoder_(encoder), observer_(observer), options_(options) {
  if (text::fit_windows(options_.features, positions)) {
    observer.info(
        fmt::format("windows of {} tokens: the model has {} positions", positions, positions));
  }
  observer.status("reading " + options_.validation_file);
  const text::SquadSummary summary = text::scan_squad(options_.validation_file);
  options_.decode.version_2_with_negative =
      options_.decode.version_2_with_negative || summary.has_is_impossible;
  total_ = options_.max_eval_samples == 0 ? summary.questions
                                          : std::min(options_.max_eval_samples, summary.questions);
  observer.info(fmt::format("{}: {}, {} questions", options_.validation_file,
                            text::to_string(summary.form), total_));
  if (options_.output_dir.empty()) return;
  repeated_ = text::repeated_ids(options_.validation_file, total_);
  if (repeated_.empty()) return;
  observer.warn(fmt::format(
      "{}: {} ids belong to several questions each, e.g. \"{:.60}\": all are scored, and files of "
      "predictions hold the last of each id",
      options_.validation_file, repeated_.size(), repeated_.begin()->first));
}

void QaReader::read(std::size_t batch_tokens,
                    const std::function<bool(const QaBatch&)>& take) const {
  QaBatch batch;
  std::uint64_t added = 0, cut = 0;
  auto left = repeated_;  // questions of an id that are still to come
  bool goes_on = true;
  const auto flush = [&] {
    if (goes_on && !batch.items.empty()) goes_on = take(batch);
    batch = {};
  };
  text::read_squad(options_.validation_file, [&](text::SquadParagraph&& paragraph) {
    const auto context = std::make_shared<const std::string>(std::move(paragraph.context));
    const text::EncodedContext encoded = text::encode_context(encoder_, *context);
    for (text::SquadQuestion& question : paragraph.questions) {
      if (added == total_ || !goes_on) return false;
      ++added;
      bool was_cut = false;
      QaItem& item = batch.items.emplace_back();
      item.windows =
          text::make_windows(encoder_, question.question, encoded, options_.features, &was_cut);
      const auto repeated = left.find(question.id);
      item.is_superseded = repeated != left.end() && --repeated->second > 0;
      item.question = std::move(question);
      item.context = context;
      cut += was_cut ? 1 : 0;
      for (const text::SpanWindow& window : item.windows) batch.tokens += window.ids.size();
      if (batch.tokens >= batch_tokens) flush();
    }
    return goes_on;
  });
  flush();
  if (cut > 0) {
    observer_.warn(fmt::format(
        "{} questions were cut to leave room for the context; a longer --max_seq_length avoids it",
        cut));
  }
}

text::QuestionScore score_answer(const QaEvaluationOptions& options, const std::string& answer,
                                 const text::SquadQuestion& question) {
  return options.decode.version_2_with_negative ? text::score_v2(answer, question.answers)
                                                : text::score_v1(answer, question.answers);
}

}  // namespace qalof::app
