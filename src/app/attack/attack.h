// qalof attack: accuracy of classifiers on texts that an attack has found, at fixed and at random
// precision (docs/attack.md). app/attack/search.h finds the texts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "app/attack/texts.h"
#include "app/model_handle.h"
#include "core/statistics.h"
#include "quant/random_precision.h"

namespace qalof::app {

/// The network that answers queries: the one at --precision, or one drawn for each query.
enum class Defence { kNone, kRandom };
/// "none" or "rpi"; Error{kUsage} for others.
Defence parse_defence(const std::string& text);

struct AttackScoreOptions {
  ModelOptions model;
  std::vector<std::string> precisions;  // in text form, or plan files
  Defence defence = Defence::kNone;
  std::uint64_t draws = 10;  // random: number of queries per text
  std::uint64_t seed = 42;   // of the draws
  std::size_t max_seq_length = 384;
  std::string rescore;     // file or directory of texts
  std::string output_dir;  // "" = no file
};
/// Error{kUsage} names the flag of a value out of range.
void check_attack_scores(const AttackScoreOptions& options);

/// The score of one precision over all samples. Accuracies are 0-100, intervals 95 %
/// (wilson_interval).
struct AttackScore {
  std::string precision;  // description
  double clean_accuracy = 0, adversarial_accuracy = 0;
  Interval clean_interval, adversarial_interval;
  // random: the accuracies of each draw; those above are their means
  std::vector<double> clean_draws, adversarial_draws;
};
struct AttackScores {
  AttackScore defended;                    // of the network that the defence chooses
  std::vector<AttackScore> per_precision;  // --precision, then --precisions
  std::uint64_t samples = 0, attacked = 0, fooled = 0;
  double mean_queries = 0;  // of those attacked
  std::string output_dir;
  Json special_tokens;            // text::TextEncoder's description
  double seconds_per_sample = 0;  // of this process's search; 0: nothing was searched
};

/// Executions of one model at several precisions, and the choice of one per query.
class AttackTarget {
 public:
  /// handle: the model opened with --precision, at which the first execution is. Error{kUsage}
  /// where the defence has fewer than two precisions to draw from.
  AttackTarget(const ModelHandle& handle, const AttackScoreOptions& options, ParallelFor& parallel,
               Observer& observer);

  /// The execution at --precision.
  const runtime::Execution& own() const { return *executions_.front(); }
  /// The executions at --precisions.
  const std::vector<std::shared_ptr<const runtime::Execution>>& set() const { return set_; }
  /// Plans of set().
  const std::vector<quant::PlanSpec>& plans() const { return plans_; }
  /// The execution drawn (by options.seed) for a request.
  const runtime::Execution& drawn(std::uint64_t request) const;
  /// own(), then those of set() that differ.
  const std::vector<std::shared_ptr<const runtime::Execution>>& all() const { return executions_; }

 private:
  std::vector<quant::PlanSpec> plans_;
  std::vector<std::shared_ptr<const runtime::Execution>> executions_, set_;
  quant::PrecisionDraws draws_;  // of random precision inference
};

/// Classifies the original and the attacked text of every record with every execution, on the
/// packed runtime. A text without tokens counts as classified correctly.
AttackScores score_attack(const AttackTarget& target, const text::TextEncoder& encoder,
                          const AttackScoreOptions& options,
                          const std::vector<AttackRecord>& records, ParallelFor& parallel,
                          Observer& observer);
/// score_attack for the texts of options.rescore.
AttackScores rescore_attack(const AttackScoreOptions& options, Observer& observer);

/// The contents of attack_results.json (docs/file_formats.md, "Attack").
Json to_json(const AttackScores& scores);
/// Writes attack_results.json where there is an output directory.
void write_scores(const AttackScores& scores, const std::string& output_dir);

}  // namespace qalof::app
