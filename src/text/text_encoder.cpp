// Puts template tokens around encoded texts, and cuts texts to a length.
#include "text/text_encoder.h"

#include <algorithm>

#include "core/error.h"

namespace qalof::text {

TextEncoder::TextEncoder(BpeTokenizer tokenizer, bool parse_special)
    : tokenizer_(std::move(tokenizer)), parse_special_(parse_special) {}

Encoding TextEncoder::encode_bare(std::string_view text) const {
  return tokenizer_.encode(text, parse_special_);
}

Encoding TextEncoder::encode(std::string_view text) const {
  Encoding encoding = encode_bare(text);
  const TextTemplate& around = text_template();
  encoding.ids.insert(encoding.ids.begin(), around.before.begin(), around.before.end());
  encoding.ids.insert(encoding.ids.end(), around.after.begin(), around.after.end());
  encoding.offsets.insert(encoding.offsets.begin(), around.before.size(), {0, 0});
  encoding.offsets.insert(encoding.offsets.end(), around.after.size(), {0, 0});
  return encoding;
}

std::vector<std::int32_t> TextEncoder::encode_cut(std::string_view text, std::size_t max_tokens,
                                                  bool* was_cut) const {
  const TextTemplate& around = text_template();
  QALOF_CHECK(max_tokens > around.size(), ErrorKind::kUsage,
              "--max_seq_length: found {}, expected at least {} (the tokenizer adds {} tokens to a "
              "text)",
              max_tokens, around.size() + 1, around.size());
  const std::vector<std::int32_t> own = encode_bare(text).ids;
  const std::size_t kept = std::min(own.size(), max_tokens - around.size());
  if (was_cut != nullptr) *was_cut = kept < own.size();
  if (own.empty()) return {};
  std::vector<std::int32_t> ids = around.before;
  ids.insert(ids.end(), own.begin(), own.begin() + static_cast<std::ptrdiff_t>(kept));
  ids.insert(ids.end(), around.after.begin(), around.after.end());
  return ids;
}

bool TextEncoder::begins_twice(const std::vector<std::int32_t>& ids) const {
  const std::vector<std::int32_t>& before = text_template().before;
  return !before.empty() && ids.size() >= 2 * before.size() &&
         std::equal(before.begin(), before.end(),
                    ids.begin() + static_cast<std::ptrdiff_t>(before.size()));
}

Json TextEncoder::description(bool pairs) const {
  const TextTemplate& around = text_template();
  Json json = {{"before", pairs ? around.pair_before : around.before},
               {"after", pairs ? around.pair_after : around.after},
               {"parse_special", parse_special_}};
  if (pairs) json["between"] = around.pair_between;
  return json;
}

}  // namespace qalof::text
