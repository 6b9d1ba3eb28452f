// Decodes GGUF tensor blocks to f32, one function per family of types.
#include "io/gguf_blocks.h"

#include <array>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "io/safetensors.h"

namespace qalof::io {

namespace {

constexpr std::size_t kSmall = 32;   // elements per block of a plain type
constexpr std::size_t kLarge = 256;  // per block of a "K" type, whose parts have their own scales

constexpr std::array kBlocks = {
    GgufBlock{GgufType::kF32, 1, 4},          GgufBlock{GgufType::kF16, 1, 2},
    GgufBlock{GgufType::kBF16, 1, 2},         GgufBlock{GgufType::kQ8_0, kSmall, 34},
    GgufBlock{GgufType::kQ4_0, kSmall, 18},   GgufBlock{GgufType::kQ4_1, kSmall, 20},
    GgufBlock{GgufType::kQ5_0, kSmall, 22},   GgufBlock{GgufType::kQ5_1, kSmall, 24},
    GgufBlock{GgufType::kQ2_K, kLarge, 84},   GgufBlock{GgufType::kQ3_K, kLarge, 110},
    GgufBlock{GgufType::kQ4_K, kLarge, 144},  GgufBlock{GgufType::kQ5_K, kLarge, 176},
    GgufBlock{GgufType::kQ6_K, kLarge, 210},  GgufBlock{GgufType::kIQ4_NL, kSmall, 18},
    GgufBlock{GgufType::kIQ4_XS, kLarge, 136}};

// Type names by number; empty: never assigned, or withdrawn.
constexpr std::array<std::string_view, 41> kNames = {
    "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
    "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
    "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
    "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
    "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
    "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",    "NVFP4"};

// The value of each code of IQ4_NL and IQ4_XS.
constexpr std::array<float, 16> kNonLinear = {-127, -104, -83, -65, -49, -35, -22, -10,
                                              1,    13,   25,  38,  53,  69,  89,  113};

// Reads the little-endian numbers of a block.
class Bytes {
 public:
  explicit Bytes(const std::byte* at) : at_(at) {}
  unsigned operator[](std::size_t i) const { return std::to_integer<unsigned>(at_[i]); }
  float half(std::size_t i) const {
    float value = 0.0F;
    copy_as_f32(DType::kF16, {at_ + i, 2}, {&value, 1});
    return value;
  }
  float code8(std::size_t i) const {
    return static_cast<float>(static_cast<std::int8_t>((*this)[i]));
  }
  /// 4-bit code i of 32 in 16 bytes: codes 0..15 in the low halves, 16..31 in the high halves.
  unsigned nibble(std::size_t first, std::size_t i) const {
    const unsigned byte = (*this)[first + i % 16];
    return i < 16 ? byte & 0xFU : byte >> 4;
  }
  /// Bit i of the bytes that begin at first.
  unsigned bit(std::size_t first, std::size_t i) const {
    return (*this)[first + i / 8] >> i % 8 & 1U;
  }
  /// 2-bit code i: each 128 elements take 32 bytes, whose lowest bits are elements 0..31.
  unsigned pair(std::size_t first, std::size_t i) const {
    return (*this)[first + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3U;
  }
  /// 4-bit code i: each 64 elements take 32 bytes, whose low halves are elements 0..31.
  unsigned quarter_nibble(std::size_t first, std::size_t i) const {
    return (*this)[first + i / 64 * 32 + i % 32] >> i % 64 / 32 * 4 & 0xFU;
  }

 private:
  const std::byte* at_;
};

float real(unsigned code) { return static_cast<float>(code); }
float real(unsigned code, int zero) { return static_cast<float>(static_cast<int>(code) - zero); }

void plain_block(GgufType type, const Bytes& in, float* out) {
  const bool has_minimum = type == GgufType::kQ4_1 || type == GgufType::kQ5_1;
  const float scale = in.half(0), minimum = has_minimum ? in.half(2) : 0.0F;
  for (std::size_t i = 0; i < kSmall; ++i) {
    switch (type) {
      case GgufType::kQ8_0:
        out[i] = in.code8(2 + i) * scale;
        break;
      case GgufType::kQ4_0:
        out[i] = real(in.nibble(2, i), 8) * scale;
        break;
      case GgufType::kQ4_1:
        out[i] = real(in.nibble(4, i)) * scale + minimum;
        break;
      case GgufType::kQ5_0:
        out[i] = real(in.nibble(6, i) | in.bit(2, i) << 4, 16) * scale;
        break;
      case GgufType::kQ5_1:
        out[i] = real(in.nibble(8, i) | in.bit(4, i) << 4) * scale + minimum;
        break;
      default:  // kIQ4_NL
        out[i] = kNonLinear[in.nibble(2, i)] * scale;
        break;
    }
  }
}

void q2_k_block(const Bytes& in, float* out) {
  const float scale = in.half(80), minimum = in.half(82);
  for (std::size_t i = 0; i < kLarge; ++i) {
    const unsigned part = in[i / 16];
    out[i] = scale * real(part & 0xFU) * real(in.pair(16, i)) - minimum * real(part >> 4);
  }
}

void q3_k_block(const Bytes& in, float* out) {
  const float scale = in.half(108);
  for (std::size_t i = 0; i < kLarge; ++i) {
    // 6 bits of a part's scale: 4 in the halves of 8 bytes, 2 in the quarters of 4 bytes.
    const std::size_t part = i / 16;
    const unsigned low = in[96 + part % 8] >> part / 8 * 4 & 0xFU,
                   high = in[104 + part % 4] >> part / 4 * 2 & 3U;
    const unsigned top = in[i % 32] >> i / 32 & 1U;  // third bit of the code
    out[i] = scale * real(low | high << 4, 32) * real(in.pair(32, i) | top << 2, 4);
  }
}

// 6-bit scale and 6-bit minimum of parts 0..7, packed in 12 bytes.
struct Part {
  unsigned scale, minimum;
};
Part part_of(const Bytes& in, std::size_t first, std::size_t part) {
  if (part < 4) return {in[first + part] & 63U, in[first + part + 4] & 63U};
  const unsigned low = in[first + part + 4];
  return {(low & 0xFU) | in[first + part - 4] >> 6 << 4, low >> 4 | in[first + part] >> 6 << 4};
}

// Q4_K; Q5_K adds a fifth bit to each code.
void q45_k_block(GgufType type, const Bytes& in, float* out) {
  const bool fifth = type == GgufType::kQ5_K;
  const float scale = in.half(0), minimum = in.half(2);
  for (std::size_t part = 0; part < kLarge / 32; ++part) {
    const Part codes = part_of(in, 4, part);
    const float part_scale = scale * real(codes.scale), least = minimum * real(codes.minimum);
    for (std::size_t i = 32 * part; i < 32 * part + 32; ++i) {
      unsigned code = in.quarter_nibble(fifth ? 48 : 16, i);
      if (fifth) code |= (in[16 + i % 32] >> part & 1U) << 4;
      out[i] = part_scale * real(code) - least;
    }
  }
}

void q6_k_block(const Bytes& in, float* out) {
  const float scale = in.half(208);
  for (std::size_t i = 0; i < kLarge; ++i) {
    // Each 128 elements take 64 bytes: low halves are elements 0..63, high halves 64..127.
    const unsigned low = in[i / 128 * 64 + i % 64] >> i % 128 / 64 * 4 & 0xFU;
    out[i] = scale * in.code8(192 + i / 16) * real(low | in.pair(128, i) << 4, 32);
  }
}

void iq4_xs_block(const Bytes& in, float* out) {
  const float scale = in.half(0);
  for (std::size_t i = 0; i < kLarge; ++i) {
    // 6 bits of a part's scale: 2 in a 16-bit number, 4 in 4 bytes.
    const std::size_t part = i / 32;
    const unsigned low = in[4 + part / 2] >> part % 2 * 4 & 0xFU,
                   high = in[2 + part / 4] >> part % 4 * 2 & 3U;
    out[i] = scale * real(low | high << 4, 32) * kNonLinear[in.nibble(8 + part * 16, i % 32)];
  }
}

void block_as_f32(GgufType type, const Bytes& in, float* out) {
  switch (type) {
    case GgufType::kQ2_K:
      return q2_k_block(in, out);
    case GgufType::kQ3_K:
      return q3_k_block(in, out);
    case GgufType::kQ4_K:
    case GgufType::kQ5_K:
      return q45_k_block(type, in, out);
    case GgufType::kQ6_K:
      return q6_k_block(in, out);
    case GgufType::kIQ4_XS:
      return iq4_xs_block(in, out);
    default:
      return plain_block(type, in, out);
  }
}

}  // namespace

const GgufBlock* gguf_block(std::uint32_t type) {
  for (const GgufBlock& block : kBlocks) {
    if (static_cast<std::uint32_t>(block.type) == type) return &block;
  }
  return nullptr;
}

std::string gguf_type_name(std::uint32_t type) {
  return type < kNames.size() ? std::string(kNames[type]) : fmt::format("number {}", type);
}

std::string gguf_types_read() {
  std::vector<std::string> names;
  names.reserve(kBlocks.size());
  for (const GgufBlock& block : kBlocks)
    names.push_back(gguf_type_name(static_cast<std::uint32_t>(block.type)));
  return fmt::format("{}", fmt::join(names, ", "));
}

void blocks_as_f32(GgufType type, std::span<const std::byte> bytes, std::span<float> dst) {
  switch (type) {
    case GgufType::kF32:
      return copy_as_f32(DType::kF32, bytes, dst);
    case GgufType::kF16:
      return copy_as_f32(DType::kF16, bytes, dst);
    case GgufType::kBF16:
      return copy_as_f32(DType::kBF16, bytes, dst);
    default:
      break;
  }
  const GgufBlock& block = *gguf_block(static_cast<std::uint32_t>(type));
  QALOF_CHECK(
      bytes.size() % block.bytes == 0 && bytes.size() / block.bytes * block.elements == dst.size(),
      ErrorKind::kInternal, "blocks_as_f32: {} bytes for {} numbers", bytes.size(), dst.size());
  for (std::size_t i = 0; i * block.bytes < bytes.size(); ++i)
    block_as_f32(type, Bytes(bytes.data() + i * block.bytes), dst.data() + i * block.elements);
}

}  // namespace qalof::io
