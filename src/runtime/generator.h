// Generates text from a prompt: prefill in chunks, then one token at a time until a stop condition.
//
// Nothing is allocated per token once a generation runs at one K/V precision. The tokens depend on
// execution, prompt and options alone. Not for: several requests at once (runtime/decoder.h takes
// them in one batch).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/decoder.h"
#include "runtime/drafting.h"
#include "runtime/kv_cache.h"
#include "runtime/sampling.h"
#include "text/bpe_tokenizer.h"

namespace qalof::runtime {

class GenerationSteps;

/// What a generation leaves for the next one, whose prompt begins alike: the tokens that were read,
/// and their K and V. One thread at a time.
class KvMemory {
 public:
  /// For an execution that is about to go: nothing of it may serve another at the same address.
  void clear();
  /// Of K and V.
  std::size_t bytes() const { return cache_ ? cache_->bytes() : 0; }

 private:
  friend class GenerationSteps;
  const Execution* execution_ = nullptr;  // that made what the cache holds
  std::vector<std::int32_t> ids_;         // that the cache holds
  std::optional<KvCache> cache_;
};

struct GenerateOptions {
  std::size_t max_new_tokens = 64;
  SamplingOptions sampling = {};
  std::vector<std::int32_t> stop_ids = {};  // end a generation and are not part of it
  std::vector<std::string> stop_strings = {};
  std::size_t prefill_chunk = 256;  // prompt tokens per forward pass: bounds memory, not results
  /// Which execution makes new token `step` >= 1; empty: the call's makes all. It must be of the
  /// same model and live until the next call. Where its K/V precision and basis are those of the
  /// one before, it continues on the K and V that are stored; else it reads the text anew.
  std::function<const Execution&(std::size_t step)> execution_at = nullptr;
  /// Tokens at the prompt's start that the execution has read before are not read again; not beside
  /// execution_at. Null: none are kept. Changes no result.
  KvMemory* memory = nullptr;
  /// Guesses at the next tokens, checked several in one pass; not beside execution_at. Changes no
  /// result. Error{kUsage} where the network is of another base or has another K/V precision.
  DraftOptions drafts = {};
};

enum class StopReason { kLength, kStopToken, kStopString, kPositions, kCancelled };
/// The reason's name in JSON.
std::string to_string(StopReason reason);

struct Generation {
  std::vector<std::int32_t> ids;  // without the prompt and a stop token
  std::string text;               // without a stop string and what follows it
  StopReason reason = StopReason::kLength;
  std::size_t prompt_tokens = 0;
  std::size_t kept_tokens = 0;  // of them, those that were not read again
  double prefill_seconds = 0;   // until the first token is chosen
  double decode_seconds = 0;    // from there on
  std::size_t kv_bytes = 0;     // of the largest cache
  std::size_t passes = 0;       // after the prompt; fewer than tokens where drafts were accepted
  DraftCounts network_drafts, lookup_drafts;

  double prefill_tokens_per_second() const;
  /// Tokens after the first, per second of decoding; 0 where there are none.
  double tokens_per_second() const;
};

/// Called with each piece of text as it becomes final, valid UTF-8; false ends the generation.
using TextCallback = std::function<bool(std::string_view piece)>;

/// Generates until a stop condition. Error{kBadInput} for an empty prompt, one that leaves no
/// position for a new token, or ids outside the vocabulary; {kUsage} for options out of range.
/// on_text and profile may be null.
Generation generate(const Execution& execution, const text::BpeTokenizer& tokenizer,
                    std::span<const std::int32_t> prompt, const GenerateOptions& options,
                    ParallelFor& parallel, const TextCallback& on_text = nullptr,
                    Profile* profile = nullptr);

}  // namespace qalof::runtime
