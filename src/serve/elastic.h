// Elastic precision: when requests wait longer than they should, new ones run at fewer bits, and
// come back up when there is room again.
//
// The policy. Level 0 has the most bits. It rises by one where the oldest request in the queue has
// waited half of the target, or the mean time to the first token of those served in the last
// kRecentSeconds is above the target; again at the earliest half a target later. It falls by one
// after kCalmSeconds without a reason to rise and with waits and times below half of the target.
// Which level a request gets is decided when it leaves the queue, and holds to its end.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <utility>

namespace qalof::serve {

/// One thread at a time.
class Elastic {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr double kCalmSeconds = 2;
  static constexpr double kRecentSeconds = 1;

  /// levels 1: nothing is elastic.
  Elastic(std::size_t levels, std::chrono::milliseconds target)
      : levels_(levels), target_(std::chrono::duration<double>(target).count()) {}

  std::size_t level() const { return level_; }
  std::size_t levels() const { return levels_; }
  double target_seconds() const { return target_; }
  /// A request got its first token now, that long after it came.
  void first_token(Clock::time_point now, double seconds);
  /// How long the oldest request has waited; 0: none waits. Returns the level from now on.
  std::size_t update(Clock::time_point now, double oldest_wait);

 private:
  std::size_t levels_, level_ = 0;
  double target_;
  std::deque<std::pair<Clock::time_point, double>> recent_;  // times to first tokens
  double recent_sum_ = 0;
  Clock::time_point changed_{}, disturbed_{};
};

}  // namespace qalof::serve
