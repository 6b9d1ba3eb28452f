// crc32c against known values and the bit-by-bit definition, at every length and in parts.
#include "core/crc32c.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include "core/random.h"

namespace qalof {
namespace crc32c_test {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Bit by bit, as the polynomial's definition says.
std::uint32_t slow_crc32c(std::span<const std::byte> bytes) {
  std::uint32_t state = 0xffffffffU;
  for (const std::byte byte : bytes) {
    state ^= static_cast<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1U) != 0 ? 0x82f63b78U : 0U);
  }
  return ~state;
}

std::vector<std::byte> random_bytes(std::size_t count) {
  const RandomStream stream(3, "crc32c");
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i)
    bytes[i] = static_cast<std::byte>(stream.below(256, 0, i));
  return bytes;
}

TEST(Crc32c, OfKnownTexts) {
  EXPECT_EQ(crc32c({}), 0U);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283U);
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\0'))), 0x8a9136aaU);
}

TEST(Crc32c, EqualsItsDefinitionAtEveryLengthAndOffset) {
  const std::vector<std::byte> bytes = random_bytes(3 * 16384 * 2 + 3 * 512 + 77);
  std::vector<std::size_t> sizes = {1535, 1536, 1537, 49151, 49152, 49153, 98304, 99840};
  for (std::size_t size = 0; size <= 70; ++size) sizes.push_back(size);
  for (const std::size_t size : sizes) {
    for (const std::size_t offset : {0, 1, 5}) {
      const auto part = std::span(bytes).subspan(offset, size);
      ASSERT_EQ(crc32c(part), slow_crc32c(part)) << size << " at " << offset;
    }
  }
}

TEST(Crc32c, OfPartsCombinesToThatOfTheWhole) {
  const std::vector<std::byte> bytes = random_bytes(1000);
  const std::uint32_t whole = crc32c(bytes);
  for (const std::size_t cut : {0, 1, 7, 500, 999, 1000}) {
    const auto all = std::span(std::as_const(bytes));
    EXPECT_EQ(crc32c_combine(crc32c(all.first(cut)), crc32c(all.subspan(cut)), 1000 - cut), whole);
  }
}

TEST(Crc32c, DoesNotDependOnThreads) {
  ThreadPool pool(3);
  for (const std::size_t size : {0U, 1000U, 262144U, 262145U, 1000003U}) {
    const std::vector<std::byte> bytes = random_bytes(size);
    EXPECT_EQ(crc32c(bytes, pool), crc32c(bytes)) << size;
  }
}

}  // namespace crc32c_test
}  // namespace qalof
