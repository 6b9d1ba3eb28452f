// Wilson intervals, the paired bootstrap, means with errors, medians and rank correlation
// (formulas: statistics.h).
#include "core/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace qalof {

namespace {

std::vector<double> ranks(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t end = first + 1;
    while (end < order.size() && values[order[end]] == values[order[first]]) ++end;
    for (std::size_t i = first; i < end; ++i)
      result[order[i]] = static_cast<double>(first + end - 1) / 2;
    first = end;
  }
  return result;
}

}  // namespace

Interval wilson_interval(double share, std::uint64_t count) {
  if (count == 0) return {0, 1};
  constexpr double kZ = 1.959963984540054;  // 97.5 % quantile of the standard normal
  const auto n = static_cast<double>(count);
  const double scale = 1 / (1 + kZ * kZ / n);
  const double middle = (share + kZ * kZ / (2 * n)) * scale;
  const double half = kZ * scale * std::sqrt(share * (1 - share) / n + kZ * kZ / (4 * n * n));
  // At the ends the bound equals the share exactly; rounding could move it.
  return {share <= 0 ? 0 : std::max(0.0, middle - half),
          share >= 1 ? 1 : std::min(1.0, middle + half)};
}

PairedBootstrap::PairedBootstrap(std::size_t samples, std::uint64_t seed)
    : samples_(samples), counts_(kDraws * samples) {
  QALOF_CHECK(samples >= 1, ErrorKind::kInternal, "a bootstrap of no samples");
  const RandomStream stream(seed, "bootstrap");
  for (std::size_t draw = 0; draw < kDraws; ++draw) {
    for (std::size_t i = 0; i < samples; ++i)
      ++counts_[draw * samples + stream.below(samples, draw, i)];
  }
}

Interval PairedBootstrap::interval(std::span<const double> differences) const {
  QALOF_CHECK(differences.size() == samples_, ErrorKind::kInternal,
              "a bootstrap of {} samples: found {}", samples_, differences.size());
  std::vector<double> means(kDraws);
  for (std::size_t draw = 0; draw < kDraws; ++draw) {
    const std::uint16_t* counts = counts_.data() + draw * samples_;
    double sum = 0;
    for (std::size_t i = 0; i < samples_; ++i)
      sum += static_cast<double>(counts[i]) * differences[i];
    means[draw] = sum / static_cast<double>(samples_);
  }
  std::sort(means.begin(), means.end());
  return {means[kDraws / 40], means[kDraws - kDraws / 40 - 1]};
}

MeanAndError mean_and_error(std::span<const double> values) {
  const auto count = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  const double mean = sum / count;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, values.size() < 2 ? 0 : std::sqrt(squares / (count - 1) / count)};
}

double median(std::vector<double> values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double spearman(std::span<const double> a, std::span<const double> b) {
  QALOF_CHECK(a.size() == b.size(), ErrorKind::kInternal, "ranks of {} and of {} things", a.size(),
              b.size());
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double middle = (static_cast<double>(a.size()) - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - middle) * (y[i] - middle);
    xx += (x[i] - middle) * (x[i] - middle);
    yy += (y[i] - middle) * (y[i] - middle);
  }
  if (xx == 0 || yy == 0) return std::numeric_limits<double>::quiet_NaN();
  return xy / std::sqrt(xx * yy);
}

}  // namespace qalof
