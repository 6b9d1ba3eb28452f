#include "core/crc32c.h"

#include <array>
#include <cstring>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

namespace qalof {

#if defined(__SSE4_2__)

std::uint32_t crc32c(std::span<const std::byte> bytes) {
  // The instruction takes three cycles: three independent streams would hide that, one already
  // outruns the disk.
  std::uint64_t state = 0xffffffffU;
  const std::byte* p = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= 8; left -= 8, p += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, p, 8);
    state = _mm_crc32_u64(state, word);
  }
  auto tail = static_cast<std::uint32_t>(state);
  for (; left > 0; --left, ++p) tail = _mm_crc32_u8(tail, static_cast<std::uint8_t>(*p));
  return ~tail;
}

#else

std::uint32_t crc32c(std::span<const std::byte> bytes) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> entries{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit)
        value = (value >> 1) ^ ((value & 1U) != 0 ? 0x82f63b78U : 0U);
      entries[i] = value;
    }
    return entries;
  }();
  std::uint32_t state = 0xffffffffU;
  for (const std::byte byte : bytes)
    state = (state >> 8) ^ table[(state ^ static_cast<std::uint32_t>(byte)) & 0xffU];
  return ~state;
}

#endif

}  // namespace qalof
