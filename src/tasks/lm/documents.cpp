// Texts as documents, and documents as windows to train on and to look at activations with.
#include "tasks/lm/documents.h"

#include <algorithm>

#include "core/error.h"
#include "tasks/lm/lm.h"
#include "text/records.h"

namespace qalof::tasks {

namespace {

constexpr std::size_t kMaxTrainingBytes = std::size_t{4} << 30;

}  // namespace

std::vector<std::string_view> split_documents(std::string_view text, bool line_by_line) {
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

std::vector<Example> Lm::examples(const Reading& reading, const DataOptions& data) const {
  const std::size_t length =
      std::min(data.max_seq_length.value_or(kDefaultLength), reading.positions);
  QALOF_CHECK(length >= 2, ErrorKind::kUsage, "--max_seq_length: found {}, expected at least 2",
              length);
  const text::PlainText file = text::read_plain_text(data.file, kMaxTrainingBytes);
  const std::string& text = file.text;
  if (file.is_changed()) reading.observer.info(file.changes(data.file));
  std::vector<Example> examples;
  const auto is_full = [&] { return data.max_samples > 0 && examples.size() == data.max_samples; };
  for (const std::string_view document : split_documents(text, line_by_line)) {
    const std::vector<std::int32_t> ids = document_tokens(reading.encoder, document);
    for (std::size_t first = 0; first + 1 < ids.size() && !is_full(); first += length) {
      const std::size_t end = std::min(first + length, ids.size());
      examples.emplace_back().ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(first),
                                         ids.begin() + static_cast<std::ptrdiff_t>(end));
    }
    if (is_full()) break;
  }
  QALOF_CHECK(!examples.empty(), ErrorKind::kBadInput,
              "{}: holds no window of at least 2 tokens to train on", data.file);
  return examples;
}

std::vector<std::vector<std::int32_t>> Lm::windows(const Reading& reading, const DataOptions& data,
                                                   std::size_t max_windows) const {
  const std::size_t length =
      std::min(data.max_seq_length.value_or(kDefaultLength), reading.positions);
  const std::string text = text::read_plain_text(data.file, kMaxTextBytes).text;
  std::vector<std::vector<std::int32_t>> windows;
  for (const std::string_view document : split_documents(text, line_by_line)) {
    const std::vector<std::int32_t> ids = document_tokens(reading.encoder, document);
    for (std::size_t first = 0; first < ids.size() && windows.size() < max_windows;) {
      const std::size_t end = std::min(ids.size(), first + length);
      windows.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(first),
                           ids.begin() + static_cast<std::ptrdiff_t>(end));
      first = end;
    }
    if (windows.size() >= max_windows) break;
  }
  return windows;
}

}  // namespace qalof::tasks
