// Questions as windows to train on and to look at activations with. See qa.h.
#include <tuple>

#include "core/error.h"
#include "tasks/qa/qa.h"
#include "text/squad.h"
#include "text/unicode.h"

namespace qalof::tasks {

std::vector<Example> Qa::examples(const Reading& reading, const DataOptions& data) const {
  const std::string& path = data.file;
  const text::TextEncoder& encoder = reading.encoder;
  const text::SpanFeatureOptions features = this->features(reading, data);
  Observer& observer = reading.observer;
  observer.status("reading " + path);
  std::vector<Example> examples;
  std::uint64_t questions = 0, unfound = 0, moved = 0, cut = 0;
  text::read_squad(path, [&](text::SquadParagraph&& paragraph) {
    const text::EncodedContext context = text::encode_context(encoder, paragraph.context);
    for (const text::SquadQuestion& question : paragraph.questions) {
      if (data.max_samples > 0 && questions == data.max_samples) return false;
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
        Example& example = examples.emplace_back();
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

std::vector<std::vector<std::int32_t>> Qa::windows(const Reading& reading, const DataOptions& data,
                                                   std::size_t max_windows) const {
  const text::SpanFeatureOptions features = this->features(reading, data);
  std::vector<std::vector<std::int32_t>> windows;
  text::read_squad(data.file, [&](text::SquadParagraph&& paragraph) {
    const text::EncodedContext context = text::encode_context(reading.encoder, paragraph.context);
    for (const text::SquadQuestion& question : paragraph.questions) {
      for (text::SpanWindow& window :
           text::make_windows(reading.encoder, question.question, context, features)) {
        if (windows.size() < max_windows) windows.push_back(std::move(window.ids));
      }
    }
    return windows.size() < max_windows;
  });
  return windows;
}

}  // namespace qalof::tasks
