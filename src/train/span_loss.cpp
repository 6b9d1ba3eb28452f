#include "train/span_loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace qalof::train {

namespace {

// log softmax(z / temperature) of one column (0 start, 1 end) of a window's logits.
void log_softmax(std::span<const float> logits, std::size_t column, double temperature,
                 std::vector<double>& dst) {
  const std::size_t length = logits.size() / 2;
  dst.resize(length);
  double top = -HUGE_VAL;
  for (std::size_t t = 0; t < length; ++t) {
    dst[t] = static_cast<double>(logits[2 * t + column]) / temperature;
    top = std::max(top, dst[t]);
  }
  double sum = 0;
  for (const double value : dst) sum += std::exp(value - top);
  const double log_sum = top + std::log(sum);
  for (double& value : dst) value -= log_sum;
}

}  // namespace

SpanLoss span_loss(const SpanLossInputs& inputs, std::span<float> dlogits) {
  const bool distill = !inputs.teacher_logits.empty();
  const double alpha = distill ? inputs.kd_alpha : 0.0;
  const double temperature = inputs.kd_temperature;
  const double half = 0.5 / inputs.normalizer;  // mean of start and end
  std::vector<double> log_p, log_student, log_teacher;
  SpanLoss loss;
  for (std::size_t w = 0; w + 1 < inputs.offsets.size(); ++w) {
    const std::size_t first = 2 * inputs.offsets[w], count = 2 * inputs.offsets[w + 1] - first;
    const std::span<const float> logits = inputs.logits.subspan(first, count);
    const std::span<float> gradient = dlogits.subspan(first, count);
    for (std::size_t column = 0; column < 2; ++column) {
      const auto label = static_cast<std::size_t>(column == 0 ? inputs.starts[w] : inputs.ends[w]);
      log_softmax(logits, column, 1.0, log_p);
      loss.hard -= 0.5 * log_p[label];
      if (distill) {
        log_softmax(logits, column, temperature, log_student);
        log_softmax(inputs.teacher_logits.subspan(first, count), column, temperature, log_teacher);
      }
      double divergence = 0;
      for (std::size_t t = 0; t < log_p.size(); ++t) {
        double dz = (1.0 - alpha) * (std::exp(log_p[t]) - (t == label ? 1.0 : 0.0));
        if (distill) {
          const double teacher = std::exp(log_teacher[t]);
          divergence += teacher * (log_teacher[t] - log_student[t]);
          dz += alpha * temperature * (std::exp(log_student[t]) - teacher);
        }
        gradient[2 * t + column] = static_cast<float>(half * dz);
      }
      loss.distillation += 0.5 * temperature * temperature * divergence;
    }
  }
  loss.total = ((1.0 - alpha) * loss.hard + alpha * loss.distillation) / inputs.normalizer;
  return loss;
}

}  // namespace qalof::train
