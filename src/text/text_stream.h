// Bytes of tokens to text that can be shown as it comes: whole code points, never the beginning of
// a stop string. Not for: choosing tokens (runtime/generator.h).
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

  /// Adds a token's bytes and returns what has become final, maybe nothing; valid until the next
  /// call. After a stop string has come, nothing more does.
  std::string_view push(std::string_view bytes);
  /// The rest at the end of a generation: what was held back, U+FFFD for a cut code point.
  std::string_view finish();
  /// A stop string has come; neither it nor what follows is part of the text.
  bool stopped() const { return stopped_; }

 private:
  void take_code_points(bool at_end);
  std::string_view release(bool at_end);

  std::vector<std::string> stop_strings_;
  std::string bytes_;  // not yet a code point
  std::string held_;   // text that may be the beginning of a stop string
  std::string out_;
  bool stopped_ = false;
};

}  // namespace qalof::text
