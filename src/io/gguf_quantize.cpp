// Encodes blocks of F32, F16, BF16, Q8_0, Q4_0 and Q4_1.
#include "io/gguf_quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "io/half.h"
#include "io/safetensors.h"

namespace qalof::io {

namespace {

constexpr std::uint16_t kHalfInfinity = 0x7c00;

// Stores value as f16; false where it is beyond the range.
bool put_half(float value, std::byte* at) {
  const std::uint16_t half = float_to_half(value);
  std::memcpy(at, &half, sizeof(half));
  return (half & 0x7fffU) < kHalfInfinity;
}

float inverse_of(float scale) {
  const float inverse = 1.0F / scale;
  return scale == 0.0F || std::isinf(inverse) ? 0.0F : inverse;
}

// Truncates 32 numbers to codes 0..15 and packs them: the first 16 in the low halves of the bytes.
template <typename Real>
void put_nibbles(const Real& real, std::byte* at) {
  const auto code = [&](std::size_t i) {
    return static_cast<unsigned>(std::clamp(static_cast<int>(real(i)), 0, 15));
  };
  for (std::size_t i = 0; i < 16; ++i) at[i] = static_cast<std::byte>(code(i) | code(i + 16) << 4);
}

bool q8_0_block(const float* x, std::byte* out) {
  float largest = 0.0F;
  for (std::size_t i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127.0F, inverse = inverse_of(scale);
  for (std::size_t i = 0; i < 32; ++i)
    out[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(std::round(x[i] * inverse)));
  return put_half(scale, out);
}

bool q4_0_block(const float* x, std::byte* out) {
  // The number of the largest size, the first among equals, becomes code 0 (-8).
  float largest = 0.0F;
  for (std::size_t i = 0; i < 32; ++i)
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  const float scale = largest / -8.0F, inverse = inverse_of(scale);
  put_nibbles([&](std::size_t i) { return x[i] * inverse + 8.5F; }, out + 2);
  return put_half(scale, out);
}

bool q4_1_block(const float* x, std::byte* out) {
  const auto [least, most] = std::minmax_element(x, x + 32);
  const float minimum = *least, scale = (*most - minimum) / 15.0F, inverse = inverse_of(scale);
  put_nibbles([&](std::size_t i) { return (x[i] - minimum) * inverse + 0.5F; }, out + 4);
  const bool scale_fits = put_half(scale, out);
  return put_half(minimum, out + 2) && scale_fits;
}

}  // namespace

bool is_gguf_type_written(GgufType type) {
  switch (type) {
    case GgufType::kF32:
    case GgufType::kF16:
    case GgufType::kBF16:
    case GgufType::kQ8_0:
    case GgufType::kQ4_0:
    case GgufType::kQ4_1:
      return true;
    default:
      return false;
  }
}

bool blocks_of_f32(GgufType type, std::span<const float> values, std::span<std::byte> dst) {
  const GgufBlock& block = *gguf_block(static_cast<std::uint32_t>(type));
  QALOF_CHECK(is_gguf_type_written(type) && values.size() % block.elements == 0 &&
                  dst.size() == values.size() / block.elements * block.bytes,
              ErrorKind::kInternal, "blocks_of_f32: {} numbers of {} in {} bytes", values.size(),
              gguf_type_name(static_cast<std::uint32_t>(type)), dst.size());
  if (type == GgufType::kF32) {
    std::memcpy(dst.data(), values.data(), dst.size());
    return true;
  }
  if (type == GgufType::kBF16) {
    const std::vector<std::byte> bytes = bf16_bytes(values);
    std::copy(bytes.begin(), bytes.end(), dst.begin());
    return true;
  }
  const auto encode = [type](const float* from, std::byte* to) {
    switch (type) {
      case GgufType::kF16:
        return put_half(*from, to);
      case GgufType::kQ8_0:
        return q8_0_block(from, to);
      case GgufType::kQ4_0:
        return q4_0_block(from, to);
      default:
        return q4_1_block(from, to);
    }
  };
  bool fits = true;
  for (std::size_t i = 0; i * block.elements < values.size(); ++i)
    fits &= encode(values.data() + i * block.elements, dst.data() + i * block.bytes);
  return fits;
}

}  // namespace qalof::io
