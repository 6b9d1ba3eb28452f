// qalof quantize: writes a packed file of given widths or a plan, with adapters, heads and
// tokenizer.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/calibration.h"
#include "app/model_handle.h"
#include "app/post_training.h"

namespace qalof::app {

/// How codes are made. int8, llm_int8, nf4 and fp4 are shorthands for the schemes of these names.
enum class PtqMethod { kMinMax, kInt8, kLlmInt8, kNf4, kFp4, kSmoothQuant, kGptq };
/// Error{kUsage} lists the names.
PtqMethod parse_ptq_method(const std::string& name);

struct QuantizeOptions {
  ModelOptions model;  // precision: a plan whose widths are stored and which is active by default
  PtqMethod ptq = PtqMethod::kMinMax;
  bool double_quant = false;               // nf4, fp4: scales in 8 bits
  std::optional<float> outlier_threshold;  // llm_int8; none: 6
  CalibrationOptions calibration;          // smoothquant, gptq
  float smooth_alpha = 0.5F;               // smoothquant: exponent of the activations' range
  std::vector<int> bit_widths;             // every linear at each of these
  std::vector<int> lm_head_bits;           // LM heads to store; the first runs by default
  std::string output;
};
struct QuantizeResult {
  weights::PackSummary summary;
  std::string output;
  std::string scheme;
  std::vector<LayerError> layers;  // gptq
  Json special_tokens;             // text::TextEncoder's description; null: no texts were read
};
/// Writes the packed file: of several processes, which share the calibration, the one that leads.
/// Error{kUsage} for contradictory options or an output that is an input,
/// {kUnsupported} for methods that do not fit scheme or adapters; others as open_model,
/// calibration_windows and weights::write_packed_file.
QuantizeResult run_quantize(const QuantizeOptions& options, const Processes& processes);

}  // namespace qalof::app
