// GGUF files, version 3 (and 2, which has the same layout), little-endian: a strict reader over a
// mapping (docs/file_formats.md, "GGUF").
//
// Values are views of the mapping, so a hostile file costs little more memory than its names. Not
// for: tensors of other types than GgufType names, big-endian files, arrays of arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "io/gguf_blocks.h"

namespace qalof::io {

/// A tensor; views the mapping of its file.
struct GgufTensor {
  GgufType type = GgufType::kF32;
  std::vector<std::size_t> shape;  // slowest dimension first, unlike in the file
  std::span<const std::byte> bytes;
  std::size_t num_elements() const;
};
/// Rows [first, first + dst.size() / cols) as f32, cols being the fastest dimension;
/// dst.size() must be a multiple of it.
void copy_as_f32(const GgufTensor& tensor, std::size_t first_row, std::span<float> dst);

/// An opened file. Movable; threads may share it.
class GgufFile {
 public:
  /// With the tensors of all parts where path is the first of several (NAME-00001-of-00003.gguf).
  /// Throws Error{kNotFound}, {kResource}, {kCorruptFile} (with a sentence per rule of the format),
  /// {kUnsupported} for other tensor types or {kUsage} for a later part.
  static GgufFile open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }

  /// Metadata by key: nothing where there is no such key, Error{kBadInput} where its value is of
  /// another type or out of range.
  std::optional<std::uint64_t> integer(const std::string& key, std::uint64_t max) const;
  std::optional<double> number(const std::string& key) const;
  std::optional<bool> boolean(const std::string& key) const;
  std::optional<std::string_view> string(const std::string& key) const;
  /// Views of the mapping. Error{kBadInput} above max_count elements.
  std::optional<std::vector<std::string_view>> strings(const std::string& key,
                                                       std::size_t max_count) const;
  std::optional<std::vector<std::int32_t>> integers(const std::string& key,
                                                    std::size_t max_count) const;
  bool contains(const std::string& key) const { return values_.contains(key); }

 private:
  friend class GgufParser;
  struct Value {
    std::uint32_t type = 0;  // of the value or of the elements
    bool is_array = false;
    std::uint64_t count = 1;
    std::span<const std::byte> bytes;
  };
  explicit GgufFile(MappedFile file) : file_(std::move(file)) {}
  static GgufFile open_one(const std::string& path);
  void add_parts(std::uint64_t parts);
  const Value* find(const std::string& key, bool is_array, std::size_t max_count = 1) const;
  MappedFile file_;
  std::vector<MappedFile> other_parts_;
  std::map<std::string, GgufTensor> tensors_;
  std::map<std::string, Value> values_;
};

}  // namespace qalof::io
