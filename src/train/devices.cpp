// One process a GPU. See devices.h.
#include "train/devices.h"

#include <map>

#include "core/error.h"

namespace qalof::train {

std::size_t device_of(const Launch& launch, std::size_t count) {
  QALOF_CHECK(launch.local_rank < count, ErrorKind::kUsage,
              "--device cuda: rank {} is process {} of its machine, which has {} GPU{}; expected "
              "at most one process a GPU",
              launch.rank, launch.local_rank + 1, count, count == 1 ? "" : "s");
  return launch.local_rank;
}

void check_own_devices(std::span<const std::string> names) {
  std::map<std::string, std::size_t> ranks;
  for (std::size_t rank = 0; rank < names.size(); ++rank) {
    const auto [first, is_new] = ranks.emplace(names[rank], rank);
    QALOF_CHECK(is_new, ErrorKind::kUsage,
                "--device cuda: ranks {} and {} have the same GPU, {}; expected one process a GPU "
                "(LOCAL_RANK and CUDA_VISIBLE_DEVICES choose it)",
                first->second, rank, names[rank]);
  }
}

}  // namespace qalof::train
