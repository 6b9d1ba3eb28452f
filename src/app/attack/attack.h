// qalof attack: what classifiers make of texts that an attack has found, at fixed and at random
// precision (docs/attack.md). Searching for them is app/train_attack.h.
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

/// Who answers queries: the network at --precision, or one at a precision drawn for each query.
enum class Defence { kNone, kRandom };
/// "none" or "rpi"; Error{kUsage}.
Defence parse_defence(const std::string& text);

struct AttackScoreOptions {
  ModelOptions model;
  std::vector<std::string> precisions;  // text forms or plan files
  Defence defence = Defence::kNone;
  std::uint64_t draws = 10;  // random: how often every text is asked
  std::uint64_t seed = 42;   // of the draws
  std::size_t max_seq_length = 384;
  std::string rescore;     // file or directory of texts
  std::string output_dir;  // "" = no file
};
/// Error{kUsage} names the flag of a value out of range.
void check_attack_scores(const AttackScoreOptions& options);

/// Of one precision over all samples. Accuracies are 0-100, intervals 95 % (wilson_interval).
struct AttackScore {
  std::string precision;  // in words
  double clean_accuracy = 0, adversarial_accuracy = 0;
  Interval clean_interval, adversarial_interval;
  // random: of each draw; the accuracies above are their means
  std::vector<double> clean_draws, adversarial_draws;
};
struct AttackScores {
  AttackScore defended;                    // by the defence
  std::vector<AttackScore> per_precision;  // --precision, then --precisions
  std::uint64_t samples = 0, attacked = 0, fooled = 0;
  double mean_queries = 0;  // of those attacked
  std::string output_dir;
  Json special_tokens;            // text::TextEncoder's description
  double seconds_per_sample = 0;  // of this process's searching; 0: nothing was searched
};

/// Executions of one model at several precisions, and which answers a query.
class AttackTarget {
 public:
  /// model opened with its own precision; the first execution is at that one. Error{kUsage} where
  /// the defence has fewer than two precisions to draw from.
  AttackTarget(const ModelHandle& handle, const AttackScoreOptions& options, ParallelFor& parallel,
               Observer& observer);

  const runtime::Execution& own() const { return *executions_.front(); }
  /// Those of --precisions.
  const std::vector<std::shared_ptr<const runtime::Execution>>& set() const { return set_; }
  /// Plans of set().
  const std::vector<quant::PlanSpec>& plans() const { return plans_; }
  /// The execution of a request of a stream that is drawn by seed.
  const runtime::Execution& drawn(std::uint64_t request) const;
  /// own(), then those of set() that differ.
  const std::vector<std::shared_ptr<const runtime::Execution>>& all() const { return executions_; }

 private:
  std::vector<quant::PlanSpec> plans_;
  std::vector<std::shared_ptr<const runtime::Execution>> executions_, set_;
  quant::PrecisionDraws draws_;  // of random precision inference
};

/// Asks every execution about original and text of every record, on the packed runtime. A text
/// without tokens is classified rightly.
AttackScores score_attack(const AttackTarget& target, const text::TextEncoder& encoder,
                          const AttackScoreOptions& options,
                          const std::vector<AttackRecord>& records, ParallelFor& parallel,
                          Observer& observer);
/// The same for the texts of options.rescore.
AttackScores rescore_attack(const AttackScoreOptions& options, Observer& observer);

Json to_json(const AttackScores& scores);
/// attack_results.json, where there is an output directory.
void write_scores(const AttackScores& scores, const std::string& output_dir);

}  // namespace qalof::app
