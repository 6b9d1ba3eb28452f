// Windows in a file: numbers of each one after the other, and an index of where it begins. See
// windows.h.
#include "tasks/windows.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/error.h"

namespace qalof::tasks {

void WindowFile::add(const Example& example) {
  QALOF_CHECK(size_ < std::numeric_limits<std::uint32_t>::max(), ErrorKind::kUnsupported,
              "training data: more than {} windows", size_);
  const Entry entry = {windows_.size(), static_cast<std::uint32_t>(example.ids.size()),
                       example.scored.empty() ? 0U : 1U};
  const std::array<std::int32_t, 3> labels = {example.start, example.end, example.label};
  bytes_.clear();
  for (const auto& part : {std::as_bytes(std::span<const std::int32_t>(labels)),
                           std::as_bytes(std::span<const std::int32_t>(example.ids)),
                           std::as_bytes(std::span<const std::uint8_t>(example.scored))})
    bytes_.insert(bytes_.end(), part.begin(), part.end());
  windows_.append(bytes_);
  index_.append(std::as_bytes(std::span(&entry, 1)));
  ++size_;
  tokens_ += entry.tokens;
  longest_ = std::max<std::size_t>(longest_, entry.tokens);
}

WindowFile::Entry WindowFile::entry(std::size_t window) const {
  Entry entry{};
  index_.read(window * sizeof entry, std::as_writable_bytes(std::span(&entry, 1)));
  return entry;
}

std::size_t WindowFile::length(std::size_t window) const { return entry(window).tokens; }

Example WindowFile::read(std::size_t window) const {
  const Entry entry = this->entry(window);
  std::array<std::int32_t, 3> labels{};
  windows_.read(entry.first, std::as_writable_bytes(std::span(labels)));
  Example example;
  example.start = labels[0];
  example.end = labels[1];
  example.label = labels[2];
  example.ids.resize(entry.tokens);
  const std::size_t first = entry.first + sizeof labels;
  windows_.read(first, std::as_writable_bytes(std::span(example.ids)));
  if (entry.is_scored == 0) return example;
  example.scored.resize(entry.tokens);
  windows_.read(first + entry.tokens * sizeof(std::int32_t),
                std::as_writable_bytes(std::span(example.scored)));
  return example;
}

std::size_t Windows::tokens() const {
  if (file_ != nullptr) return file_->tokens();
  std::size_t tokens = 0;
  for (const Example& example : examples_) tokens += example.ids.size();
  return tokens;
}

}  // namespace qalof::tasks
