// Assembles code points from token bytes, replaces invalid ones as Python does, and holds back
// possible stop strings.
#include "text/text_stream.h"

#include <algorithm>

#include "core/error.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr std::size_t kReserved = 1024;

struct Step {
  std::size_t length;  // bytes consumed; 0: more are needed
  bool valid;
};

// The first code point of bytes, or the longest invalid prefix of one.
Step first_code_point(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) return {1, true};
  const std::size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                             : lead >= 0xE0 && lead <= 0xEF ? 3
                             : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                            : 0;
  if (length == 0) return {1, false};
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {0, false};
    unsigned low = 0x80, high = 0xBF;
    if (i == 1) {  // overlong forms, surrogates and points beyond U+10FFFF
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (at(i) < low || at(i) > high) return {i, false};
  }
  return {length, true};
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stop_strings)
    : stop_strings_(std::move(stop_strings)) {
  std::size_t longest = 0;
  for (const std::string& stop : stop_strings_) {
    QALOF_CHECK(!stop.empty(), ErrorKind::kUsage, "--stop: a stop string is empty");
    QALOF_CHECK(find_invalid_utf8(stop) == std::string_view::npos, ErrorKind::kUsage,
                "--stop: {} is not UTF-8", stop);
    longest = std::max(longest, stop.size());
  }
  for (std::string* buffer : {&bytes_, &held_, &out_}) buffer->reserve(longest + kReserved);
}

void TextStream::take_code_points(bool at_end) {
  std::size_t taken = 0;
  while (taken < bytes_.size()) {
    const std::string_view rest = std::string_view(bytes_).substr(taken);
    const Step step = first_code_point(rest);
    if (step.length == 0 && !at_end) break;
    held_ += step.valid ? rest.substr(0, step.length) : kReplacement;
    taken += step.length == 0 ? rest.size() : step.length;
  }
  bytes_.erase(0, taken);
}

std::string_view TextStream::release(bool at_end) {
  std::size_t first_stop = std::string::npos;
  for (const std::string& stop : stop_strings_) first_stop = std::min(first_stop, held_.find(stop));
  std::size_t end = held_.size();
  if (first_stop != std::string::npos) {
    stopped_ = true;
    end = first_stop;
  } else if (!at_end) {
    // The longest end of the text that begins a stop string; both are UTF-8, so it ends at a
    // boundary.
    for (const std::string& stop : stop_strings_) {
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > 0; --n) {
        if (held_.compare(held_.size() - n, n, stop, 0, n) != 0) continue;
        end = std::min(end, held_.size() - n);
        break;
      }
    }
  }
  out_.assign(held_, 0, end);
  held_.erase(0, stopped_ ? std::string::npos : end);
  return out_;
}

std::string_view TextStream::push(std::string_view bytes) {
  if (stopped_) return {};
  bytes_ += bytes;
  take_code_points(/*at_end=*/false);
  return release(/*at_end=*/false);
}

std::string_view TextStream::finish() {
  if (stopped_) return {};
  take_code_points(/*at_end=*/true);
  return release(/*at_end=*/true);
}

}  // namespace qalof::text
