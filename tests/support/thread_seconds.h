// CPU time of the calling thread: what a limit on work is checked with, on machines others share.
#pragma once

#include <ctime>

namespace qalof::testing {

inline double thread_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Bounds on time find work that is quadratic, which takes minutes, not slow machines. The
// sanitizers' own cost is no finding: where they watch, a bound is ten times as wide.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSanitizersTake = 10;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr double kSanitizersTake = 10;
#else
constexpr double kSanitizersTake = 1;
#endif
#else
constexpr double kSanitizersTake = 1;
#endif

// The CPU time of this thread since `start`, a value of thread_seconds(), with the sanitizers' cost
// taken off.
inline double thread_seconds_since(double start) {
  return (thread_seconds() - start) / kSanitizersTake;
}

}  // namespace qalof::testing
