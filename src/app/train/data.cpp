#include "app/train/data.h"

#include <algorithm>

#include "app/classification_evaluation.h"
#include "app/lm_evaluation.h"
#include "app/train/self_text.h"
#include "core/error.h"
#include "text/records.h"
#include "text/squad.h"
#include "text/unicode.h"

namespace qalof::app {

namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{4} << 30;

}  // namespace

std::vector<train::Example> load_qa_examples(const std::string& path,
                                             const text::TextEncoder& encoder,
                                             const text::SpanFeatureOptions& features,
                                             std::uint64_t max_samples, Observer& observer) {
  observer.status("reading " + path);
  std::vector<train::Example> examples;
  std::uint64_t questions = 0, unfound = 0, moved = 0, cut = 0;
  text::read_squad(path, [&](text::SquadParagraph&& paragraph) {
    const text::EncodedContext context = text::encode_context(encoder, paragraph.context);
    for (const text::SquadQuestion& question : paragraph.questions) {
      if (max_samples > 0 && questions == max_samples) return false;
      ++questions;
      std::int64_t start = -1;
      std::uint32_t length = 0;
      if (!question.answers.empty()) {
        const text::SquadAnswer& answer = question.answers.front();
        start = text::find_answer(paragraph.context, answer);
        length = static_cast<std::uint32_t>(text::count_code_points(answer.text));
        moved += start >= 0 && start != answer.start ? 1 : 0;
        if (start < 0 || length == 0) {
          ++unfound;
          continue;
        }
      }
      bool was_cut = false;
      for (text::SpanWindow& window :
           text::make_windows(encoder, question.question, context, features, &was_cut)) {
        train::Example& example = examples.emplace_back();
        if (start >= 0)
          std::tie(example.start, example.end) =
              text::label_window(window, static_cast<std::uint32_t>(start), length);
        example.ids = std::move(window.ids);
      }
      cut += was_cut ? 1 : 0;
    }
    return true;
  });
  if (unfound > 0)
    observer.warn(fmt::format(
        "{}: {} questions left out: their answer does not stand in the context", path, unfound));
  if (moved > 0)
    observer.info(
        fmt::format("{}: {} answers taken at the nearest place where they stand", path, moved));
  if (cut > 0)
    observer.warn(
        fmt::format("{}: {} questions were cut to leave room for the context", path, cut));
  QALOF_CHECK(!examples.empty(), ErrorKind::kBadInput, "{}: no question is left to train on", path);
  return examples;
}

std::vector<train::Example> load_lm_examples(const std::string& path,
                                             const text::TextEncoder& encoder, std::size_t length,
                                             std::uint64_t max_samples, bool line_by_line,
                                             Observer& observer) {
  QALOF_CHECK(length >= 2, ErrorKind::kUsage, "--max_seq_length: found {}, expected at least 2",
              length);
  const text::PlainText file = text::read_plain_text(path, kMaxTextBytes);
  const std::string& text = file.text;
  if (file.is_changed()) observer.info(file.changes(path));
  std::vector<train::Example> examples;
  const auto is_full = [&] { return max_samples > 0 && examples.size() == max_samples; };
  for (const std::string_view document : documents_of(text, line_by_line)) {
    const std::vector<std::int32_t> ids = document_tokens(encoder, document);
    for (std::size_t first = 0; first + 1 < ids.size() && !is_full(); first += length) {
      const std::size_t end = std::min(first + length, ids.size());
      examples.emplace_back().ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(first),
                                         ids.begin() + static_cast<std::ptrdiff_t>(end));
    }
    if (is_full()) break;
  }
  QALOF_CHECK(!examples.empty(), ErrorKind::kBadInput,
              "{}: holds no window of at least 2 tokens to train on", path);
  return examples;
}

std::vector<train::Example> load_classification_examples(const std::string& path,
                                                         const text::TextEncoder& encoder,
                                                         std::size_t length,
                                                         std::uint64_t max_samples,
                                                         Observer& observer) {
  std::vector<train::Example> examples;
  ClassificationEncoder cutter(encoder, path, length);
  text::read_classification(path, [&](text::LabeledText&& labeled) {
    train::Example& example = examples.emplace_back();
    example.ids = cutter.encode(labeled);
    example.label = labeled.label;
    return max_samples == 0 || examples.size() < max_samples;
  });
  cutter.report(observer);
  return examples;
}

namespace {

std::vector<train::Example> load_self_examples(const TrainRunOptions& options,
                                               const ModelHandle& handle,
                                               const text::TextEncoder& encoder,
                                               Observer& observer) {
  SelfTextOptions text;
  text.tokens = options.self_tokens;
  text.max_length = options.features.max_seq_length;
  text.seed = options.train.seed;
  text.num_choices = std::min(handle.base->config().vocab_size, encoder.tokenizer().vocab_size());
  text.before = encoder.text_template().before;
  text.should_stop = options.should_stop;
  Json identity = {{"base_sha256", handle.base->source().sha256()},
                   {"tokens", text.tokens},
                   {"max_length", text.max_length},
                   {"seed", text.seed}};
  if (!text.before.empty()) identity["before"] = text.before;
  const std::string path = options.output_dir + "/" + kSelfTextFile;
  auto documents = read_self_text(path, identity);
  if (!documents) {
    ThreadPool pool(choose_threads(options.model.threads));
    const auto execution = runtime::Execution::create(
        handle.base, quant::resolve(quant::parse_plan("32"), handle.base->target()), nullptr, pool);
    documents = generate_self_text(*execution, text, pool, observer);
    write_self_text(path, identity, *documents);
  }
  if (options.max_train_samples > 0 && options.max_train_samples < documents->size())
    documents->resize(options.max_train_samples);
  std::vector<train::Example> examples;
  for (std::vector<std::int32_t>& ids : *documents) examples.emplace_back().ids = std::move(ids);
  return examples;
}

}  // namespace

std::vector<train::Example> load_examples(const TrainRunOptions& options, const ModelHandle& handle,
                                          const text::TextEncoder& encoder, Observer& observer) {
  switch (options.train.task) {
    case weights::Task::kQa:
      return load_qa_examples(options.train_file, encoder, options.features,
                              options.max_train_samples, observer);
    case weights::Task::kClassification:
      return load_classification_examples(options.train_file, encoder,
                                          options.features.max_seq_length,
                                          options.max_train_samples, observer);
    case weights::Task::kLm:
      break;
  }
  if (options.train_file == kTrainFileSelf)
    return load_self_examples(options, handle, encoder, observer);
  return load_lm_examples(options.train_file, encoder, options.features.max_seq_length,
                          options.max_train_samples, options.line_by_line, observer);
}

}  // namespace qalof::app
