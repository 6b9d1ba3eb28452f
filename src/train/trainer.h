// The training loop: draws windows, runs the phases of a method, and returns the trained weights.
// Not for: reading data, writing files, scoring (hooks do that).
#pragma once

#include <memory>
#include <span>

#include "train/options.h"
#include "weights/base_model.h"

namespace qalof::train {

/// Trains on a base, which is not changed. The same options, examples and number of threads give
/// the same bytes on CPU, resumed from a checkpoint or not. Throws Error{kUsage} for options that
/// contradict each other, {kBadInput} for windows the model cannot take or a hooks.resume that does
/// not fit, {kUnsupported} where the device or task is not available, {kResource} where memory runs
/// out, and {kDiverged} where nothing useful was learned: loss or gradient was not finite in five
/// consecutive steps, in all steps of a phase or in its last step (loss), or a weight or the
/// teacher's output is not finite. One run at a time per process: the number of PyTorch's threads
/// is process-wide.
TrainResult train(std::shared_ptr<const weights::BaseModel> base, const TrainOptions& options,
                  const Windows& examples, const TrainHooks& hooks);

}  // namespace qalof::train
