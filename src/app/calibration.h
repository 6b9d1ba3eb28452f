// Token windows that post-training methods look at activations with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/span_features.h"
#include "text/text_encoder.h"

namespace qalof::app {

struct CalibrationOptions {
  std::string file;           // SQuAD JSON (qa) or UTF-8 text (lm)
  std::string task = "qa";    // qa, lm or classification
  std::size_t samples = 128;  // windows, the first of the file
  bool line_by_line = false;  // lm: every line is a document of its own
  text::SpanFeatureOptions features;
};

/// At most options.samples windows of at most positions tokens. Error{kUsage}, {kNotFound}, what
/// the readers say, or {kBadInput} where the file holds no window.
std::vector<std::vector<std::int32_t>> calibration_windows(const text::TextEncoder& encoder,
                                                           const CalibrationOptions& options,
                                                           std::size_t positions);

}  // namespace qalof::app
