// Token windows whose activations post-training methods calibrate on.
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
  std::size_t samples = 128;  // number of windows, from the start of the file
  bool line_by_line = false;  // lm: every line is a separate document
  text::SpanFeatureOptions features;
};

/// At most options.samples windows of at most positions tokens. Error{kUsage}, {kNotFound}, errors
/// of the file's reader, or {kBadInput} where the file holds no window.
std::vector<std::vector<std::int32_t>> calibration_windows(const text::TextEncoder& encoder,
                                                           const CalibrationOptions& options,
                                                           std::size_t positions);

}  // namespace qalof::app
