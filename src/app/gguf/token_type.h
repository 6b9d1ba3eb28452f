// The types of tokens in GGUF files (tokenizer.ggml.token_type).
#pragma once

#include <cstdint>

namespace qalof::app {

struct TokenType {
  static constexpr std::int32_t kNormal = 1;
  static constexpr std::int32_t kUnknown = 2;      // stands for characters without a token
  static constexpr std::int32_t kControl = 3;      // special
  static constexpr std::int32_t kUserDefined = 4;  // text that is never split
  static constexpr std::int32_t kUnused = 5;
  static constexpr std::int32_t kByte = 6;
};

}  // namespace qalof::app
