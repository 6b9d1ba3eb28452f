// Streams a SQuAD file into batches of windows. See batches.h.
#include "tasks/qa/batches.h"

#include <algorithm>

#include "core/error.h"

namespace qalof::tasks {

std::size_t QaItem::tokens() const {
  std::size_t sum = 0;
  for (const text::SpanWindow& window : windows) sum += window.ids.size();
  return sum;
}

std::vector<runtime::Sequence> QaBatch::sequences() const {
  std::vector<runtime::Sequence> sequences;
  for (const QaItem& item : items) {
    for (const text::SpanWindow& window : item.windows) sequences.push_back({window.ids});
  }
  return sequences;
}

QaReader::QaReader(const Reading& reading, const Qa& task, const DataOptions& data)
    : reading_(reading), data_(data), decode_(task.decode) {
  Observer& observer = reading.observer;
  bool was_cut = false;
  features_ = task.features(reading, data, &was_cut);
  if (was_cut) {
    observer.info(fmt::format("windows of {} tokens: the model has {} positions", reading.positions,
                              reading.positions));
  }
  observer.status("reading " + data.file);
  const text::SquadSummary summary = text::scan_squad(data.file);
  decode_.version_2_with_negative = decode_.version_2_with_negative || summary.has_is_impossible;
  total_ =
      data.max_samples == 0 ? summary.questions : std::min(data.max_samples, summary.questions);
  observer.info(
      fmt::format("{}: {}, {} questions", data.file, text::to_string(summary.form), total_));
  if (data.output_dir.empty()) return;
  repeated_ = text::repeated_ids(data.file, total_);
  if (repeated_.empty()) return;
  observer.warn(fmt::format(
      "{}: {} ids belong to several questions each, e.g. \"{:.60}\": all are scored, and files of "
      "predictions hold the last of each id",
      data.file, repeated_.size(), repeated_.begin()->first));
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
  text::read_squad(data_.file, [&](text::SquadParagraph&& paragraph) {
    const auto context = std::make_shared<const std::string>(std::move(paragraph.context));
    const text::EncodedContext encoded = text::encode_context(reading_.encoder, *context);
    for (text::SquadQuestion& question : paragraph.questions) {
      if (added == total_ || !goes_on) return false;
      ++added;
      bool was_cut = false;
      QaItem& item = batch.items.emplace_back();
      item.windows =
          text::make_windows(reading_.encoder, question.question, encoded, features_, &was_cut);
      const auto repeated = left.find(question.id);
      item.is_superseded = repeated != left.end() && --repeated->second > 0;
      item.question = std::move(question);
      item.context = context;
      cut += was_cut ? 1 : 0;
      batch.tokens += item.tokens();
      if (batch.tokens >= batch_tokens) flush();
    }
    return goes_on;
  });
  flush();
  if (cut > 0) {
    reading_.observer.warn(fmt::format(
        "{} questions were cut to leave room for the context; a longer --max_seq_length avoids it",
        cut));
  }
}

text::QuestionScore score_answer(const text::SpanDecodeOptions& decode, const std::string& answer,
                                 const text::SquadQuestion& question) {
  return decode.version_2_with_negative ? text::score_v2(answer, question.answers)
                                        : text::score_v1(answer, question.answers);
}

}  // namespace qalof::tasks
