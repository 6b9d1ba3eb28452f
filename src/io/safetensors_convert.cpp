// Float conversions and the writer of safetensors files.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "io/safetensors.h"

namespace qalof::io {

namespace {

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU, mantissa = half & 0x3ffU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // zero and subnormals, exact
    return sign != 0 ? -magnitude : magnitude;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | mantissa << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

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

std::uint64_t write_safetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                                const std::map<std::string, std::string>& metadata,
                                std::size_t alignment,
                                const std::function<void(std::span<const std::byte>)>& written) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const int bits_a = dtype_bits(a.dtype), bits_b = dtype_bits(b.dtype);
    return bits_a != bits_b ? bits_a > bits_b : a.name < b.name;
  });
  if (alignment > 8) add_padding(tensors, alignment);
  Json header = Json::object();
  header["__metadata__"] = metadata;
  header["__metadata__"]["format"] = "pt";
  std::uint64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    std::uint64_t bits = static_cast<std::uint64_t>(dtype_bits(tensor.dtype));
    for (const std::size_t extent : tensor.shape) bits *= extent;
    QALOF_CHECK(bits / 8 == tensor.bytes.size() && !header.contains(tensor.name),
                ErrorKind::kInternal,
                "{}: tensor {} has {} bytes, its shape needs {}, or its name stands twice", path,
                tensor.name, tensor.bytes.size(), bits / 8);
    header[tensor.name] = {{"dtype", to_string(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = dump_json(header, path);
  text.resize((text.size() + 8 + alignment - 1) / alignment * alignment - 8, ' ');
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 0xffU);
  AtomicFile file(path);
  file.write(length);
  file.write(text);
  for (const TensorToWrite& tensor : tensors) {
    file.write(tensor.bytes);
    const bool is_padding = tensor.name.starts_with(kPaddingPrefix);
    if (written && !is_padding) written(tensor.bytes);
  }
  file.commit();
  return length.size() + text.size() + offset;
}

}  // namespace qalof::io
