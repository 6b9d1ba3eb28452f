// The contents of a training run's checkpoints (docs/file_formats.md, "Checkpoint"), and what makes
// two runs the same.
#pragma once

#include <string>

#include "app/train/run.h"
#include "train/run_state.h"

namespace qalof::app {

/// Everything that decides the numbers of a run: the flags that change them, and what the files
/// they name hold. Threads, logging and the like are not in it.
Json run_identity(const TrainRunOptions& options, const ModelHandle& handle,
                  const text::TextEncoder& encoder);
/// The differences in words ("--seed is 1 there and 2 here"), or "" where there are none.
std::string identity_difference(const Json& there, const Json& here);

/// {"min_bits", "probes": [{"bits", "first_loss", "last_loss"}]}, and back.
Json to_json(const train::RangeTest& test);
train::RangeTest read_range_test(const Json& json, const std::string& where);

void write_run_state(const std::string& path, const train::RunState& state);
/// Error{kCorruptFile}, {kBadInput}: the file is not what write_run_state writes.
train::RunState read_run_state(const std::string& path);

}  // namespace qalof::app
