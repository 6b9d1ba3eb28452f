// Builds and parses the tensor names of a packed file, "<matrix>.w<bits>.<part>".
#include "weights/packed_layout.h"

#include <fmt/format.h>

#include <charconv>

namespace qalof::weights {

std::string width_prefix(const std::string& matrix, int bits) {
  return fmt::format("{}.w{}.", matrix, bits);
}

std::optional<WidthTensor> parse_width_tensor(std::string_view name) {
  const std::size_t part = name.rfind('.');
  if (part == std::string_view::npos || part == 0) return std::nullopt;
  const std::size_t width = name.rfind('.', part - 1);
  if (width == std::string_view::npos) return std::nullopt;
  const std::string_view text = name.substr(width + 1, part - width - 1);
  WidthTensor found{name.substr(0, width), 0, name.substr(part + 1)};
  if (text.size() < 2 || text.front() != 'w') return std::nullopt;
  const auto [end, error] = std::from_chars(text.data() + 1, text.data() + text.size(), found.bits);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return found;
}

}  // namespace qalof::weights
