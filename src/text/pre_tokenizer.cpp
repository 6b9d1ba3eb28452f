// Hand-written matchers for the pre-tokenizer patterns of GPT-2 and Llama 3, without a
// regular-expression library.
#include "text/pre_tokenizer.h"

#include <string>

#include "core/ascii.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

enum class Class { kLetter, kNumber, kSpace, kOther, kEnd };

Class class_at(std::string_view text, std::size_t position, std::size_t* next) {
  if (position >= text.size()) return Class::kEnd;
  *next = position;
  const std::uint32_t point = next_valid_code_point(text, next);
  if (is_letter(point)) return Class::kLetter;
  if (is_number(point)) return Class::kNumber;
  return is_white_space(point) ? Class::kSpace : Class::kOther;
}

std::size_t run_end(std::string_view text, std::size_t start, Class wanted) {
  std::size_t next = start;
  while (class_at(text, start, &next) == wanted) start = next;
  return start;
}

// Length of a contraction ('s 't 're 've 'm 'll 'd) at start, or 0.
std::size_t contraction(std::string_view text, std::size_t start) {
  const std::string_view rest = text.substr(start, 3);
  for (const std::string_view form : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (rest.starts_with(form)) return form.size();
  }
  return 0;
}

// Length of a contraction in any case; U+017F (long s) counts as s.
std::size_t contraction_of_any_case(std::string_view text, std::size_t start) {
  constexpr std::string_view kLongS = "\xc5\xbf";
  if (text.substr(start + 1).starts_with(kLongS)) return 1 + kLongS.size();
  return contraction(lower_ascii(std::string(text.substr(start, 3))), 0);
}

bool is_line_end(char c) { return c == '\r' || c == '\n'; }

// End of the white space start .. end: all of it at the end of the text (is_last), else without its
// last code point, which may belong to the next word.
std::size_t without_last(std::string_view text, std::size_t start, std::size_t end, bool is_last) {
  if (is_last) return end;
  std::size_t last = end - 1;
  while (last > start && (static_cast<unsigned char>(text[last]) & 0xC0U) == 0x80U) --last;
  return last == start ? end : last;
}

// End of a GPT-2 pre-token. numbers_end: a number counts as the end of the text.
std::size_t gpt2_end(std::string_view text, std::size_t start, bool numbers_end) {
  if (text[start] == '\'') {
    if (const std::size_t length = contraction(text, start); length > 0) return start + length;
  }
  const std::size_t word = text[start] == ' ' ? start + 1 : start;
  std::size_t next = word;
  const Class kind = class_at(text, word, &next);
  const bool is_word =
      kind == Class::kLetter || kind == Class::kOther || (kind == Class::kNumber && !numbers_end);
  if (is_word) return run_end(text, next, kind);
  const std::size_t end = run_end(text, start, Class::kSpace);
  const Class after = class_at(text, end, &next);
  return without_last(text, start, end,
                      after == Class::kEnd || (numbers_end && after == Class::kNumber));
}

std::size_t digits_end(std::string_view text, std::size_t start) {
  std::size_t next = start;
  if (class_at(text, start, &next) == Class::kNumber) return next;
  return gpt2_end(text, start, /*numbers_end=*/true);
}

// End of a pre-token of Llama 3; max_numbers is 3 there, and 1 in Qwen2.
std::size_t llama3_end(std::string_view text, std::size_t start, int max_numbers) {
  if (text[start] == '\'') {
    if (const std::size_t length = contraction_of_any_case(text, start); length > 0)
      return start + length;
  }
  std::size_t next = start, after = start;
  const Class kind = class_at(text, start, &next);
  if (kind == Class::kLetter) return run_end(text, next, Class::kLetter);
  if (kind == Class::kNumber) {
    for (int count = 1; count < max_numbers && class_at(text, next, &after) == Class::kNumber;
         ++count)
      next = after;
    return next;
  }
  if (!is_line_end(text[start]) && class_at(text, next, &after) == Class::kLetter)
    return run_end(text, after, Class::kLetter);
  const std::size_t word = text[start] == ' ' ? start + 1 : start;
  if (class_at(text, word, &after) == Class::kOther) {
    std::size_t end = run_end(text, after, Class::kOther);
    while (end < text.size() && is_line_end(text[end])) ++end;
    return end;
  }
  const std::size_t end = run_end(text, start, Class::kSpace);
  for (std::size_t last = end; last > start; --last) {
    if (is_line_end(text[last - 1])) return last;
  }
  return without_last(text, start, end, end == text.size());
}

}  // namespace

std::size_t next_pre_token(std::string_view text, std::size_t start, PreTokenizer kind) {
  switch (kind) {
    case PreTokenizer::kGpt2:
      break;
    case PreTokenizer::kDigits:
      return digits_end(text, start);
    case PreTokenizer::kLlama3:
      return llama3_end(text, start, /*max_numbers=*/3);
  }
  return gpt2_end(text, start, /*numbers_end=*/false);
}

std::size_t next_qwen2_pre_token(std::string_view text, std::size_t start) {
  return llama3_end(text, start, /*max_numbers=*/1);
}

}  // namespace qalof::text
