// Softmax distributions of logits in double precision, for losses and distances.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace qalof::runtime {

/// dst [logits.size() / columns] = log softmax(z / temperature) of one column of logits
/// [rows, columns]; temperature > 0.
void log_softmax(std::span<const float> logits, std::size_t columns, std::size_t column,
                 double temperature, std::vector<double>& dst);

/// KL(p || q) in nats of two distributions given by their logarithms.
double kl_divergence(std::span<const double> log_p, std::span<const double> log_q);

}  // namespace qalof::runtime
