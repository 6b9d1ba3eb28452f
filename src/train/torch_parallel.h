// The ParallelFor of training: PyTorch's own threads, so that kernels and ATen share one pool.
#pragma once

#include "core/threads.h"

namespace qalof::train {

/// Runs tasks by at::parallel_for. The number of threads is PyTorch's, process-wide.
class TorchParallelFor final : public ParallelFor {
 public:
  /// Sets PyTorch's number of threads, at least 1.
  explicit TorchParallelFor(int num_threads);
  int num_threads() const override { return num_threads_; }
  void run(std::size_t num_tasks, const std::function<void(std::size_t)>& task) override;

 private:
  int num_threads_;
};

}  // namespace qalof::train
