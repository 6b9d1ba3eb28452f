// Gradient-based attack on classifiers (Guo et al. 2021, arXiv:2104.13733): optimizes a
// distribution over tokens per position until texts drawn from it are classified wrongly, while a
// reference language model keeps them fluent and similar to the original. Formulas:
// docs/numerics.md, "Attack".
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "train/gumbel.h"
#include "train/options.h"

namespace qalof::train {

/// How an attack on several networks estimates their mean gradient: from all in every iteration, or
/// from one drawn at random.
enum class Expectation { kAll, kOne };
/// "all" or "one"; Error{kUsage} for others.
Expectation parse_expectation(const std::string& text);
std::string to_string(Expectation expectation);

struct AttackOptions {
  std::size_t iterations = 100;
  std::size_t gumbel_samples = 10;  // per iteration
  double initial = 12;              // theta of the original's tokens; 0 elsewhere
  double temperature = 1;
  double learning_rate = 0.3;  // of Adam
  double kappa = 5;            // margin
  double lambda_similarity = 1;
  double lambda_fluency = 1;
  Expectation expectation = Expectation::kAll;
  std::uint64_t seed = 42;
};
/// Error{kUsage} names the flag of a value out of range.
void check_attack(const AttackOptions& options);

/// The attacked classifiers and the language model that measures fluency. All share one tokenizer.
struct AttackNetworks {
  std::vector<TeacherModel> classifiers;  // of one base; several: the attack is on their mean
  std::size_t num_labels = 0;
  TeacherModel reference;     // language model
  std::vector<bool> allowed;  // [tokens] that the attack may use; tokens beyond it are not allowed
};

/// A text to attack. ids: at least one. weights [ids]: weight of each token in the similarity, with
/// sum 1; empty: equal weights. kept [ids]: tokens that do not change, allowed or not; empty: none.
struct AttackText {
  std::uint64_t index = 0;  // of the sample in its file; its random numbers depend on it
  std::vector<std::int32_t> ids;
  std::int32_t label = 0;
  std::vector<float> weights;
  std::vector<bool> kept = {};
};

/// Means over the samples of an iteration, and the mean over classifiers.
struct AttackLosses {
  double margin = 0;
  double fluency = 0;     // nats per predicted token
  double similarity = 0;  // in [-1, 1]
  double total(const AttackOptions& options) const {
    return margin + options.lambda_fluency * fluency - options.lambda_similarity * similarity;
  }
};

struct AttackedText {
  TokenDistribution distribution;
  AttackLosses first, last;  // in the first and the last iteration
};

/// Runs attacks. Not thread-safe. Results depend neither on the number of threads nor on how texts
/// are batched.
class Attacker {
 public:
  /// longest: the largest number of tokens of a text. parallel must outlive this object.
  /// Error{kUnsupported} for adapters that own weights, {kBadInput} for vocabularies that differ or
  /// a missing head.
  Attacker(const AttackNetworks& networks, const AttackOptions& options, Device device,
           std::size_t longest, ParallelFor& parallel);
  ~Attacker();

  /// Attacks the texts together. on_iteration may be empty and may throw.
  std::vector<AttackedText> attack(std::span<const AttackText> texts,
                                   const std::function<void(std::size_t iteration)>& on_iteration);
  /// The token ids of sample `number` (from 0) drawn from a text's distribution.
  std::vector<std::int32_t> hard_sample(const AttackText& text,
                                        const TokenDistribution& distribution,
                                        std::uint64_t number) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qalof::train
