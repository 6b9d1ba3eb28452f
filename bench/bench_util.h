// Shared by the speed measurements: random numbers and counters.
#pragma once

#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "kernels/isa.h"

namespace qalof::bench {

inline std::vector<float> random_floats(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> result(count);
  for (float& value : result) value = normal(random);
  return result;
}

inline std::vector<std::int8_t> random_codes(std::size_t count, int level) {
  std::mt19937 random(2);
  std::uniform_int_distribution<int> uniform(-level, level);
  std::vector<std::int8_t> result(count);
  for (std::int8_t& code : result) code = static_cast<std::int8_t>(uniform(random));
  return result;
}

inline void count_operations(benchmark::State& state, double per_iteration) {
  state.counters["Gop/s"] =
      benchmark::Counter(per_iteration * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(to_string(kernels::active_isa())));
}

}  // namespace qalof::bench
