// Drafts of a generation: guesses at its next tokens that one pass checks at once. A guess is kept
// where it is the token that the generation itself chooses, so that drafts change its speed only.
//
// Sources: another execution of the same weights, usually of fewer bits, and what followed the same
// few tokens earlier in the text. Draft lengths come from measured acceptance and measured times.
// Source of the method: Leviathan et al., "Fast Inference from Transformers via Speculative
// Decoding" (2023), equation 1 for the expected number of tokens; there a guess is accepted at
// random, here by the generation's own choice, which depends on logits, options and step alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace qalof::runtime {

class Execution;

struct DraftOptions {
  /// Drafts tokens on the generation's K and V; of the same base and K/V precision. Null: none.
  const Execution* network = nullptr;
  bool lookup = false;      // drafts what followed the last tokens earlier in the text
  std::size_t longest = 8;  // most tokens of a draft, 1..64
  /// Draft lengths follow what is measured, 0 where drafts cost more than they save; else every
  /// draft is as long as it may be.
  bool adapts = true;

  bool any() const { return network != nullptr || lookup; }
};

/// What became of one source's drafts.
struct DraftCounts {
  std::uint64_t drafts = 0;    // checked
  std::uint64_t tokens = 0;    // of them, those compared with a choice
  std::uint64_t accepted = 0;  // of these, those that were chosen
  /// Of the tokens that were compared; 0 where there are none.
  double acceptance() const {
    return tokens > 0 ? static_cast<double>(accepted) / static_cast<double>(tokens) : 0;
  }
};

/// What the same few last tokens of a text were followed by where they last stood before: at most
/// count tokens, at least one, or none. Of the longest run of 2 to 4 tokens that stood before.
std::span<const std::int32_t> look_up(std::span<const std::int32_t> text, std::size_t count);

/// Chooses draft lengths. One thread at a time.
class DraftLengths {
 public:
  enum Source : std::size_t { kNetwork, kLookup };

  explicit DraftLengths(const DraftOptions& options);
  /// The length of the next draft of a source where `most` tokens can be drafted; 0 where none
  /// pays. For a lookup, `rate` receives the expected tokens per second, as for a network.
  std::size_t choose(Source source, std::size_t most, double* rate);
  /// A draft's first tokens, of which `accepted` were chosen and of which the last was not where
  /// accepted < compared; and how long drafting took.
  void record(Source source, std::size_t drafted, std::size_t compared, std::size_t accepted,
              double seconds);
  /// A pass over 1 + drafted tokens took so long.
  void record_pass(std::size_t drafted, double seconds);

  const DraftCounts& counts(Source source) const { return sources_[source].counts; }

 private:
  // The least of the last few measurements: what else runs on a machine only adds time.
  class Seconds {
   public:
    void add(double seconds) { last_[next_++ % last_.size()] = seconds; }
    bool known() const { return next_ > 0; }
    double least() const;

   private:
    std::array<double, 4> last_{};
    std::size_t next_ = 0;
  };
  struct State {
    DraftCounts counts;
    double compared = 2, matched = 1.5;  // fading; begins as two tokens that match at 75 %
    Seconds token;                       // of drafting one
    std::size_t passes_without = 0;      // since its last draft
  };

  double pass_seconds(std::size_t drafted) const;

  DraftOptions options_;
  std::vector<Seconds> passes_;  // [drafted tokens]
  std::array<State, 2> sources_;
};

}  // namespace qalof::runtime
