// Reads numbers and switches from texts, without rounding. See flag_values.h.
#include "core/flag_values.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <system_error>

#include "core/ascii.h"

namespace qalof {

namespace {

// Texts that one sees where they begin and end stand bare.
std::string shown(const std::string& text) {
  const bool is_plain = !text.empty() && text.find_first_of(" \t\n\r\"") == std::string::npos;
  return is_plain ? text : fmt::format("\"{}\"", text);
}

// from_chars of the whole text, which may begin with a plus.
template <typename T>
std::errc parse_whole(const std::string& text, T& value) {
  const char* begin = text.data();
  const char* const end = begin + text.size();
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') ++begin;
  const auto [last, error] = std::from_chars(begin, end, value);
  return error == std::errc() && last != end ? std::errc::invalid_argument : error;
}

template <typename T>
std::string read_finite(const std::string& text, T& value, const char* holder) {
  T number = 0;
  const std::errc error = parse_whole(text, number);
  if (error == std::errc::result_out_of_range)
    return fmt::format("found {}, expected a number that {} holds", shown(text), holder);
  if (error != std::errc() || !std::isfinite(number))
    return fmt::format("found {}, expected a number", shown(text));
  value = number;
  return "";
}

}  // namespace

std::string read_integer(const std::string& text, std::int64_t min, std::int64_t max,
                         std::int64_t& value) {
  std::int64_t number = 0;
  const std::errc error = parse_whole(text, number);
  if (error == std::errc() && number >= min && number <= max) {
    value = number;
    return "";
  }
  const bool is_whole = error == std::errc() || error == std::errc::result_out_of_range;
  const bool is_negative = text.starts_with('-');
  if (is_whole && !is_negative)
    return fmt::format("found {}, expected at most {}", shown(text), max);
  if (is_whole && min < 0) return fmt::format("found {}, expected at least {}", shown(text), min);
  return fmt::format("found {}, expected {}", shown(text),
                     min == 0 ? "a whole number, 0 or more" : "a whole number");
}

std::string read_number(const std::string& text, double& value) {
  return read_finite(text, value, "a 64-bit float");
}

std::string read_number(const std::string& text, float& value) {
  return read_finite(text, value, "a 32-bit float");
}

std::string read_value(const std::string& text, bool& value) {
  const std::string lower = lower_ascii(text);
  const bool is_true = lower == "true" || lower == "1" || lower == "yes" || lower == "on";
  const bool is_false = lower == "false" || lower == "0" || lower == "no" || lower == "off";
  if (!is_true && !is_false) return fmt::format("found {}, expected true or false", shown(text));
  value = is_true;
  return "";
}

}  // namespace qalof
