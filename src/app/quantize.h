// qalof quantize: a packed file of given widths or a plan, with adapters, heads and tokenizer.
#pragma once

#include <string>
#include <vector>

#include "app/model_handle.h"

namespace qalof::app {

struct QuantizeOptions {
  ModelOptions model;  // precision: a plan whose widths are stored and which is active by default
  std::vector<int> bit_widths;    // every linear at each of these
  std::vector<int> lm_head_bits;  // LM heads to store; the first runs by default
  std::string output;
};
struct QuantizeResult {
  runtime::PackSummary summary;
  std::string output;
  std::string scheme;
};
QuantizeResult run_quantize(const QuantizeOptions& options, Observer& observer);

}  // namespace qalof::app
