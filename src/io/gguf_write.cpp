// Lays out header, metadata, tensor table and aligned data of a GGUF file, and encodes rows in
// parts.
#include "io/gguf_write.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "io/gguf_quantize.h"

namespace qalof::io {

namespace {

constexpr std::uint32_t kVersion = 3;
constexpr std::uint64_t kWriteAlignment = 32;  // the format's default

// Type numbers of metadata values.
constexpr std::uint32_t kTypeUint32 = 4, kTypeInt32 = 5, kTypeFloat32 = 6, kTypeBool = 7,
                        kTypeString = 8, kTypeArray = 9;

template <typename T>
void append(std::string& bytes, T value) {
  char raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof(T));
  bytes.append(raw, sizeof(T));
}

void append_text(std::string& bytes, std::string_view text) {
  append<std::uint64_t>(bytes, text.size());
  bytes.append(text);
}

std::uint64_t aligned(std::uint64_t offset) {
  return (offset + kWriteAlignment - 1) / kWriteAlignment * kWriteAlignment;
}

const GgufBlock& block_of_tensor(const GgufTensorToMake& tensor) {
  return *gguf_block(static_cast<std::uint32_t>(tensor.type));
}

std::uint64_t elements_of(const GgufTensorToMake& tensor) {
  std::uint64_t elements = 1;
  for (const std::size_t extent : tensor.shape) elements *= extent;
  return elements;
}

std::uint64_t bytes_of_tensor(const GgufTensorToMake& tensor) {
  const GgufBlock& block = block_of_tensor(tensor);
  QALOF_CHECK(is_gguf_type_written(tensor.type) && !tensor.shape.empty() &&
                  tensor.shape.back() % block.elements == 0,
              ErrorKind::kInternal, "tensor {}: rows of {} numbers in type {}", tensor.name,
              tensor.shape.empty() ? 0 : tensor.shape.back(),
              gguf_type_name(static_cast<std::uint32_t>(tensor.type)));
  return elements_of(tensor) / block.elements * block.bytes;
}

// Everything before the data, padded to the alignment.
std::string header_of(const GgufMetadata& metadata, std::span<const GgufTensorToMake> tensors) {
  std::string bytes = "GGUF";
  append(bytes, kVersion);
  append<std::uint64_t>(bytes, tensors.size());
  append(bytes, metadata.count());
  bytes += metadata.bytes();
  std::uint64_t offset = 0;
  for (const GgufTensorToMake& tensor : tensors) {
    append_text(bytes, tensor.name);
    append(bytes, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent)
      append<std::uint64_t>(bytes, *extent);
    append(bytes, static_cast<std::uint32_t>(tensor.type));
    append(bytes, offset);
    offset = aligned(offset + bytes_of_tensor(tensor));
  }
  bytes.resize(aligned(bytes.size()), '\0');
  return bytes;
}

// Encodes and writes a tensor in parts of about a mebibyte per thread.
void write_tensor(AtomicFile& file, const std::string& path, const GgufTensorToMake& tensor,
                  ParallelFor& parallel) {
  const std::vector<float> values = tensor.make();
  QALOF_CHECK(values.size() == elements_of(tensor), ErrorKind::kInternal,
              "tensor {}: {} values for {} elements", tensor.name, values.size(),
              elements_of(tensor));
  const GgufBlock& block = block_of_tensor(tensor);
  constexpr std::size_t kPart = std::size_t{1} << 18;  // elements, a multiple of every block
  const std::size_t at_once = kPart * static_cast<std::size_t>(parallel.num_threads());
  std::vector<std::byte> bytes;
  std::atomic<bool> fits = true;
  for (std::size_t first = 0; first < values.size(); first += at_once) {
    const std::size_t count = std::min(at_once, values.size() - first);
    bytes.resize(count / block.elements * block.bytes);
    parallel.run((count + kPart - 1) / kPart, [&](std::size_t part) {
      const std::size_t begin = part * kPart, size = std::min(kPart, count - begin);
      const auto to = std::span(bytes).subspan(begin / block.elements * block.bytes,
                                               size / block.elements * block.bytes);
      if (!blocks_of_f32(tensor.type, std::span(values).subspan(first + begin, size), to))
        fits = false;
    });
    QALOF_CHECK(fits, ErrorKind::kBadInput,
                "{}: tensor {} has values beyond the range of f16, which type {} needs; expected "
                "type f32 or bf16",
                path, tensor.name, gguf_type_name(static_cast<std::uint32_t>(tensor.type)));
    file.write(bytes);
  }
}

}  // namespace

void GgufMetadata::begin(std::string_view key, std::uint32_t type) {
  append_text(bytes_, key);
  append(bytes_, type);
  ++count_;
}
void GgufMetadata::begin_list(std::string_view key, std::uint32_t type, std::uint64_t count) {
  begin(key, kTypeArray);
  append(bytes_, type);
  append(bytes_, count);
}
void GgufMetadata::add(std::string_view key, std::uint32_t value) {
  begin(key, kTypeUint32);
  append(bytes_, value);
}
void GgufMetadata::add(std::string_view key, float value) {
  begin(key, kTypeFloat32);
  append(bytes_, value);
}
void GgufMetadata::add(std::string_view key, bool value) {
  begin(key, kTypeBool);
  bytes_ += value ? '\1' : '\0';
}
void GgufMetadata::add(std::string_view key, std::string_view value) {
  begin(key, kTypeString);
  append_text(bytes_, value);
}
void GgufMetadata::add(std::string_view key, std::span<const std::string> values) {
  begin_list(key, kTypeString, values.size());
  for (const std::string& value : values) append_text(bytes_, value);
}
void GgufMetadata::add(std::string_view key, std::span<const std::int32_t> values) {
  begin_list(key, kTypeInt32, values.size());
  for (const std::int32_t value : values) append(bytes_, value);
}
void GgufMetadata::add(std::string_view key, std::span<const float> values) {
  begin_list(key, kTypeFloat32, values.size());
  for (const float value : values) append(bytes_, value);
}
void GgufMetadata::add(std::string_view key, std::span<const bool> values) {
  begin_list(key, kTypeBool, values.size());
  for (const bool value : values) bytes_ += value ? '\1' : '\0';
}

std::uint64_t gguf_file_bytes(const GgufMetadata& metadata,
                              std::span<const GgufTensorToMake> tensors) {
  std::uint64_t bytes = header_of(metadata, tensors).size();
  for (const GgufTensorToMake& tensor : tensors) bytes += aligned(bytes_of_tensor(tensor));
  return bytes;
}

void write_gguf(const std::string& path, const GgufMetadata& metadata,
                std::span<const GgufTensorToMake> tensors, const std::function<void()>& made,
                ParallelFor& parallel) {
  const std::string header = header_of(metadata, tensors);
  AtomicFile file(path);
  file.write(header);
  for (const GgufTensorToMake& tensor : tensors) {
    write_tensor(file, path, tensor, parallel);
    const std::uint64_t bytes = bytes_of_tensor(tensor);
    file.write(std::string(aligned(bytes) - bytes, '\0'));
    made();
  }
  file.commit();
}

}  // namespace qalof::io
