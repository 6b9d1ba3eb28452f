// Training windows: those of a task's file, or documents that the model writes itself.
#pragma once

#include "app/train/run.h"
#include "tasks/windows.h"

namespace qalof::app {

/// --train_file that names no file: the model in full precision writes the text
/// (app/train/self_text.h).
inline constexpr const char* kTrainFileSelf = "self";
/// Name of that text's file in the output directory.
inline constexpr const char* kSelfTextFile = "self_text.jsonl";

/// Adds the windows that a run trains on, as its options say. Text that the model writes is read
/// from kSelfTextFile where the same run has left it in the output directory, else written to it.
void load_windows(const TrainRunOptions& options, const ModelHandle& handle,
                  const text::TextEncoder& encoder, Observer& observer, tasks::WindowFile& windows);

}  // namespace qalof::app
