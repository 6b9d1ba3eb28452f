// qalof attack: searches for texts that classifiers get wrong (docs/attack.md).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "app/attack/attack.h"
#include "app/processes.h"
#include "train/attack.h"

namespace qalof::app {

struct AttackRunOptions {
  AttackScoreOptions score;     // its output_dir takes the texts; rescore is not read
  std::string reference_model;  // a directory of a language model
  std::string validation_file;
  std::uint64_t num_samples = 0;  // the first N texts; 0 = all
  std::string idf_file;   // texts whose frequencies weight tokens in the similarity; "" = none
  bool adaptive = false;  // attacks the mean of score.precisions
  std::uint64_t queries = 100;  // the most hard samples to query
  std::size_t batch_size = 4;   // texts attacked together; changes no text
  bool overwrite_output_dir = false;
  train::AttackOptions attack;
  train::Device device = train::Device::kCpu;
  std::function<bool()> should_stop;  // called between iterations; may be empty
};

/// Attacks every text that is classified correctly, queries hard samples as texts on the packed
/// runtime, keeps the first that fools all queried networks, else the best, and scores the result.
/// The same options give the same bytes for any number of threads; a stopped run can be resumed.
/// Locks the output directory. Error{kUsage} for contradictory options, {kBadInput} for tokens that
/// are not the reference's, {kInterrupted} where should_stop returns true; others as
/// train::Attacker's.
/// Shared by the processes, whose options are equal; the one that leads writes and has the scores.
AttackScores run_attack(const AttackRunOptions& options, const Processes& processes);

}  // namespace qalof::app
