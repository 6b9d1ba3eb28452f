// Text that a model writes itself, to distil it without data (LLM-QAT: Liu et al. 2023, section
// 3.1): docs/numerics.md, "Self-generated text".
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "runtime/decoder.h"

namespace qalof::app {

struct SelfTextOptions {
  std::uint64_t tokens = 100'000;  // of all documents, at least
  std::size_t max_length = 384;    // tokens of a document, at most
  std::uint64_t seed = 42;
  std::vector<std::int32_t> before = {};   // tokens that every document begins with
  std::size_t num_choices = 0;             // tokens that are drawn from: the tokenizer's; 0 = all
  std::size_t documents_at_once = 16;      // written side by side; changes no document
  std::function<bool()> should_stop = {};  // asked now and then; may be empty
};

/// Documents in the order of their numbers; each is a function of its number, the seed and the
/// model alone. Each begins with those of before and a token drawn from the vocabulary; the next
/// three to five are the most likely ones, the rest are drawn from the model's distribution, until
/// its end-of-text token or max_length. Error{kUsage} for a max_length without room for two tokens
/// of its own; {kInterrupted} where should_stop says so.
std::vector<std::vector<std::int32_t>> generate_self_text(const runtime::Execution& execution,
                                                          const SelfTextOptions& options,
                                                          ParallelFor& parallel,
                                                          Observer& observer);

/// A file of documents (docs/file_formats.md, "Self-generated text"). identity says what made them.
void write_self_text(const std::string& path, const Json& identity,
                     const std::vector<std::vector<std::int32_t>>& documents);
/// Nothing where there is no file, or one of another identity or not as it was written.
std::optional<std::vector<std::vector<std::int32_t>>> read_self_text(const std::string& path,
                                                                     const Json& identity);

}  // namespace qalof::app
