// The windows of a training run: in memory, or in a file where a run's memory must not grow with
// its data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "tasks/example.h"

namespace qalof::tasks {

/// Windows in a file without a name, of which memory holds one at a time. One thread adds; then
/// several may read.
class WindowFile {
 public:
  /// path: the file or directory beside which the windows lie. Error{kResource}.
  explicit WindowFile(const std::string& path) : windows_(path), index_(path) {}

  /// Error{kResource} where the disk is full; {kUnsupported} beyond 2^32 - 1 windows.
  void add(const Example& example);
  std::size_t size() const { return size_; }
  /// Tokens of all windows, and of the longest.
  std::size_t tokens() const { return tokens_; }
  std::size_t longest() const { return longest_; }

  Example read(std::size_t window) const;
  /// Tokens of one.
  std::size_t length(std::size_t window) const;

 private:
  struct Entry {
    std::uint64_t first;  // byte
    std::uint32_t tokens, is_scored;
  };
  Entry entry(std::size_t window) const;
  SpoolFile windows_, index_;
  std::vector<std::byte> bytes_;  // of a window that is added
  std::size_t size_ = 0, tokens_ = 0, longest_ = 0;
};

/// A view of windows; what it was made of must outlive it.
class Windows {
 public:
  Windows(std::span<const Example> examples) : examples_(examples) {}
  Windows(const std::vector<Example>& examples) : examples_(examples) {}
  Windows(const WindowFile& file) : file_(&file) {}

  std::size_t size() const { return file_ != nullptr ? file_->size() : examples_.size(); }
  bool empty() const { return size() == 0; }
  /// A copy.
  Example operator[](std::size_t window) const {
    return file_ != nullptr ? file_->read(window) : examples_[window];
  }
  /// Tokens of one window, and of all.
  std::size_t length(std::size_t window) const {
    return file_ != nullptr ? file_->length(window) : examples_[window].ids.size();
  }
  std::size_t tokens() const;

 private:
  std::span<const Example> examples_;
  const WindowFile* file_ = nullptr;
};

}  // namespace qalof::tasks
