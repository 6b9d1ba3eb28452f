// qalof eval: scores of a model, adapter and precision on the packed runtime.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "app/classification_evaluation.h"
#include "app/lm_evaluation.h"
#include "app/model_handle.h"
#include "app/qa_evaluation.h"
#include "runtime/footprint.h"

namespace qalof::app {

struct EvalOptions {
  ModelOptions model;
  std::string task = "qa";
  QaEvaluationOptions qa;  // validation_file, max_eval_samples and output_dir serve every task
  LmEvaluationOptions lm;
  bool profile = false;
};
/// What random precision drew.
struct RandomDraws {
  std::uint64_t seed = 0;
  std::map<std::string, std::uint64_t> requests;  // or layers, by precision
};
struct EvalResult {
  std::string precision;  // effective, in words
  Json special_tokens;    // text::TextEncoder's description
  std::optional<RandomDraws> draws;
  std::optional<QaScores> qa;
  std::optional<LmScores> lm;
  std::optional<ClassificationScores> classification;
  double tokens_per_second = 0;
  runtime::Footprint footprint;
  runtime::Profile profile;
};
EvalResult run_eval(const EvalOptions& options, Observer& observer);

}  // namespace qalof::app
