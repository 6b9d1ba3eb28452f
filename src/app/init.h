// qalof init: writes a model directory with random weights N(0, initializer_range), biases 0, norms
// 1, and a question-answering head unless the config names the class with an LM head.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"

namespace qalof::app {

struct InitOptions {
  std::string model_type = "gpt2";
  std::string size;            // "124M" ...; or
  std::string config_name;     // a config.json or a directory holding one
  std::string tokenizer_name;  // directory whose tokenizer files are copied; "" = none
  std::string output_dir;
  std::uint64_t seed = 42;
  bool bf16 = false;  // store bfloat16 instead of f32
  bool overwrite = false;
};
struct InitResult {
  std::uint64_t parameters = 0;
  std::string output_dir;
};
/// The model families of --model_type, and the sizes of each: "gpt2: 124M, 355M; llama: 1B".
std::vector<std::string> init_families();
std::string init_sizes();
/// Writes the directory; the same options give the same bytes on any number of threads.
/// Error{kUsage} for contradictory options or an existing model without overwrite; {kNotFound} or
/// {kBadInput} for configs and tokenizers.
InitResult run_init(const InitOptions& options, Observer& observer);

}  // namespace qalof::app
