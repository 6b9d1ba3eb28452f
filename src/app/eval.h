// qalof eval: scores of a model, adapter and precision on the packed runtime.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "app/model_handle.h"
#include "app/processes.h"
#include "runtime/footprint.h"
#include "tasks/table.h"

namespace qalof::app {

struct EvalOptions {
  ModelOptions model;
  std::string task = tasks::kDefaultTask;
  tasks::TaskSet tasks;  // their options
  tasks::DataOptions data;
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
  tasks::Scores scores;
  runtime::Footprint footprint;
  runtime::Profile profile;
};
/// Shared by the processes, whose options are equal: the scores are those of one alone. The process
/// that leads writes the files of predictions.
EvalResult run_eval(const EvalOptions& options, const Processes& processes);

}  // namespace qalof::app
