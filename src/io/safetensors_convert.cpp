// Float conversions and the writer of safetensors files.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "io/half.h"
#include "io/safetensors.h"

namespace qalof::io {

namespace {

template <typename T>
T load(const std::byte* bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes + index * sizeof(T), sizeof(T));
  return value;
}

// Adds zeros after every tensor but the last that does not end at a multiple of alignment.
void add_padding(std::vector<TensorToWrite>& tensors, std::size_t alignment) {
  constexpr std::size_t kMaxAlignment = 4096;
  static constexpr std::array<std::byte, kMaxAlignment> kZeros{};
  QALOF_CHECK(alignment <= kMaxAlignment && alignment % 8 == 0, ErrorKind::kInternal,
              "tensors aligned to {}", alignment);
  std::vector<TensorToWrite> padded;
  for (const TensorToWrite& tensor : tensors) {
    padded.push_back(tensor);
    const std::size_t over = tensor.bytes.size() % alignment;
    if (over == 0 || &tensor == &tensors.back()) continue;
    const std::size_t missing = alignment - over;
    padded.push_back({fmt::format("{}{}", kPaddingPrefix, padded.size()),
                      DType::kU8,
                      {missing},
                      std::span(kZeros).first(missing)});
  }
  tensors = std::move(padded);
}

}  // namespace

void copy_as_f32(const TensorView& view, std::span<float> dst) {
  QALOF_CHECK(dst.size() == view.num_elements(), ErrorKind::kInternal,
              "copy_as_f32: {} values into {}", view.num_elements(), dst.size());
  copy_as_f32(view.dtype, view.bytes, dst);
}

void copy_as_f32(DType dtype, std::span<const std::byte> source, std::span<float> dst) {
  QALOF_CHECK(dst.size() * static_cast<std::size_t>(dtype_bits(dtype)) == source.size() * 8,
              ErrorKind::kInternal, "copy_as_f32: {} bytes into {} values", source.size(),
              dst.size());
  const std::byte* bytes = source.data();
  switch (dtype) {
    case DType::kF32:
      if (!dst.empty()) std::memcpy(dst.data(), bytes, dst.size_bytes());
      return;
    case DType::kBF16:
      for (std::size_t i = 0; i < dst.size(); ++i) {
        dst[i] =
            std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(bytes, i)) << 16);
      }
      return;
    case DType::kF16:
      for (std::size_t i = 0; i < dst.size(); ++i)
        dst[i] = half_to_float(load<std::uint16_t>(bytes, i));
      return;
    default:
      fail(ErrorKind::kBadInput, "a tensor has dtype {}, expected F32, F16 or BF16",
           to_string(dtype));
  }
}

std::vector<std::byte> bf16_bytes(std::span<const float> values) {
  std::vector<std::byte> bytes(values.size() * 2);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(values[i]);
    // Adding half of the last kept bit rounds to nearest; its own value breaks ties to even. NaN
    // keeps a set mantissa bit.
    const std::uint32_t rounded =
        std::isnan(values[i]) ? (bits >> 16) | 0x40U : (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
    const auto half = static_cast<std::uint16_t>(rounded);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

std::vector<std::byte> f16_bytes(std::span<const float> values) {
  std::vector<std::byte> bytes(values.size() * 2);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half = float_to_half(values[i]);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

namespace {

// Collects the entries of a header in the order in which their bytes follow.
class Header {
 public:
  explicit Header(const std::string& path) : path_(path) { json_[kMetadata] = nullptr; }

  // Returns the bytes that the shape needs.
  std::uint64_t add(const std::string& name, DType dtype, const std::vector<std::size_t>& shape) {
    std::uint64_t bits = static_cast<std::uint64_t>(dtype_bits(dtype));
    for (const std::size_t extent : shape) bits *= extent;
    QALOF_CHECK(!json_.contains(name), ErrorKind::kInternal, "{}: tensor {} appears twice", path_,
                name);
    json_[name] = {{"dtype", to_string(dtype)},
                   {"shape", shape},
                   {"data_offsets", {offset_, offset_ + bits / 8}}};
    offset_ += bits / 8;
    return bits / 8;
  }

  // Length and text, padded with spaces so that the data begins at a multiple of alignment.
  std::string text(const std::map<std::string, std::string>& metadata, std::size_t alignment) {
    json_[kMetadata] = metadata;
    json_[kMetadata]["format"] = "pt";
    std::string text = dump_json(json_, path_);
    text.resize((text.size() + 8 + alignment - 1) / alignment * alignment - 8, ' ');
    std::string length(8, '\0');
    for (std::size_t i = 0; i < 8; ++i)
      length[i] = static_cast<char>(text.size() >> (8 * i) & 0xffU);
    return length + text;
  }
  std::uint64_t data_bytes() const { return offset_; }

 private:
  static constexpr const char* kMetadata = "__metadata__";
  const std::string& path_;
  Json json_ = Json::object();
  std::uint64_t offset_ = 0;
};

// The reference's order: largest elements first, then by name.
template <typename Tensor>
void sort_tensors(std::vector<Tensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const Tensor& a, const Tensor& b) {
    const int bits_a = dtype_bits(a.dtype), bits_b = dtype_bits(b.dtype);
    return bits_a != bits_b ? bits_a > bits_b : a.name < b.name;
  });
}

void check_size(const std::string& path, const std::string& name, std::size_t bytes,
                std::uint64_t needed) {
  QALOF_CHECK(bytes == needed, ErrorKind::kInternal,
              "{}: tensor {} has {} bytes, its shape needs {}", path, name, bytes, needed);
}

}  // namespace

std::uint64_t write_safetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                                const std::map<std::string, std::string>& metadata,
                                std::size_t alignment,
                                const std::function<void(std::span<const std::byte>)>& written) {
  sort_tensors(tensors);
  if (alignment > 8) add_padding(tensors, alignment);
  Header header(path);
  for (const TensorToWrite& tensor : tensors)
    check_size(path, tensor.name, tensor.bytes.size(),
               header.add(tensor.name, tensor.dtype, tensor.shape));
  const std::string text = header.text(metadata, alignment);
  AtomicFile file(path);
  file.write(text);
  for (const TensorToWrite& tensor : tensors) {
    file.write(tensor.bytes);
    const bool is_padding = tensor.name.starts_with(kPaddingPrefix);
    if (written && !is_padding) written(tensor.bytes);
  }
  file.commit();
  return text.size() + header.data_bytes();
}

std::uint64_t write_safetensors_streamed(const std::string& path,
                                         std::vector<TensorToStream> tensors) {
  sort_tensors(tensors);
  Header header(path);
  std::vector<std::uint64_t> sizes;
  sizes.reserve(tensors.size());
  for (const TensorToStream& tensor : tensors)
    sizes.push_back(header.add(tensor.name, tensor.dtype, tensor.shape));
  const std::string text = header.text({}, 8);
  AtomicFile file(path);
  file.write(text);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<std::byte> bytes = tensors[i].make();
    check_size(path, tensors[i].name, bytes.size(), sizes[i]);
    file.write(bytes);
  }
  file.commit();
  return text.size() + header.data_bytes();
}

}  // namespace qalof::io
