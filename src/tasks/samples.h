// Samples of a task in batches, with a score for each: what a sensitivity analysis measures.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/threads.h"
#include "runtime/decoder.h"

namespace qalof::tasks {

/// Of one sample. Classification has its accuracy as exact and f1.
struct SampleScore {
  double exact = 0, f1 = 0;  // 0-100
  double loss = 0;           // nats (docs/sensitivity.md)
  double kl = 0;             // nats, from the reference to the logits that were scored
  friend bool operator==(const SampleScore&, const SampleScore&) = default;
};

/// Samples that run together.
class SampleBatch {
 public:
  virtual ~SampleBatch() = default;
  virtual std::size_t samples() const = 0;
  virtual std::size_t tokens() const = 0;
  virtual std::size_t tokens_of(std::size_t sample) const = 0;
  /// Samples of this batch, by their places in it, as a batch of their own. It may outlive this
  /// one, not the reader.
  virtual std::unique_ptr<SampleBatch> select(std::span<const std::size_t> samples) const = 0;
  /// They point into the batch.
  virtual std::vector<runtime::Sequence> sequences() const = 0;
  /// Logits of a head on hidden states [tokens, hidden] of the sequences.
  virtual std::vector<float> logits(const weights::Head& head, const float* hidden,
                                    std::size_t width, ParallelFor& parallel) const = 0;
  /// One score per sample; reference: the logits that distances are taken from. Error{kDiverged}
  /// where a logit is not finite, naming the sample and the network, e.g. "unit h.0 at 4 bits".
  virtual std::vector<SampleScore> score(std::span<const float> logits,
                                         std::span<const float> reference,
                                         const std::string& network) const = 0;
};

class SampleReader {
 public:
  virtual ~SampleReader() = default;
  virtual std::uint64_t total() const = 0;
  /// Batches of about batch_tokens tokens in file order, until take says false. The batches are a
  /// function of the file, the options and batch_tokens.
  virtual void read(std::size_t batch_tokens,
                    const std::function<bool(const SampleBatch&)>& take) const = 0;
};

}  // namespace qalof::tasks
