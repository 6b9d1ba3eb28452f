// Escaping of text for HTML and XML.
#pragma once

#include <string>
#include <string_view>

namespace qalof::report {

/// Escapes text for use inside an element or a quoted attribute. Bytes that are not UTF-8, and
/// characters that XML does not allow, become U+FFFD.
std::string html_escape(std::string_view text);

}  // namespace qalof::report
