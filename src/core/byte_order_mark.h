// The byte order marks that editors and spreadsheets put before a text.
#pragma once

#include <cstddef>
#include <string_view>

namespace qalof {

/// Bytes of the UTF-8 mark that text begins with: 3, or 0 where it has none. A UTF-16 or UTF-32
/// mark is Error{kCorruptFile}, whose message says how to convert; where names the source.
std::size_t byte_order_mark(std::string_view text, std::string_view where);

}  // namespace qalof
