// Labelled texts as windows to train on and to look at activations with. See classification.h.
#include "tasks/classification/classification.h"

namespace qalof::tasks {

std::optional<Classes> Classification::classes(const std::string& train_file,
                                               const std::string& validation_file) const {
  const text::ClassificationFile file = text::scan_classification(train_file);
  if (!validation_file.empty()) check_classification(validation_file, file.num_labels);
  return Classes{file.num_labels, file.label_names};
}

std::vector<Example> Classification::examples(const Reading& reading,
                                              const DataOptions& data) const {
  std::vector<Example> examples;
  ClassificationEncoder cutter(reading, data);
  text::read_classification(data.file, [&](text::LabeledText&& labeled) {
    Example& example = examples.emplace_back();
    example.ids = cutter.encode(labeled);
    example.label = labeled.label;
    return data.max_samples == 0 || examples.size() < data.max_samples;
  });
  cutter.report(reading.observer);
  return examples;
}

std::vector<std::vector<std::int32_t>> Classification::windows(const Reading& reading,
                                                               const DataOptions& data,
                                                               std::size_t max_windows) const {
  std::vector<std::vector<std::int32_t>> windows;
  ClassificationEncoder cutter(reading, data);
  text::read_classification(data.file, [&](text::LabeledText&& labeled) {
    windows.push_back(cutter.encode(labeled));
    return windows.size() < max_windows;
  });
  return windows;
}

}  // namespace qalof::tasks
