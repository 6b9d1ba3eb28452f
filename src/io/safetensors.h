// safetensors files: a strict reader over a mapping and an atomic writer (docs/file_formats.md,
// "safetensors").
//
// The header is parsed as a stream, so that a hostile one costs no more memory than its own size.
// Not for: pickled PyTorch files, which are never read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace qalof::io {

enum class DType {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64
};
std::string_view to_string(DType dtype);
int dtype_bits(DType dtype);

/// A tensor in C order, little-endian; views the mapping of its file.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;
  std::size_t num_elements() const {
    return bytes.size() * 8 / static_cast<std::size_t>(dtype_bits(dtype));
  }
};

/// An opened file. Movable; threads may share it.
class SafetensorsFile {
 public:
  /// Error{kNotFound}, {kResource}, {kCorruptFile} (one sentence per rule of the format), or
  /// {kUnsupported} for a known but unimplemented dtype.
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::span<const std::byte> file_bytes() const { return file_.bytes(); }
  /// MappedFile::release for bytes of tensors or of the file that were read and are not needed
  /// soon.
  void release(std::span<const std::byte> part) const { file_.release(part); }

 private:
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {}
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// Converts F32, F16 or BF16 values to f32; dst.size() must equal view.num_elements(). Other dtypes
/// are Error{kBadInput}.
void copy_as_f32(const TensorView& view, std::span<float> dst);
/// copy_as_f32 from the bytes of dst.size() values.
void copy_as_f32(DType dtype, std::span<const std::byte> bytes, std::span<float> dst);
/// f32 to bfloat16 bytes, nearest, ties to even.
std::vector<std::byte> bf16_bytes(std::span<const float> values);
/// The same for f16; values beyond its range become infinite.
std::vector<std::byte> f16_bytes(std::span<const float> values);

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;  // must live until the write returns
};
/// Prefix of the names of the zero tensors that pad aligned ones.
inline constexpr std::string_view kPaddingPrefix = "padding.";
/// Writes tensors, largest alignment first, then by name, with {"format": "pt"} and metadata. With
/// an alignment above 8 every tensor begins at a multiple of it, with tensors of zeros between.
/// Equal input gives equal bytes. written is called with the bytes of each tensor once they are no
/// longer needed. Returns the size of the file in bytes. Error{kResource} where the disk fails,
/// {kInternal} for a duplicate name or a size that does not fit its shape, {kBadInput} for a name
/// that is not UTF-8.
std::uint64_t write_safetensors(
    const std::string& path, std::vector<TensorToWrite> tensors,
    const std::map<std::string, std::string>& metadata, std::size_t alignment = 8,
    const std::function<void(std::span<const std::byte>)>& written = {});

/// A tensor whose bytes are computed when it is written.
struct TensorToStream {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::size_t> shape;
  std::function<std::vector<std::byte>()> make;
};
/// write_safetensors that asks for the bytes of each tensor when it is written, so that memory
/// holds one tensor at a time.
std::uint64_t write_safetensors_streamed(const std::string& path,
                                         std::vector<TensorToStream> tensors);

}  // namespace qalof::io
