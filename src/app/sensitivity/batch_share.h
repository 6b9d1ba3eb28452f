// Divides a batch's samples among the processes of a run, and puts their scores together.
#pragma once

#include <memory>
#include <vector>

#include "app/sensitivity/state.h"
#include "core/process_group.h"
#include "tasks/samples.h"

namespace qalof::app {

/// What this process computes of a batch: whole samples, about equally many tokens in each process.
/// A sample's scores do not depend on the samples beside it, so neither do those of a batch on the
/// number of processes. Every process of the group makes the same calls. Not thread-safe.
class BatchShare {
 public:
  /// The batch must outlive this object. A null group: all of it.
  BatchShare(const tasks::SampleBatch& batch, ProcessGroup* group);
  /// Null where there are fewer samples than processes and none is left for this one.
  const tasks::SampleBatch* own() const { return own_; }
  /// Passes over the whole batch from those over own(), which are empty where that is null. Speeds
  /// are the sums of the processes'.
  std::vector<MeasuredPass> merged(const std::vector<MeasuredPass>& own) const;

 private:
  ProcessGroup* group_;
  std::vector<std::size_t> ranks_;  // of samples
  std::unique_ptr<tasks::SampleBatch> part_;
  const tasks::SampleBatch* own_ = nullptr;
};

}  // namespace qalof::app
