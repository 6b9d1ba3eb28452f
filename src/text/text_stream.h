// Turns the bytes of tokens into text for display: whole code points only, and nothing that may be
// the beginning of a stop string. Not for: choosing tokens (runtime/generator.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qalof::text {

/// One stream; one thread at a time. Bytes that are not UTF-8 become U+FFFD as in Python's
/// decode(errors="replace").
class TextStream {
 public:
  /// Error{kUsage} for a stop string that is empty or not UTF-8.
  explicit TextStream(std::vector<std::string> stop_strings = {});

  /// Adds a token's bytes and returns the text that is now final, possibly empty; valid until the
  /// next call. Empty after a stop string.
  std::string_view push(std::string_view bytes);
  /// The remaining text at the end of a generation; an incomplete code point becomes U+FFFD.
  std::string_view finish();
  /// True once a stop string was found; it and everything after it are not part of the text.
  bool stopped() const { return stopped_; }

 private:
  void take_code_points(bool at_end);
  std::string_view release(bool at_end);

  std::vector<std::string> stop_strings_;
  std::string bytes_;  // not yet a code point
  std::string held_;   // text that may begin a stop string
  std::string out_;
  bool stopped_ = false;
};

}  // namespace qalof::text
