// The policy of elastic precision. See elastic.h.
#include "serve/elastic.h"

namespace qalof::serve {

namespace {

constexpr double kNewWeight = 0.3;

double elastic_seconds(Elastic::Clock::time_point from, Elastic::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void Elastic::first_token(double seconds) {
  mean_first_token_ += kNewWeight * (seconds - mean_first_token_);
  measured_ = Clock::now();
}

std::size_t Elastic::update(Clock::time_point now, double oldest_wait) {
  if (levels_ < 2) return 0;
  // Times of requests long served say nothing about now.
  if (oldest_wait == 0 && elastic_seconds(measured_, now) > kCalmSeconds) mean_first_token_ = 0;
  const bool is_late = oldest_wait > target_ / 2 || mean_first_token_ > target_;
  const bool is_calm = oldest_wait < target_ / 4 && mean_first_token_ < target_ / 2;
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
