// Cuts contexts into overlapping windows and labels answers, following run_qa.py.
#include "text/span_features.h"

#include <algorithm>

#include "core/error.h"
#include "text/unicode.h"

namespace qalof::text {

bool fit_windows(SpanFeatureOptions& options, std::size_t positions) {
  if (options.max_seq_length <= positions) return false;
  options.max_seq_length = positions;
  options.doc_stride = std::min(options.doc_stride, positions / 3);
  return true;
}

EncodedContext encode_context(const TextEncoder& encoder, const std::string& context) {
  return {encoder.encode_bare(context)};
}

std::vector<SpanWindow> make_windows(const TextEncoder& encoder, const std::string& question,
                                     const EncodedContext& context,
                                     const SpanFeatureOptions& options, bool* was_cut) {
  const TextTemplate& around = encoder.text_template();
  const std::size_t added = around.pair_size() + (options.separator ? 1 : 0);
  QALOF_CHECK(options.max_seq_length >= 8 + around.pair_size() &&
                  options.doc_stride <= options.max_seq_length - 2 - around.pair_size(),
              ErrorKind::kUsage, "--doc_stride {} leaves no room in --max_seq_length {}",
              options.doc_stride, options.max_seq_length);
  std::vector<std::int32_t> asked = encoder.encode_bare(python_lstrip(question)).ids;
  const std::size_t longest = options.max_seq_length - options.doc_stride - 1 - added;
  if (was_cut != nullptr) *was_cut = asked.size() > longest;
  if (asked.size() > longest) asked.resize(std::min(longest, kCutQuestionTokens));
  std::vector<std::int32_t> head = around.pair_before;
  head.insert(head.end(), asked.begin(), asked.end());
  if (options.separator) head.push_back(*options.separator);
  head.insert(head.end(), around.pair_between.begin(), around.pair_between.end());

  const std::vector<std::int32_t>& tokens = context.encoding.ids;
  const std::size_t room = options.max_seq_length - head.size() - around.pair_after.size();
  std::vector<SpanWindow> windows;
  for (std::size_t first = 0;; first += room - options.doc_stride) {
    const std::size_t end = std::min(first + room, tokens.size());
    SpanWindow& window = windows.emplace_back();
    window.context_start = head.size();
    window.ids.reserve(head.size() + end - first + around.pair_after.size());
    window.ids = head;
    window.ids.insert(window.ids.end(), tokens.begin() + static_cast<std::ptrdiff_t>(first),
                      tokens.begin() + static_cast<std::ptrdiff_t>(end));
    window.ids.insert(window.ids.end(), around.pair_after.begin(), around.pair_after.end());
    window.offsets.assign(context.encoding.offsets.begin() + static_cast<std::ptrdiff_t>(first),
                          context.encoding.offsets.begin() + static_cast<std::ptrdiff_t>(end));
    if (end == tokens.size()) return windows;
  }
}

std::pair<std::int32_t, std::int32_t> label_window(const SpanWindow& window, std::uint32_t start,
                                                   std::uint32_t length) {
  const auto& offsets = window.offsets;
  const std::uint32_t end = start + length;
  if (offsets.empty() || offsets.front().first > start || offsets.back().second < end)
    return {0, 0};
  // As run_qa.py: the last token that begins at or before the answer's start, the first that ends
  // at or after its end.
  std::size_t first = 0, last = offsets.size() - 1;
  while (first + 1 < offsets.size() && offsets[first + 1].first <= start) ++first;
  while (last > 0 && offsets[last - 1].second >= end) --last;
  // Both rules look at token boundaries; for a character of several tokens they cross.
  if (last < first) std::swap(first, last);
  return {static_cast<std::int32_t>(window.context_start + first),
          static_cast<std::int32_t>(window.context_start + last)};
}

}  // namespace qalof::text
