// The training loop: draws windows, runs the phases of a method, and hands back what was learned.
// Not for: reading data, writing files, scoring (hooks do that).
#pragma once

#include <memory>
#include <span>

#include "train/options.h"
#include "weights/base_model.h"

namespace qalof::train {

/// Trains on a base that stays as it is. The same options, examples and number of threads give the
/// same bytes on CPU, resumed from a checkpoint or not. Throws Error{kUsage} for options that
/// contradict each other, {kBadInput} for windows the model cannot take, {kUnsupported} where the
/// device or task is not available, and {kResource} where memory ends, {kBadInput} where
/// hooks.resume does not fit, and {kDiverged} where nothing useful was learned: after five steps in
/// a row whose loss or gradient is not finite, at the end of a phase whose steps were all so or
/// whose last loss is, where a weight is not finite, or the teacher's output. One run at a time per
/// process: the number of PyTorch's threads is process-wide.
TrainResult train(std::shared_ptr<const weights::BaseModel> base, const TrainOptions& options,
                  std::span<const Example> examples, const TrainHooks& hooks);

}  // namespace qalof::train
