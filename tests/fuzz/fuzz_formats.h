// One entry per file format that comes from outside, for libFuzzer and for the tests without it.
//
// An entry reads its input as the program would and looks at everything it was given. Refusals are
// Errors, which are fine; whatever else happens is a finding.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace qalof::fuzz {

struct Format {
  std::string name;
  /// Returns true where the input was accepted. Throws what is not an Error, and Error{kInternal}.
  bool (*read)(std::span<const std::byte> input);
  std::vector<std::string> seeds;  // sound files, below the source directory
};

/// gguf, safetensors, tokenizer, config, classification, squad, hub_list, adapter_config, plan,
/// split_pattern, chat_template, request, http.
const std::vector<Format>& formats();
/// The one of a name; aborts where there is none.
const Format& format_of(const std::string& name);

}  // namespace qalof::fuzz
