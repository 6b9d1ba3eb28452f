// qalof demo: the whole story on the shipped nano model, in a few minutes: what quantization costs,
// what adapters per width win back, and switching between them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"

namespace qalof::app {

struct DemoOptions {
  std::string output_dir = "out/demo";
  std::string assets;  // "" = assets/nano beside the program's source
  std::uint64_t seed = 42;
  std::int64_t lora_steps = 0;  // 0 = as many as the adapters get
  int threads = 0;
  std::function<bool()> should_stop;
};

struct DemoRow {
  std::string name;                // "FP LoRA", "PTQ 4", ...
  std::string precision;           // effective, in words
  double exact_match = 0, f1 = 0;  // 0-100
  double f1_standard_error = 0;    // of the mean over questions
  std::uint64_t samples = 0;
  double effective_bits = 0;  // per linear weight, scales included
  std::uint64_t bytes = 0;  // weights, scales, embeddings, adapter and head as they would be stored
  double seconds = 0;       // training (if any) and evaluation
};
struct DemoResult {
  std::vector<DemoRow> rows;
  double seconds = 0;
  double switch_microseconds = 0;  // choosing the other plan and adapter of a loaded model
  std::string report;              // path of report.md
  std::string page;                // path of report.html
};
DemoResult run_demo(const DemoOptions& options, Observer& observer);

Json to_json(const DemoRow& row);

}  // namespace qalof::app
