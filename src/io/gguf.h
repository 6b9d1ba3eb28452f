// GGUF files, version 3 (and 2, which has the same layout), little-endian: a strict reader over a
// mapping (docs/file_formats.md, "GGUF").
//
// Values are views of the mapping, so a hostile file costs little more memory than its names. Not
// for: tensor types that GgufType lacks, big-endian files, arrays of arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
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
  std::vector<std::size_t> shape;  // slowest dimension first; the file has the reverse
  std::span<const std::byte> bytes;
  std::size_t num_elements() const;
};
/// Converts rows [first_row, first_row + dst.size() / cols) to f32, where cols is the fastest
/// dimension and divides dst.size().
void copy_as_f32(const GgufTensor& tensor, std::size_t first_row, std::span<float> dst);

/// An opened file. Movable; threads may share it.
class GgufFile {
 public:
  /// Opens a file; where it is one of several parts (NAME-00001-of-00003.gguf), the first of them
  /// with the tensors of all. Error{kNotFound} (a missing part is named), {kResource},
  /// {kCorruptFile} (one sentence per rule of the format), {kUnsupported} for other tensor types,
  /// {kUsage} for a part under a name that tells nothing of the others.
  static GgufFile open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }

  /// Metadata by key: nullopt where the key is missing, Error{kBadInput} where its value has
  /// another type or is out of range.
  std::optional<std::uint64_t> integer(const std::string& key, std::uint64_t max) const;
  std::optional<double> number(const std::string& key) const;
  std::optional<bool> boolean(const std::string& key) const;
  std::optional<std::string_view> string(const std::string& key) const;
  bool is_list(const std::string& key) const;
  /// Arrays; strings are views of the mapping. Error{kBadInput} for more than max_count elements.
  std::optional<std::vector<std::string_view>> strings(const std::string& key,
                                                       std::size_t max_count) const;
  std::optional<std::vector<std::int32_t>> integers(const std::string& key,
                                                    std::size_t max_count) const;
  /// f32, as they are: not finite ones too.
  std::optional<std::vector<float>> floats(const std::string& key, std::size_t max_count) const;
  /// 1 for true.
  std::optional<std::vector<std::uint8_t>> booleans(const std::string& key,
                                                    std::size_t max_count) const;
  bool contains(const std::string& key) const { return values_.contains(key); }

 private:
  friend class GgufParser;
  struct Value {
    std::uint32_t type = 0;  // of a scalar, or of an array's elements
    bool is_array = false;
    std::uint64_t count = 1;
    std::span<const std::byte> bytes;
  };
  explicit GgufFile(MappedFile file) : file_(std::move(file)) {}
  static GgufFile open_one(const std::string& path);
  static GgufFile open_part(const std::string& stem, std::uint64_t part, std::uint64_t parts);
  void add_parts(const std::string& stem, std::uint64_t parts);
  const Value* find(const std::string& key, bool is_array, std::size_t max_count = 1) const;
  template <typename T>
  std::optional<std::vector<T>> read_numbers(const std::string& key, std::size_t max_count,
                                             std::initializer_list<std::uint32_t> types,
                                             const char* what) const;
  MappedFile file_;
  std::vector<MappedFile> other_parts_;
  std::map<std::string, GgufTensor> tensors_;
  std::map<std::string, Value> values_;
};

}  // namespace qalof::io
