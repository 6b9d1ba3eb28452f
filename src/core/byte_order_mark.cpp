// Recognizes byte order marks: skips UTF-8's, refuses those of UTF-16 and UTF-32 by name.
#include "core/byte_order_mark.h"

#include "core/error.h"

namespace qalof {

std::size_t byte_order_mark(std::string_view text, std::string_view where) {
  using namespace std::string_view_literals;
  struct Mark {
    std::string_view bytes;
    const char* encoding;
  };
  // UTF-32 comes first: its little-endian mark begins with UTF-16's.
  static constexpr Mark kOthers[] = {{"\xff\xfe\0\0"sv, "UTF-32"},
                                     {"\0\0\xfe\xff"sv, "UTF-32"},
                                     {"\xff\xfe"sv, "UTF-16"},
                                     {"\xfe\xff"sv, "UTF-16"}};
  for (const Mark& mark : kOthers) {
    if (!text.starts_with(mark.bytes)) continue;
    fail(ErrorKind::kCorruptFile,
         "{}: begins with the byte order mark of {}, expected UTF-8; save it as UTF-8, or convert "
         "it with iconv -f {} -t UTF-8",
         where, mark.encoding, mark.encoding);
  }
  constexpr std::string_view kUtf8 = "\xef\xbb\xbf";
  return text.starts_with(kUtf8) ? kUtf8.size() : 0;
}

}  // namespace qalof
