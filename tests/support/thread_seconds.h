// CPU time of the calling thread: what a limit on work is checked with, on machines others share.
#pragma once

#include <ctime>

namespace qalof::testing {

inline double thread_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace qalof::testing
