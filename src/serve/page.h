// The page at /: playground, comparison, answers and layer map, in one file without outside assets.
#pragma once

#include <string>

namespace qalof::serve {

const std::string& page_html();

}  // namespace qalof::serve
