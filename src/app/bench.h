// qalof bench prefill and decode: speed of the packed runtime on this machine. `bench train` is in
// app/train/bench.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/model_handle.h"
#include "runtime/profile.h"

namespace qalof::app {

enum class BenchKind { kPrefill, kDecode };

struct BenchOptions {
  ModelOptions model;
  BenchKind kind = BenchKind::kPrefill;
  std::size_t prompt_tokens = 512;  // per sequence
  std::size_t new_tokens = 64;      // decode: per sequence
  std::size_t batch = 1;            // sequences at once
  int repeats = 5;                  // after one warm-up
  std::size_t requests = 0;         // random precision: per repeat; 0 = 8 batches per width
  bool all_logits = false;          // prefill: the LM head on every token instead of the last
  bool profile = false;
};
/// Random precision compared with its widths, whose speeds are measured in the same repeats.
struct RandomBench {
  std::uint64_t seed = 0;
  std::size_t requests = 0;  // of one repeat
  struct Width {
    std::string precision;
    std::uint64_t draws = 0;  // of the requests
    double tokens_per_second = 0;
  };
  std::vector<Width> widths;
  double harmonic_mean = 0;  // tokens per second of the same requests at their widths' own speeds
  double ratio = 0;          // measured speed / harmonic_mean
};
struct BenchResult {
  std::string precision;  // description of the effective precision
  int lm_head_bits = 0;
  int threads = 0;
  std::string isa;
  std::uint64_t tokens = 0;         // of one repeat: prompt tokens, or new ones, of all sequences
  double seconds = 0;               // median
  std::vector<double> all_seconds;  // in the order measured
  double tokens_per_second = 0;     // tokens / median
  std::optional<RandomBench> random;
  std::size_t kv_bytes = 0;  // of one sequence's cache
  runtime::Profile profile;  // of all repeats
};

/// Runs on random prompts, the same in every run. Error{kUsage} for numbers out of range, including
/// sequences longer than the model's positions.
///
/// Random precision serves requests in order: those of one width wait until `batch` of them can run
/// together; incomplete batches run at the end.
BenchResult run_bench(const BenchOptions& options, Observer& observer);

}  // namespace qalof::app
