// A really quantized language model: open it, choose adapter and precision, generate, score.
//
//   const qalof::Model model = qalof::Model::open("gpt2");
//   const qalof::Variant small = model.variant({.precision = "4", .adapter = "out"});
//   std::cout << small.generate("Once upon a time").text;
//
// Precision is never a setting of the model: a Variant is the model at one precision with one
// adapter, many stand side by side on the same weights, and each call names the one it wants. Each
// text gets the same tokens and scores whatever runs beside it and on any number of threads.
//
// Threads: Model and Variant are small handles that may be copied, shared and used from several
// threads at once, and a Variant keeps its model open. The threads of a Model are shared by its
// calls: two calls at once take turns, which is no faster than one after the other.
//
// Errors: every function may throw qalof::Error and nothing else, but for what a callback of the
// caller throws, which passes through. Texts are UTF-8, else Error{kBadInput}. Running out of
// memory is Error{kResource}.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qalof/error.h"
#include "qalof/export.h"

namespace qalof {

class Variant;

/// The version of the library, e.g. "0.1.0".
QALOF_API std::string version();
/// The instruction set that the kernels run on: "portable", "avx2", "avxvnni", "avx512",
/// "avx512vnni", "avx512bf16" or "amx". The environment variable QALOF_ISA forces one
/// (Error{kUsage} where it names none, {kUnsupported} where this processor lacks it).
QALOF_API std::string instruction_set();

struct ModelOptions {
  int threads = 0;  // 1..1024; 0: the variable QALOF_THREADS, else all that this process may use
  // Special tokens written in texts ("<|endoftext|>") count as themselves, not as text.
  bool parse_special = false;
};

/// What makes a Variant. The defaults are the adapter's own plan, else the packed file's, else 32
/// bits.
struct VariantOptions {
  // "8", "w4a8kv8" or the path of a plan file, which gives each layer its widths.
  std::string precision = {};
  // A training output or a PEFT directory; "": none, or those of the packed file. What training
  // wrote has an adapter per width, and each linear takes the one of its own.
  std::string adapter = {};
  // How integers are made from floats, e.g. "seed", "g64", "tuned"; "": as trained or packed.
  std::string scheme = {};
  int kv_bits = 0;       // keys and values of every layer: 2..8, 16 or 32; 0: as the plan says
  int lm_head_bits = 0;  // 4, 8, 16 or 32; 0: the embedding's
};

/// Bytes of a variant's weights as a packed file stores them.
struct WeightBytes {
  std::uint64_t linears = 0;   // codes and scales, or floats
  std::uint64_t adapters = 0;  // low-rank pairs and heads
  std::uint64_t other = 0;     // embeddings, norms, biases
  std::uint64_t total = 0;
};
/// Mean bits per number, scales included.
struct EffectiveBits {
  double weights = 0;      // of the linears
  double activations = 0;  // that the linears read
  double kv = 0;           // that attention reads back
};

enum class StopReason {
  kLength,      // max_new_tokens came
  kStopToken,   // the model ended its text
  kStopString,  // one of stop came
  kPositions,   // the model has no position for another token
  kCancelled,   // on_text said so
};

struct GenerateOptions {
  std::size_t max_new_tokens = 64;     // at least 1
  double temperature = 0;              // at least 0; 0: the most likely token
  std::size_t top_k = 0;               // choose among the k most likely; 0: all
  double top_p = 1;                    // in (0, 1]: the fewest most likely of that probability
  std::uint64_t seed = 0;              // the tokens are a function of it
  std::vector<std::string> stop = {};  // texts that end the generation and are not part of it
  bool ignore_eos = false;             // continue where the model ends its text
  /// Receives the text in pieces of whole code points as they become final; false ends it.
  std::function<bool(std::string_view piece)> on_text = {};
  /// Asked before every new token but the first, which of the model's variants makes it: precision
  /// changes while a text grows. `token` counts new tokens from 0, so that it is at least 1. Where
  /// both variants keep keys and values in the same bits, the text so far is not read again.
  /// Error{kUsage} where it gives a variant of another Model.
  std::function<Variant(std::size_t token)> variant_at = {};
};

struct Generation {
  std::string text;               // without the prompt, a stop text and what follows that
  std::vector<std::int32_t> ids;  // without the prompt and a stop token
  StopReason reason = StopReason::kLength;
  std::size_t prompt_tokens = 0;
  double prefill_seconds = 0;  // until the first token was chosen
  double decode_seconds = 0;   // from there on
  std::size_t kv_bytes = 0;    // of memory for keys and values
  std::vector<std::string> warnings;

  /// Tokens after the first per second; 0 where there is none.
  double tokens_per_second() const {
    return ids.size() > 1 && decode_seconds > 0
               ? static_cast<double>(ids.size() - 1) / decode_seconds
               : 0;
  }
};

/// How likely one text is after another.
struct ContinuationScore {
  double log_likelihood = 0;                 // nats, the sum over its tokens
  std::vector<std::int32_t> ids;             // of the continuation
  std::vector<float> token_log_likelihoods;  // nats, one per id
};

/// How likely texts are under the model.
struct TextScore {
  double loss = 0;  // mean negative log-likelihood, nats per token
  double perplexity = 0;
  std::uint64_t tokens = 0;  // that were predicted: of each text all but the first
};
struct TextScoreOptions {
  std::size_t max_seq_length = 0;  // window in tokens; 0: the model's positions
  std::size_t stride = 0;          // how far windows move; 0: half a window
};

/// An answer out of a context.
struct Answer {
  std::string text;        // "": the context holds none, where options.may_be_missing
  double probability = 0;  // among the candidates
};
struct AnswerOptions {
  std::size_t max_seq_length = 384;    // window over question and context, tokens
  std::size_t doc_stride = 128;        // overlap of neighbouring windows, tokens
  std::size_t max_answer_length = 30;  // tokens
  bool may_be_missing = false;         // questions without answer are possible (SQuAD 2.0)
};

/// One class of a classifier.
struct ClassProbability {
  std::string name;  // "" where neither model nor adapter names its classes
  double probability = 0;
};

/// An open model directory (Hugging Face layout) or packed file.
class QALOF_API Model {
 public:
  /// path: a model directory or packed file, else a name on the Hugging Face Hub,
  /// `org/name[@revision]`, whose files are downloaded where the cache lacks them (docs/hub.md;
  /// HF_HUB_OFFLINE=1: never). Error{kNetwork} where that fails, {kNotFound} where there is nothing
  /// at path, {kBadInput}, {kCorruptFile} or {kUnsupported} for what it holds. Weights are mapped,
  /// not read: opening is quick.
  static Model open(const std::string& path, const ModelOptions& options = {});

  /// The model at a precision with an adapter. Weights of a width that no variant had before are
  /// packed and kept as long as the model is open: the first variant of a width takes time and
  /// memory, the next is a choice of pointers. The adapters of a directory are read once while a
  /// variant has them. Error{kUsage} for options that contradict each other or a packed file,
  /// {kUnsupported} where a packed file lacks a width, and as open for what the adapter holds.
  Variant variant(const VariantOptions& options = {}) const;

  /// Token ids of a whole text, with what the tokenizer puts around texts.
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// The text of ids; bytes that are no UTF-8 become U+FFFD. Error{kBadInput} for ids outside the
  /// vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  const std::string& path() const;
  std::size_t vocab_size() const;
  std::size_t max_positions() const;  // tokens that prompt and answer may have together
  /// What opening had to say, a sentence each.
  const std::vector<std::string>& warnings() const;

 private:
  friend class Variant;
  struct State;
  explicit Model(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

/// A model at one precision with one adapter; made by Model::variant.
class QALOF_API Variant {
 public:
  /// Continues a prompt. Error{kBadInput} for one that leaves no position for a new token, {kUsage}
  /// for options out of range, {kUnsupported} where the model has no LM head, {kDiverged} where the
  /// network gives NaN or infinity; the last two hold for all that follow.
  Generation generate(std::string_view prompt, const GenerateOptions& options = {}) const;

  /// log P(continuation | context). They are encoded as one text; the continuation's tokens are
  /// those after as many as the context has alone. Error{kBadInput} where it has none, or both
  /// have more tokens than the model positions.
  ContinuationScore score(std::string_view context, std::string_view continuation) const;
  /// Loss and perplexity of texts of any length, in windows as `qalof eval --task lm` has them.
  /// Error{kBadInput} where no text has the two tokens that are needed.
  TextScore score_texts(std::span<const std::string> texts,
                        const TextScoreOptions& options = {}) const;
  /// The stretch of context that answers a question. Error{kBadInput} where neither model nor
  /// adapter holds a question-answering head.
  Answer answer(std::string_view question, std::string_view context,
                const AnswerOptions& options = {}) const;
  /// Probabilities of the classes [classes] of a text, which is cut to max_tokens or the model's
  /// positions. Error{kBadInput} where neither model nor adapter holds a classification head.
  std::vector<ClassProbability> classify(std::string_view text, std::size_t max_tokens = 384) const;

  /// What really runs, in words: precision, and which adapter serves each width.
  const std::string& precision() const;
  WeightBytes bytes() const;
  EffectiveBits bits() const;
  /// What adapter and precision had to say, a sentence each.
  const std::vector<std::string>& warnings() const;

 private:
  friend class Model;
  struct State;
  explicit Variant(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

}  // namespace qalof
