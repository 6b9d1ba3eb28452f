// The policy of elastic precision. See elastic.h.
#include "serve/elastic.h"

namespace qalof::serve {

namespace {

double elastic_seconds(Elastic::Clock::time_point from, Elastic::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void Elastic::first_token(Clock::time_point now, double seconds) {
  recent_.emplace_back(now, seconds);
  recent_sum_ += seconds;
}

std::size_t Elastic::update(Clock::time_point now, double oldest_wait) {
  if (levels_ < 2) return 0;
  // What was served before says nothing about now: a queue that has just been worked off is over.
  while (!recent_.empty() && elastic_seconds(recent_.front().first, now) > kRecentSeconds) {
    recent_sum_ -= recent_.front().second;
    recent_.pop_front();
  }
  if (recent_.empty()) recent_sum_ = 0;
  const double mean = recent_.empty() ? 0 : recent_sum_ / static_cast<double>(recent_.size());
  const bool is_late = oldest_wait > target_ / 2 || mean > target_;
  const bool is_calm = oldest_wait < target_ / 4 && mean < target_ / 2;
  if (!is_calm) disturbed_ = now;
  if (is_late && level_ + 1 < levels_ && elastic_seconds(changed_, now) > target_ / 2) {
    ++level_;
    changed_ = now;
  } else if (is_calm && level_ > 0 && elastic_seconds(disturbed_, now) > kCalmSeconds &&
             elastic_seconds(changed_, now) > kCalmSeconds) {
    --level_;
    changed_ = now;
  }
  return level_;
}

}  // namespace qalof::serve
