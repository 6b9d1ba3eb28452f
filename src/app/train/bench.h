// qalof bench train: speed of a training step on this machine, on random windows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/model_handle.h"
#include "train/options.h"

namespace qalof::app {

struct TrainBenchOptions {
  ModelOptions model;         // precision: the plan to train in; adapter is not used
  std::size_t batch = 16;     // windows of a step
  std::size_t tokens = 256;   // per window; at most, with a file
  int repeats = 5;            // steps measured, after one warm-up
  std::string train_file;     // "" = random windows, else windows of this SQuAD file
  train::TrainOptions train;  // rank, backward pass and the like
};
struct TrainBenchResult {
  std::string precision;      // effective, in words
  int threads = 0;            // of each process
  std::size_t processes = 1;  // that a launcher started
  std::size_t rank = 0;       // of this one; others than 0 report nothing
  std::string isa;
  std::vector<train::StepRecord> steps;  // in the order measured, without the warm-up
  std::uint64_t tokens = 0;              // of all of them
  double seconds = 0;                    // median of a step
  double tokens_per_second = 0;          // median over steps
};

/// One LoRA per linear in the plan. Started by a launcher, processes share a step's windows.
/// Error{kUsage} for numbers out of range.
TrainBenchResult run_train_bench(const TrainBenchOptions& options, Observer& observer);

}  // namespace qalof::app
