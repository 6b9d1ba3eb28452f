// Statistics of measurements: intervals of proportions and means, errors, medians, rank
// correlation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace qalof {

struct Interval {
  double low = 0, high = 0;
};

/// 95 % interval of a probability (Wilson 1927) from the share of successes in count trials; it has
/// positive width even where the share is 0 or 1. For a mean of count numbers in [0, 1] it is
/// conservative. {0, 1} where count is 0.
Interval wilson_interval(double share, std::uint64_t count);

/// Percentile bootstrap (Efron 1979) of the mean over samples. All quantities measured on the
/// samples use one set of draws, so that their differences are paired. Immutable.
class PairedBootstrap {
 public:
  static constexpr std::size_t kDraws = 2000;
  static constexpr std::uint64_t kSeed = 20240229;
  /// samples >= 1; the draws are a function of samples and seed.
  explicit PairedBootstrap(std::size_t samples, std::uint64_t seed = kSeed);
  /// 95 % interval of the mean of differences [samples].
  Interval interval(std::span<const double> differences) const;

 private:
  std::size_t samples_;
  std::vector<std::uint16_t> counts_;  // [draw, sample]
};

/// Mean and standard error of the mean; the error of one value is 0.
struct MeanAndError {
  double mean = 0, error = 0;
};
MeanAndError mean_and_error(std::span<const double> values);

/// The middle value, or the mean of the two; NaN of none.
double median(std::vector<double> values);

/// Spearman's rank correlation of two measurements [n] of the same items; tied values share their
/// mean rank. NaN where n < 2 or all values of one side are equal.
double spearman(std::span<const double> a, std::span<const double> b);

}  // namespace qalof
