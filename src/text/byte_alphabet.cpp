// The byte alphabet and its inverse.
#include "text/byte_alphabet.h"

#include "text/unicode.h"

namespace qalof::text {

namespace {

constexpr std::uint32_t kFirstOther = 0x100;

bool prints(std::uint32_t byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

// By code point: byte + 1, or 0.
const std::array<std::uint16_t, 2 * kFirstOther>& bytes_by_point() {
  static const auto table = [] {
    std::array<std::uint16_t, 2 * kFirstOther> bytes{};
    std::uint32_t next = kFirstOther;
    for (std::uint32_t byte = 0; byte < 256; ++byte)
      bytes[prints(byte) ? byte : next++] = static_cast<std::uint16_t>(byte + 1);
    return bytes;
  }();
  return table;
}

}  // namespace

const std::array<std::string, 256>& byte_alphabet() {
  static const auto table = [] {
    std::array<std::string, 256> written;
    for (std::uint32_t point = 0; point < bytes_by_point().size(); ++point)
      if (bytes_by_point()[point] != 0) append_utf8(point, &written[bytes_by_point()[point] - 1U]);
    return written;
  }();
  return table;
}

bool from_byte_alphabet(std::string_view written, std::string* bytes) {
  bytes->clear();
  for (std::size_t i = 0; i < written.size();) {
    const std::uint32_t point = next_code_point(written, &i);
    if (point >= bytes_by_point().size() || bytes_by_point()[point] == 0) return false;
    bytes->push_back(static_cast<char>(bytes_by_point()[point] - 1));
  }
  return true;
}

}  // namespace qalof::text
