// Python's string escapes and shortest float text, from std::to_chars digits.
#include "text/python_json.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>

#include "text/unicode.h"

namespace qalof::text {

std::string python_json_string(std::string_view text) {
  std::string json = "\"";
  for (std::size_t i = 0; i < text.size();) {
    const std::uint32_t point = next_code_point(text, &i);
    constexpr std::string_view kNamed = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
    const std::size_t named = point < 0x80 ? kNamed.find(static_cast<char>(point)) : kNamed.npos;
    if (named != kNamed.npos) {
      json += '\\';
      json += kLetters[named];
    } else if (point >= 0x20 && point < 0x7f) {
      json += static_cast<char>(point);
    } else if (point < 0x10000) {
      json += fmt::format("\\u{:04x}", point);
    } else {
      const std::uint32_t offset = point - 0x10000;
      json += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (offset >> 10), 0xdc00 + (offset & 0x3ff));
    }
  }
  return json + '"';
}

std::string python_json_float(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  // to_chars writes "-d.ddde+xx"; digits and exponent are taken from it.
  std::array<char, 40> buffer;
  const auto written = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                     std::chars_format::scientific);
  std::string_view text(buffer.data(), static_cast<std::size_t>(written.ptr - buffer.data()));
  std::string result;
  if (text.front() == '-') {
    result = "-";
    text.remove_prefix(1);
  }
  const std::size_t e = text.find('e');
  int exponent = 0;
  const std::string_view power = text.substr(text[e + 1] == '+' ? e + 2 : e + 1);
  std::from_chars(power.data(), power.data() + power.size(), exponent);
  std::string digits(1, text[0]);
  if (e > 1) digits += text.substr(2, e - 2);

  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    result += digits.substr(0, 1);
    if (count > 1) result += "." + digits.substr(1);
    return result + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) {
    return result + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  }
  if (count <= exponent + 1) {
    return result + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') +
           ".0";
  }
  const std::size_t whole = static_cast<std::size_t>(exponent) + 1;
  return result + digits.substr(0, whole) + "." + digits.substr(whole);
}

}  // namespace qalof::text
