// What a training run leaves on disk.
#pragma once

#include <string>

#include "app/train_run.h"

namespace qalof::app {

/// Writes adapters and qalof.json, or for `full` a Hugging Face directory, then all_results.json
/// and trainer_state.json.
void write_training_output(const TrainRunOptions& options, const ModelHandle& handle,
                           const TrainRunResult& result);
/// A Hugging Face directory of named tensors with the base's config and tokenizer.
void write_model_directory(const std::string& path, const runtime::BaseModel& base,
                           runtime::Task task,
                           const std::map<std::string, train::NamedTensor>& tensors, bool bf16);

}  // namespace qalof::app
