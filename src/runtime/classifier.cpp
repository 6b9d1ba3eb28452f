// Classification: gathers each sequence's last hidden state and applies its execution's class head.
#include "runtime/classifier.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace qalof::runtime {

namespace {

const weights::Head& head_of(const Execution& execution) {
  const weights::Head* head = execution.head(weights::HeadKind::kClass);
  QALOF_CHECK(head != nullptr, ErrorKind::kBadInput,
              "{}: neither the model nor an adapter holds a classification head (score); train one "
              "or give --adapter",
              execution.base().path());
  return *head;
}

}  // namespace

std::size_t num_classes(const Execution& execution) { return head_of(execution).outputs; }

void class_logits(const Execution& execution, std::span<const Sequence> sequences,
                  ClassifierWorkspace& workspace, std::vector<float>& logits, ParallelFor& parallel,
                  Profile* profile) {
  const std::size_t hidden = execution.base().config().hidden;
  const std::size_t classes = num_classes(execution);
  std::vector<const weights::Head*> heads;
  std::size_t tokens = 0;
  for (const Sequence& sequence : sequences) {
    heads.push_back(&head_of(sequence.execution != nullptr ? *sequence.execution : execution));
    QALOF_CHECK(heads.back()->outputs == classes, ErrorKind::kBadInput,
                "{}: heads of {} and of {} classes in one batch", execution.base().path(), classes,
                heads.back()->outputs);
    tokens += sequence.ids.size();
  }
  workspace.hidden.resize(tokens * hidden);
  forward_by_execution(execution, sequences, workspace.decoder, workspace.hidden.data(), parallel,
                       profile);
  workspace.last.resize(sequences.size() * hidden);
  logits.resize(sequences.size() * classes);
  std::size_t row = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    row += sequences[i].ids.size();
    std::copy_n(workspace.hidden.data() + (row - 1) * hidden, hidden,
                workspace.last.data() + i * hidden);
  }
  const Profile::Scope scope(profile, "class_head", workspace.last.size() * sizeof(float));
  for (std::size_t first = 0; first < heads.size();) {
    std::size_t end = first + 1;
    while (end < heads.size() && heads[end] == heads[first]) ++end;
    apply_head(*heads[first], workspace.last.data() + first * hidden, end - first, hidden,
               logits.data() + first * classes, parallel);
    first = end;
  }
}

std::int32_t best_class(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double class_loss(std::span<const float> logits, std::int32_t label) {
  const auto top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return std::log(sum) + top - static_cast<double>(logits[static_cast<std::size_t>(label)]);
}

}  // namespace qalof::runtime
