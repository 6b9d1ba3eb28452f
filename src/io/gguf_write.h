// Writes GGUF files, version 3, tensor by tensor (docs/file_formats.md, "GGUF").
//
// Values of a tensor are asked for when it is written, so that memory holds the largest tensor and
// not the model. Not for: split files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/threads.h"
#include "io/gguf_blocks.h"

namespace qalof::io {

/// Metadata entries, in the order in which they are added. A key must be added once.
class GgufMetadata {
 public:
  void add(std::string_view key, std::uint32_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, std::span<const std::string> values);
  void add(std::string_view key, std::span<const std::int32_t> values);
  void add(std::string_view key, std::span<const float> values);
  void add(std::string_view key, std::span<const bool> values);

  std::uint64_t count() const { return count_; }
  /// As they stand in a file.
  const std::string& bytes() const { return bytes_; }

 private:
  void begin(std::string_view key, std::uint32_t type);
  void begin_list(std::string_view key, std::uint32_t type, std::uint64_t count);
  std::string bytes_;
  std::uint64_t count_ = 0;
};

/// A tensor whose values are computed when it is written.
struct GgufTensorToMake {
  std::string name;
  std::vector<std::size_t> shape;  // slowest dimension first
  GgufType type = GgufType::kF32;  // one that is written (io/gguf_quantize.h)
  std::function<std::vector<float>()> make;
};

/// Bytes of the file that write_gguf writes.
std::uint64_t gguf_file_bytes(const GgufMetadata& metadata,
                              std::span<const GgufTensorToMake> tensors);

/// Writes a file that appears under its name when it is complete. made is called after each tensor.
/// Error{kBadInput} naming a tensor with values beyond the range of f16 in its type, {kResource}
/// where the disk fails, {kInternal} for a row that is no multiple of its type's block.
void write_gguf(const std::string& path, const GgufMetadata& metadata,
                std::span<const GgufTensorToMake> tensors, const std::function<void()>& made,
                ParallelFor& parallel);

}  // namespace qalof::io
