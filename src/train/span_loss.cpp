// Cross entropy and distillation of start and end logits per window, with their gradient, in f64.
#include "train/span_loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/distribution.h"

namespace qalof::train {

SpanLoss span_loss(const SpanLossInputs& inputs, std::span<float> dlogits) {
  const Distillation& distillation = inputs.distillation;
  const std::size_t num_teachers = inputs.teachers.size();
  const double hard_weight = distillation.hard_weight(num_teachers);
  const double share = num_teachers > 0 ? distillation.share(num_teachers) : 0.0;
  const double weight = distillation.weight() * share;
  const double temperature = distillation.temperature;
  const bool is_kl = distillation.loss == KdLoss::kKl;
  const double half = 0.5 / inputs.normalizer;  // mean of start and end
  std::vector<double> log_p, log_student, log_teacher, dz;
  SpanLoss loss;
  for (std::size_t w = 0; w + 1 < inputs.offsets.size(); ++w) {
    const std::size_t first = 2 * inputs.offsets[w], count = 2 * inputs.offsets[w + 1] - first;
    const std::span<const float> logits = inputs.logits.subspan(first, count);
    for (std::size_t column = 0; column < 2; ++column) {
      const auto label = static_cast<std::size_t>(column == 0 ? inputs.starts[w] : inputs.ends[w]);
      runtime::log_softmax(logits, 2, column, 1.0, log_p);
      const std::size_t length = log_p.size();
      loss.hard -= 0.5 * log_p[label];
      loss.hits += std::max_element(log_p.begin(), log_p.end()) ==
                           log_p.begin() + static_cast<std::ptrdiff_t>(label)
                       ? 1
                       : 0;
      dz.resize(length);
      for (std::size_t t = 0; t < length; ++t)
        dz[t] = hard_weight * (std::exp(log_p[t]) - (t == label ? 1.0 : 0.0));
      if (is_kl && num_teachers > 0)
        runtime::log_softmax(logits, 2, column, temperature, log_student);
      for (const std::span<const float> all : inputs.teachers) {
        const std::span<const float> teacher = all.subspan(first, count);
        double sum = 0;
        if (is_kl) {
          runtime::log_softmax(teacher, 2, column, temperature, log_teacher);
          for (std::size_t t = 0; t < length; ++t) {
            const double p = std::exp(log_teacher[t]);
            sum += p * (log_teacher[t] - log_student[t]);
            dz[t] += weight * temperature * (std::exp(log_student[t]) - p);
          }
          loss.distillation += share * 0.5 * temperature * temperature * sum;
          continue;
        }
        for (std::size_t t = 0; t < length; ++t) {
          const double difference = static_cast<double>(logits[2 * t + column]) -
                                    static_cast<double>(teacher[2 * t + column]);
          sum += difference * difference;
          dz[t] += weight * 2.0 * difference / static_cast<double>(length);
        }
        loss.distillation += 0.5 * sum / static_cast<double>(length);
      }
      for (std::size_t t = 0; t < length; ++t)
        dlogits[first + 2 * t + column] = static_cast<float>(half * dz[t]);
    }
  }
  loss.total =
      (hard_weight * loss.hard + distillation.weight() * loss.distillation) / inputs.normalizer;
  return loss;
}

}  // namespace qalof::train
