// --teacher and --adapter: the network that teaches a training run, and that from which it starts.
#pragma once

#include <memory>
#include <string>

#include "app/train/run.h"

namespace qalof::app {

/// TrainRunOptions::teacher that names no directory: a higher width teaches.
inline constexpr const char* kTeacherSelf = "self";

/// Opens a directory: adapters (qalof.json or adapter_config.json) on the student's base, else a
/// model. It runs as `eval` would run it, in the precision it was trained in. Error{kNotFound};
/// {kBadInput} where its tokens are not the student's or its shape does not fit the losses.
std::shared_ptr<const train::TeacherModel> open_teacher(const TrainRunOptions& options,
                                                        const ModelHandle& student,
                                                        Observer& observer);
/// Error{kBadInput} where a token of other is not that of model; where names other.
void check_same_tokens(const std::string& where, const text::BpeTokenizer& other,
                       const text::BpeTokenizer& model);
/// What makes a teacher another one: for run_identity. Null without a teacher.
Json teacher_identity(const TrainRunOptions& options);

/// The adapters that TrainRunOptions::adapter names. Error{kNotFound}, {kBadInput}.
std::shared_ptr<const weights::AdapterSet> open_start(const TrainRunOptions& options,
                                                      const ModelHandle& model, Observer& observer);

}  // namespace qalof::app
