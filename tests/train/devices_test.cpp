// Each process of a run has a GPU of its own; what is not so is refused by name.
#include "train/devices.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/error.h"
#include "support/error_of.h"

namespace qalof::train {
namespace devices_test {

using qalof::testing::error_of;

Launch place(std::size_t rank, std::size_t local_rank) {
  Launch launch;
  launch.rank = rank;
  launch.size = 8;
  launch.local_rank = local_rank;
  launch.local_size = 4;
  return launch;
}

TEST(Devices, AProcessHasTheGpuOfItsNumberOnTheMachine) {
  EXPECT_EQ(device_of(place(6, 2), 4), 2U);
  EXPECT_EQ(device_of(place(0, 0), 1), 0U);
  const auto error = error_of([] { device_of(place(5, 1), 1); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_EQ(error.message,
            "--device cuda: rank 5 is process 2 of its machine, which has 1 GPU; expected at most "
            "one process a GPU");
}

TEST(Devices, TwoProcessesOnOneAreRefusedByName) {
  check_own_devices(std::vector<std::string>{"GPU-a", "GPU-b", "GPU-c"});
  const auto error = error_of([] {
    check_own_devices(std::vector<std::string>{"GPU-a", "GPU-b", "GPU-c", "GPU-b"});
  });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_EQ(error.message,
            "--device cuda: ranks 1 and 3 have the same GPU, GPU-b; expected one process a GPU "
            "(LOCAL_RANK and CUDA_VISIBLE_DEVICES choose it)");
}

}  // namespace devices_test
}  // namespace qalof::train
