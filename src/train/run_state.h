// The state of a training run: all it needs, besides its options and data, to resume as if it had
// never stopped. Data only; app/train/checkpoint.h writes and reads the files.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "train/options.h"

namespace qalof::train {

/// The state of AdamW.
struct AdamWState {
  std::vector<float> mean, square;  // ordered as the flat parameters
  std::vector<std::int64_t> steps;  // [group]
};

/// Not stored, because it follows from the step count: position in the data, learning rate and
/// random numbers. Nor what a method remembers, because it follows from the step records.
struct RunState {
  /// Step records of every phase up to the current one, which is the last. Never empty.
  std::vector<std::vector<StepRecord>> steps;
  std::vector<float> values;  // flat parameters of the current phase
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
