// Cuts the first windows from SQuAD, classification or plain text files.
#include "app/calibration.h"

#include <algorithm>

#include "app/classification_evaluation.h"
#include "app/lm_evaluation.h"
#include "core/error.h"
#include "core/file.h"
#include "text/records.h"
#include "text/squad.h"
#include "weights/adapter.h"

namespace qalof::app {

namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

}  // namespace

std::vector<std::vector<std::int32_t>> calibration_windows(const text::TextEncoder& encoder,
                                                           const CalibrationOptions& options,
                                                           std::size_t positions) {
  QALOF_CHECK(!options.file.empty(), ErrorKind::kUsage, "--calibration_file is missing");
  QALOF_CHECK(path_exists(options.file), ErrorKind::kNotFound, "{}: no such file", options.file);
  QALOF_CHECK(options.samples > 0, ErrorKind::kUsage,
              "--calibration_samples: found 0, expected at least 1");
  const weights::Task task = weights::parse_task(options.task);
  std::vector<std::vector<std::int32_t>> windows;
  text::SpanFeatureOptions features = options.features;
  text::fit_windows(features, positions);
  const auto is_full = [&] { return windows.size() >= options.samples; };
  if (task == weights::Task::kQa) {
    text::read_squad(options.file, [&](text::SquadParagraph&& paragraph) {
      const text::EncodedContext context = text::encode_context(encoder, paragraph.context);
      for (const text::SquadQuestion& question : paragraph.questions) {
        for (text::SpanWindow& window :
             text::make_windows(encoder, question.question, context, features)) {
          if (!is_full()) windows.push_back(std::move(window.ids));
        }
      }
      return !is_full();
    });
  } else if (task == weights::Task::kClassification) {
    ClassificationEncoder cutter(encoder, options.file, features.max_seq_length);
    text::read_classification(options.file, [&](text::LabeledText&& example) {
      windows.push_back(cutter.encode(example));
      return !is_full();
    });
  } else {
    const std::string text = text::read_plain_text(options.file, kMaxTextBytes).text;
    for (const std::string_view document : documents_of(text, options.line_by_line)) {
      const std::vector<std::int32_t> ids = document_tokens(encoder, document);
      for (std::size_t first = 0; first < ids.size() && !is_full();) {
        const std::size_t end = std::min(ids.size(), first + features.max_seq_length);
        windows.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(first),
                             ids.begin() + static_cast<std::ptrdiff_t>(end));
        first = end;
      }
      if (is_full()) break;
    }
  }
  std::erase_if(windows, [](const auto& window) { return window.empty(); });
  QALOF_CHECK(!windows.empty(), ErrorKind::kBadInput, "{}: holds nothing to calibrate on",
              options.file);
  return windows;
}

}  // namespace qalof::app
