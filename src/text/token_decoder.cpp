// The steps of a decoder, each of which takes tokens and gives texts to the next.
#include "text/token_decoder.h"

#include <algorithm>

#include "core/error.h"
#include "text/bpe_tokenizer.h"
#include "text/unicode.h"

namespace qalof::text {

namespace token_decoder {

constexpr std::size_t kMaxSteps = 32;
constexpr int kMaxDepth = 8;

// The byte of a token written <0xHH>, or -1.
int byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = 16 * value + digit;
  }
  return value;
}

}  // namespace token_decoder

void DecoderSteps::add(const Json& json, const std::string& where, int depth) {
  const std::string type = json_string(json, "type", where);
  QALOF_CHECK(steps_.size() < token_decoder::kMaxSteps && depth < token_decoder::kMaxDepth,
              ErrorKind::kUnsupported, "{}: has over {} steps", where, token_decoder::kMaxSteps);
  const bool is_fused = std::ranges::any_of(
      steps_, [](const Step& step) { return std::holds_alternative<Fuse>(step); });
  QALOF_CHECK(!is_fused || type == "Strip" || type == "Fuse" || type == "Sequence",
              ErrorKind::kUnsupported, "{}: {:.40} after Fuse is not implemented", where, type);
  if (type == "Sequence") {
    QALOF_CHECK(json.contains("decoders") && json["decoders"].is_array(), ErrorKind::kBadInput,
                "{}.decoders: is missing or no list", where);
    for (std::size_t i = 0; i < json["decoders"].size(); ++i)
      add(json["decoders"][i], fmt::format("{}.decoders[{}]", where, i), depth + 1);
  } else if (type == "Replace") {
    steps_.emplace_back(
        Replace{TextPattern::read(json, where), json_string(json, "content", where)});
  } else if (type == "ByteFallback") {
    const bool is_second = std::ranges::any_of(
        steps_, [](const Step& step) { return std::holds_alternative<ByteFallback>(step); });
    QALOF_CHECK(!is_second, ErrorKind::kUnsupported, "{}: a second ByteFallback", where);
    steps_.emplace_back(ByteFallback{});
  } else if (type == "Fuse") {
    steps_.emplace_back(Fuse{});
  } else if (type == "Metaspace") {
    const bool is_after_bytes = std::ranges::any_of(
        steps_, [](const Step& step) { return std::holds_alternative<ByteFallback>(step); });
    QALOF_CHECK(!is_after_bytes, ErrorKind::kUnsupported,
                "{}: Metaspace after ByteFallback is not implemented", where);
    steps_.emplace_back(MetaspaceSettings::read(json, where));
  } else if (type == "Strip") {
    const std::string content = json_string(json, "content", where);
    QALOF_CHECK(count_code_points(content) == 1, ErrorKind::kBadInput,
                "{}.content: expected one character", where);
    constexpr std::int64_t kMaxStrip = 1 << 20;
    const auto start = static_cast<std::size_t>(json_int(json, "start", where, 0, kMaxStrip));
    QALOF_CHECK(json_int(json, "stop", where, 0, kMaxStrip) == 0, ErrorKind::kUnsupported,
                "{}.stop: implemented is 0", where);
    steps_.emplace_back(Strip{content, start});
  } else {
    fail(ErrorKind::kUnsupported,
         "{}: is {:.40}, implemented are ByteLevel alone, Replace, ByteFallback, Metaspace, Fuse, "
         "Strip and a Sequence of them",
         where, type);
  }
}

DecoderSteps DecoderSteps::read(const Json& json, const std::string& where) {
  DecoderSteps result;
  const Json* alone = &json;
  while (alone->is_object() && alone->value("type", Json()) == "Sequence" &&
         alone->contains("decoders") && (*alone)["decoders"].is_array() &&
         (*alone)["decoders"].size() == 1)
    alone = &(*alone)["decoders"][0];
  if (json_string(*alone, "type", where) == "ByteLevel") return result;
  result.is_byte_level_ = false;
  result.add(json, where, 0);
  return result;
}

TokenDecoder::TokenDecoder(const BpeTokenizer& tokenizer, bool continues)
    : tokenizer_(tokenizer), steps_(tokenizer.decoder()), is_first_(!continues) {
  bool is_fused = false;
  for (const DecoderSteps::Step& step : steps_.steps_) {
    is_fused = is_fused || std::holds_alternative<DecoderSteps::Fuse>(step);
    const auto* strip = std::get_if<DecoderSteps::Strip>(&step);
    strip_left_.push_back(strip == nullptr ? 0
                          : is_fused       ? (continues ? 0 : strip->count)
                                           : strip->count);
  }
}

TokenDecoder TokenDecoder::after_prompt(const BpeTokenizer& tokenizer,
                                        std::span<const std::int32_t> prompt) {
  return TokenDecoder(tokenizer, !std::ranges::all_of(prompt, [&](std::int32_t id) {
                        return tokenizer.is_special(id);
                      }));
}

void TokenDecoder::flush_bytes(std::size_t step) {
  if (bytes_.empty()) return;
  std::string bytes = std::move(bytes_);
  bytes_.clear();
  if (find_invalid_utf8(bytes) == std::string_view::npos) {
    pass(step + 1, std::move(bytes));
    return;
  }
  // As in `tokenizers`: one mark for each byte of the run.
  for (std::size_t i = 0; i < bytes.size(); ++i) pass(step + 1, "\xEF\xBF\xBD");
}

// Gives token to a step, and what that makes of it to the next.
void TokenDecoder::pass(std::size_t step, std::string token) {
  bool is_fused = false;
  for (std::size_t i = 0; i < steps_.steps_.size(); ++i) {
    const DecoderSteps::Step& one = steps_.steps_[i];
    is_fused = is_fused || std::holds_alternative<DecoderSteps::Fuse>(one);
    if (i < step) continue;
    if (const auto* replace = std::get_if<DecoderSteps::Replace>(&one)) {
      std::string changed;
      std::size_t done = 0;
      replace->pattern.for_each_match(token, [&](std::size_t start, std::size_t end) {
        changed.append(token, done, start - done);
        changed += replace->content;
        done = end;
      });
      if (done == 0) continue;
      changed.append(token, done);
      token = std::move(changed);
    } else if (std::holds_alternative<DecoderSteps::ByteFallback>(one)) {
      const int byte = token_decoder::byte_of(token);
      if (byte >= 0) {
        bytes_ += static_cast<char>(byte);
        return;
      }
      flush_bytes(i);
    } else if (const auto* strip = std::get_if<DecoderSteps::Strip>(&one)) {
      std::size_t left = strip_left_[i], start = 0;
      for (; left > 0 && token.compare(start, strip->content.size(), strip->content) == 0; --left)
        start += strip->content.size();
      if (start < token.size() && is_fused) left = 0;
      if (is_fused) strip_left_[i] = left;
      token.erase(0, start);
    } else if (const auto* space = std::get_if<MetaspaceSettings>(&one)) {
      const bool drops = is_first_ && space->prepend_scheme != PrependScheme::kNever;
      const std::string& from = space->replacement;
      std::string changed;
      std::size_t done = 0;
      for (std::size_t at = token.find(from); at != std::string::npos;
           at = token.find(from, done)) {
        changed.append(token, done, at - done);
        if (!drops) changed += ' ';
        done = at + from.size();
      }
      changed.append(token, done);
      token = std::move(changed);
    }
  }
  out_ += token;
}

std::string_view TokenDecoder::push(std::int32_t id) {
  out_.clear();
  const std::string_view piece = tokenizer_.checked_piece(id);
  if (steps_.is_byte_level()) return piece;
  // `tokenizers` passes over ids that are no token.
  if (piece.empty()) return out_;
  pass(0, std::string(piece));
  is_first_ = false;
  return out_;
}

std::string_view TokenDecoder::finish() {
  out_.clear();
  for (std::size_t i = 0; i < steps_.steps_.size(); ++i)
    if (std::holds_alternative<DecoderSteps::ByteFallback>(steps_.steps_[i])) flush_bytes(i);
  return out_;
}

}  // namespace qalof::text
