// Classification of sequences: the class head applied to the hidden state of each sequence's last
// token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/request_executions.h"

namespace qalof::runtime {

/// Buffers kept between calls.
struct ClassifierWorkspace {
  GroupedWorkspace decoder;
  std::vector<float> hidden, last;
};

/// The number of classes of an execution's head. Error{kBadInput} where it has none.
std::size_t num_classes(const Execution& execution);

/// logits [sequences, classes]. Each sequence may have its own execution with its own head; its
/// logits are bitwise those it would get alone. Errors as forward's, and Error{kBadInput} where an
/// execution has no class head or one with another number of classes. profile may be null.
void class_logits(const Execution& execution, std::span<const Sequence> sequences,
                  ClassifierWorkspace& workspace, std::vector<float>& logits, ParallelFor& parallel,
                  Profile* profile = nullptr);

/// The class of the largest logit; the first of equals.
std::int32_t best_class(std::span<const float> logits);
/// -log softmax(logits)[label] in f64, nats.
double class_loss(std::span<const float> logits, std::int32_t label);

}  // namespace qalof::runtime
