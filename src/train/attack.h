// Gradient-based attack on classifiers (Guo et al. 2021, arXiv:2104.13733): a distribution over
// tokens per position is moved until texts drawn from it are classified wrongly, while a reference
// language model keeps them fluent and near the original. Formulas: docs/numerics.md, "Attack".
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

/// How an attack on several networks takes the mean of their gradients: of all in every iteration,
/// or of one that is drawn.
enum class Expectation { kAll, kOne };
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

/// Who is attacked, and by whose measure texts are fluent. All have the tokens of one tokenizer.
struct AttackNetworks {
  std::vector<TeacherModel> classifiers;  // of one base; several: the attack is on their mean
  std::size_t num_labels = 0;
  TeacherModel reference;     // language model
  std::vector<bool> allowed;  // [tokens] that may come; others of the vocabularies may not
};

/// ids: at least one. weights [ids]: of tokens in the similarity, with sum 1; empty: equal ones.
/// kept [ids]: tokens that stay as they are, allowed or not; empty: none.
struct AttackText {
  std::uint64_t index = 0;  // of the sample in its file: what its random numbers depend on
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

/// Not thread-safe; what it gives depends on neither threads nor which texts come together.
class Attacker {
 public:
  /// longest: tokens of a text, at most. parallel must outlive it. Error{kUnsupported} for
  /// adapters that own weights, {kBadInput} for vocabularies that differ or a missing head.
  Attacker(const AttackNetworks& networks, const AttackOptions& options, Device device,
           std::size_t longest, ParallelFor& parallel);
  ~Attacker();

  /// on_iteration may be empty and may throw.
  std::vector<AttackedText> attack(std::span<const AttackText> texts,
                                   const std::function<void(std::size_t iteration)>& on_iteration);
  /// Hard sample number of a text, from 0.
  std::vector<std::int32_t> hard_sample(const AttackText& text,
                                        const TokenDistribution& distribution,
                                        std::uint64_t number) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qalof::train
