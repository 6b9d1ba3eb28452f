#include "train/torch_parallel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

namespace qalof::train {

TorchParallelFor::TorchParallelFor(int num_threads) : num_threads_(std::max(num_threads, 1)) {
  at::set_num_threads(num_threads_);
}

void TorchParallelFor::run(std::size_t num_tasks, const std::function<void(std::size_t)>& task) {
  if (num_tasks == 0) return;
  if (num_threads_ == 1 || num_tasks == 1) {
    for (std::size_t i = 0; i < num_tasks; ++i) task(i);
    return;
  }
  // Tasks differ in size (attention), so threads take the next one rather than a fixed share.
  std::atomic<std::size_t> next{0};
  at::parallel_for(0, num_threads_, /*grain_size=*/1, [&](std::int64_t, std::int64_t) {
    for (std::size_t i = next.fetch_add(1); i < num_tasks; i = next.fetch_add(1)) task(i);
  });
}

}  // namespace qalof::train
