// What a training run leaves on disk.
#pragma once

#include <string>

#include "app/train/run.h"

namespace qalof::app {

/// Writes adapters and qalof.json, or for `full` a Hugging Face directory, then all_results.json
/// and trainer_state.json.
void write_training_output(const TrainRunOptions& options, const ModelHandle& handle,
                           const TrainRunResult& result, const Json& trainer_state);
/// Writes a checkpoint of a run, by a rename at the end, and removes those beyond the limit.
/// Error{kResource}: the ones before are as they were; {kDiverged}: a weight is not finite.
void save_checkpoint(const TrainRunOptions& options, const ModelHandle& handle,
                     const Json& identity, const train::Checkpoint& point,
                     const Json& trainer_state);
/// A Hugging Face directory of named tensors with the base's config and tokenizer; label_names
/// become its id2label where there are any.
void write_model_directory(const std::string& path, const weights::BaseModel& base,
                           weights::HeadKind head_kind,
                           const std::map<std::string, train::NamedTensor>& tensors, bool bf16,
                           const std::vector<std::string>& label_names = {});

}  // namespace qalof::app
