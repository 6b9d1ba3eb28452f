// Text in HTML and XML.
#pragma once

#include <string>
#include <string_view>

namespace qalof::report {

/// text for the inside of an element or of a quoted attribute. Bytes that are not UTF-8, and
/// characters XML does not allow, become U+FFFD.
std::string html_escape(std::string_view text);

}  // namespace qalof::report
