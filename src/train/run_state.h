// Where a training run is: all it needs, beside its options and its data, to go on as if it had
// never stopped. Data only; app/train_checkpoint.h puts it into files.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "train/options.h"

namespace qalof::train {

struct AdamWState {
  std::vector<float> mean, square;  // as the flat parameters
  std::vector<std::int64_t> steps;  // [group]
};

/// Position in the data, learning rate and random numbers are functions of the number of steps, and
/// what a method remembers is a function of their records; so neither is stored.
struct RunState {
  /// Of every phase up to the one that trains, which is the last. Never empty.
  std::vector<std::vector<StepRecord>> steps;
  std::vector<float> values;  // flat parameters of that phase
  AdamWState optimizer;
  /// Adapters and heads of earlier phases: "w8.3.a", "w8.head.weight".
  std::map<std::string, NamedTensor> finished;

  std::int64_t global_step() const {
    std::int64_t sum = 0;
    for (const auto& phase : steps) sum += static_cast<std::int64_t>(phase.size());
    return sum;
  }
};

}  // namespace qalof::train
