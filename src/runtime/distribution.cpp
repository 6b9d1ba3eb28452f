// Log-softmax of one logit column and KL divergence, summed in double precision.
#include "runtime/distribution.h"

#include <algorithm>
#include <cmath>

namespace qalof::runtime {

void log_softmax(std::span<const float> logits, std::size_t columns, std::size_t column,
                 double temperature, std::vector<double>& dst) {
  dst.resize(logits.size() / columns);
  double top = -HUGE_VAL;
  for (std::size_t row = 0; row < dst.size(); ++row) {
    dst[row] = static_cast<double>(logits[columns * row + column]) / temperature;
    top = std::max(top, dst[row]);
  }
  double sum = 0;
  for (const double value : dst) sum += std::exp(value - top);
  const double log_sum = top + std::log(sum);
  for (double& value : dst) value -= log_sum;
}

double kl_divergence(std::span<const double> log_p, std::span<const double> log_q) {
  double sum = 0;
  for (std::size_t i = 0; i < log_p.size(); ++i) sum += std::exp(log_p[i]) * (log_p[i] - log_q[i]);
  return sum;
}

}  // namespace qalof::runtime
