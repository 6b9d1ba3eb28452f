// CRC-32C with the SSE4.2 instruction in three interleaved streams, and the polynomial arithmetic
// that joins checksums of neighbouring pieces.
#include "core/crc32c.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

namespace qalof {

namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78U;  // bit 31 is x^0, as everywhere below

// a * b modulo the polynomial.
constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = 0x80000000U; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1U) != 0 ? kPolynomial : 0U);
  }
  return product;
}

// x^(8 * bytes): what a state is multiplied by when that many zero bytes follow.
constexpr std::uint32_t power_of_bytes(std::size_t bytes) {
  std::uint32_t result = 0x80000000U, square = 0x00800000U;  // x^0, x^8
  for (; bytes != 0; bytes >>= 1) {
    if ((bytes & 1U) != 0) result = multiply(result, square);
    square = multiply(square, square);
  }
  return result;
}

#if defined(__SSE4_2__)

std::uint64_t load(const std::byte* p) {
  std::uint64_t word = 0;
  std::memcpy(&word, p, 8);
  return word;
}

// The instruction takes three cycles and starts every cycle: three streams keep it busy. Returns
// the state after 3 * bytes bytes, bytes being a multiple of 8 and shift its power_of_bytes.
std::uint32_t run_three(std::uint32_t state, const std::byte* p, std::size_t bytes,
                        std::uint32_t shift) {
  std::uint64_t first = state, second = 0, third = 0;
  for (std::size_t i = 0; i < bytes; i += 8) {
    first = _mm_crc32_u64(first, load(p + i));
    second = _mm_crc32_u64(second, load(p + bytes + i));
    third = _mm_crc32_u64(third, load(p + 2 * bytes + i));
  }
  const std::uint32_t joined =
      multiply(shift, static_cast<std::uint32_t>(first)) ^ static_cast<std::uint32_t>(second);
  return multiply(shift, joined) ^ static_cast<std::uint32_t>(third);
}

std::uint32_t run(std::uint32_t state, const std::byte* p, std::size_t left) {
  constexpr std::size_t kLong = 16384, kShort = 512;
  for (const std::size_t stream : {kLong, kShort}) {
    constexpr std::uint32_t kShifts[] = {power_of_bytes(kLong), power_of_bytes(kShort)};
    for (; left >= 3 * stream; left -= 3 * stream, p += 3 * stream)
      state = run_three(state, p, stream, kShifts[stream == kLong ? 0 : 1]);
  }
  std::uint64_t wide = state;
  for (; left >= 8; left -= 8, p += 8) wide = _mm_crc32_u64(wide, load(p));
  state = static_cast<std::uint32_t>(wide);
  for (; left > 0; --left, ++p) state = _mm_crc32_u8(state, static_cast<std::uint8_t>(*p));
  return state;
}

#else

std::uint32_t run(std::uint32_t state, const std::byte* p, std::size_t left) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> entries{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit)
        value = (value >> 1) ^ ((value & 1U) != 0 ? kPolynomial : 0U);
      entries[i] = value;
    }
    return entries;
  }();
  for (; left > 0; --left, ++p)
    state = (state >> 8) ^ table[(state ^ static_cast<std::uint32_t>(*p)) & 0xffU];
  return state;
}

#endif

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes) {
  return ~run(0xffffffffU, bytes.data(), bytes.size());
}

std::uint32_t crc32c_combine(std::uint32_t a, std::uint32_t b, std::size_t b_bytes) {
  return multiply(power_of_bytes(b_bytes), a) ^ b;
}

std::uint32_t crc32c(std::span<const std::byte> bytes, ParallelFor& parallel) {
  constexpr std::size_t kPiece = std::size_t{256} << 10;
  if (bytes.size() <= kPiece || parallel.num_threads() == 1) return crc32c(bytes);
  const std::size_t pieces = (bytes.size() + kPiece - 1) / kPiece;
  std::vector<std::uint32_t> sums(pieces);
  parallel.run(pieces, [&](std::size_t i) {
    sums[i] = crc32c(bytes.subspan(i * kPiece, std::min(kPiece, bytes.size() - i * kPiece)));
  });
  std::uint32_t sum = sums.front();
  for (std::size_t i = 1; i < pieces; ++i)
    sum = crc32c_combine(sum, sums[i], std::min(kPiece, bytes.size() - i * kPiece));
  return sum;
}

}  // namespace qalof
