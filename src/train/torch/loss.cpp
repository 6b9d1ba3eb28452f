// Cross entropy and distillation for spans, classes and language models, in chunks of LM logits.
#include <torch/csrc/autograd/custom_function.h>

#include "train/span_loss.h"
#include "train/torch/loss.h"

namespace qalof::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Rows of LM logits held at a time; each copy takes 103 MB with a vocabulary of 50,257.
constexpr std::int64_t kLogitRows = 512;

std::span<const float> view_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

at::Tensor scalar(double value, const at::Tensor& like) {
  return at::full({}, value, like.options());
}

struct SpanLossFunction : torch::autograd::Function<SpanLossFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& logits,
                          const std::vector<at::Tensor>* teachers, const PackedBatch* batch,
                          const Distillation* distillation, double normalizer, LossParts* parts) {
    auto on_cpu = [](const at::Tensor& tensor) {
      return tensor.to(at::kCPU, at::kFloat).contiguous();
    };
    const at::Tensor student = on_cpu(logits);
    std::vector<at::Tensor> teachers_on_cpu;
    for (const at::Tensor& teacher : *teachers) teachers_on_cpu.push_back(on_cpu(teacher));
    at::Tensor dlogits = at::empty_like(student);
    SpanLossInputs inputs;
    inputs.logits = view_of(student);
    for (const at::Tensor& teacher : teachers_on_cpu) inputs.teachers.push_back(view_of(teacher));
    inputs.offsets = batch->offsets;
    inputs.starts = batch->starts;
    inputs.ends = batch->ends;
    inputs.distillation = *distillation;
    inputs.normalizer = normalizer;
    const SpanLoss loss = span_loss(
        inputs, {dlogits.mutable_data_ptr<float>(), static_cast<std::size_t>(dlogits.numel())});
    *parts = {loss.hard, loss.distillation, loss.total, loss.hits};
    ctx->save_for_backward({dlogits.to(logits.device(), logits.scalar_type())});
    return scalar(loss.total, logits);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    return {ctx->get_saved_variables()[0] * dy[0], {}, {}, {}, {}, {}};
  }
};

// Adds the cross entropy of logits [rows, outputs] against targets [rows, 1] to *hard; returns the
// gradient times scale.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, double scale,
                         double* hard) {
  const at::Tensor log_p = at::log_softmax(logits, 1);
  *hard -= log_p.gather(1, targets).sum(at::kDouble).item<double>();
  at::Tensor dlogits = log_p.exp();
  dlogits.scatter_add_(1, targets, at::full({logits.size(0), 1}, -1.0, dlogits.options()));
  return dlogits.mul_(scale);
}

// One teacher's distillation loss over logits [rows, vocab], weighted by its share only; adds the
// weighted gradient to dlogits.
double add_distillation(const at::Tensor& logits, const at::Tensor& teacher_logits,
                        const Distillation& distillation, double share, double normalizer,
                        at::Tensor& dlogits) {
  const double weight = distillation.weight() * share;
  if (distillation.loss == KdLoss::kMse) {
    const at::Tensor difference = logits - teacher_logits;
    const auto vocab = static_cast<double>(logits.size(1));
    dlogits.add_(difference, weight * 2.0 / (vocab * normalizer));
    return difference.square().sum(at::kDouble).item<double>() / vocab;
  }
  const double temperature = distillation.temperature;
  const at::Tensor log_teacher = at::log_softmax(teacher_logits / temperature, 1);
  const at::Tensor log_student = at::log_softmax(logits / temperature, 1);
  const at::Tensor teacher = log_teacher.exp();
  dlogits.add_(log_student.exp() - teacher, weight * temperature / normalizer);
  return share * temperature * temperature *
         (teacher * (log_teacher - log_student)).sum(at::kDouble).item<double>();
}

struct ClassLossFunction : torch::autograd::Function<ClassLossFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& logits,
                          const std::vector<at::Tensor>* teachers, const PackedBatch* batch,
                          const Distillation* distillation, double normalizer, LossParts* parts) {
    const double hard_weight = distillation->hard_weight(teachers->size());
    const std::vector<std::int64_t> labels(batch->labels.begin(), batch->labels.end());
    const at::Tensor targets = at::tensor(labels, at::kLong).to(logits.device()).unsqueeze(1);
    LossParts sums;
    at::Tensor dlogits = cross_entropy(logits, targets, hard_weight / normalizer, &sums.hard);
    sums.hits = static_cast<std::uint64_t>(
        logits.argmax(1, /*keepdim=*/true).eq(targets).sum().item<std::int64_t>());
    for (const at::Tensor& teacher : *teachers) {
      sums.distillation +=
          add_distillation(logits, teacher, *distillation, distillation->share(teachers->size()),
                           normalizer, dlogits);
    }
    sums.total =
        (hard_weight * sums.hard + distillation->weight() * sums.distillation) / normalizer;
    *parts = sums;
    ctx->save_for_backward({dlogits});
    return scalar(sums.total, logits);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    return {ctx->get_saved_variables()[0] * dy[0], {}, {}, {}, {}, {}};
  }
};

struct LmLossFunction : torch::autograd::Function<LmLossFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& hidden, const Variable& head,
                          const LmLossInputs* inputs, LossParts* parts) {
    const bool head_trains = head.numel() > 0;
    const Distillation& distillation = inputs->distillation;
    const double hard_weight = distillation.hard_weight(inputs->teachers.size());
    const auto index = at::TensorOptions().dtype(at::kLong);
    std::vector<std::int64_t> rows, targets;
    const PackedBatch& batch = *inputs->batch;
    for (std::size_t w = 0; w < batch.windows(); ++w) {
      for (std::size_t row = batch.offsets[w]; row + 1 < batch.offsets[w + 1]; ++row) {
        if (batch.scored[row + 1] == 0) continue;
        rows.push_back(static_cast<std::int64_t>(row));
        targets.push_back(batch.ids[row + 1]);
      }
    }
    const at::Tensor all_rows = at::tensor(rows, index).to(hidden.device());
    const at::Tensor all_targets = at::tensor(targets, index).to(hidden.device());
    at::Tensor dhidden = at::zeros_like(hidden);
    at::Tensor dhead = head_trains ? at::zeros_like(head) : at::Tensor();
    LossParts sums;
    const auto num_rows = static_cast<std::int64_t>(rows.size());
    for (std::int64_t first = 0; first < num_rows; first += kLogitRows) {
      const std::int64_t count = std::min(kLogitRows, num_rows - first);
      const at::Tensor chunk_rows = all_rows.narrow(0, first, count);
      const at::Tensor chunk_targets = all_targets.narrow(0, first, count).unsqueeze(1);
      const at::Tensor chunk = hidden.index_select(0, chunk_rows);
      const at::Tensor logits = inputs->graph->lm_logits(chunk, *inputs->plan);
      at::Tensor dlogits =
          cross_entropy(logits, chunk_targets, hard_weight / inputs->normalizer, &sums.hard);
      for (const LmTeacher& teacher : inputs->teachers) {
        sums.distillation += add_distillation(
            logits,
            teacher.graph->lm_logits(teacher.hidden.index_select(0, chunk_rows), *teacher.plan),
            distillation, distillation.share(inputs->teachers.size()), inputs->normalizer, dlogits);
      }
      inputs->graph->pass_logit_cap(logits, dlogits);
      dhidden.index_copy_(0, chunk_rows, inputs->graph->lm_hidden_gradient(dlogits, *inputs->plan));
      if (head_trains) inputs->graph->add_lm_head_gradient(dlogits, chunk, dhead);
    }
    sums.total =
        (hard_weight * sums.hard + distillation.weight() * sums.distillation) / inputs->normalizer;
    *parts = sums;
    ctx->save_for_backward({dhidden, dhead});
    return scalar(sums.total, hidden);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const variable_list saved = ctx->get_saved_variables();
    return {saved[0] * dy[0], saved[1].defined() ? saved[1] * dy[0] : at::Tensor(), {}, {}};
  }
};

}  // namespace

at::Tensor compute_span_loss(const at::Tensor& logits, const std::vector<at::Tensor>& teachers,
                             const PackedBatch& batch, const Distillation& distillation,
                             double normalizer, LossParts* parts) {
  return SpanLossFunction::apply(logits, &teachers, &batch, &distillation, normalizer, parts);
}

at::Tensor compute_class_loss(const at::Tensor& logits, const std::vector<at::Tensor>& teachers,
                              const PackedBatch& batch, const Distillation& distillation,
                              double normalizer, LossParts* parts) {
  return ClassLossFunction::apply(logits, &teachers, &batch, &distillation, normalizer, parts);
}

at::Tensor last_rows(const at::Tensor& hidden, const PackedBatch& batch) {
  std::vector<std::int64_t> rows;
  for (std::size_t w = 1; w < batch.offsets.size(); ++w)
    rows.push_back(static_cast<std::int64_t>(batch.offsets[w]) - 1);
  return hidden.index_select(0, at::tensor(rows, at::kLong).to(hidden.device()));
}

at::Tensor compute_lm_loss(const at::Tensor& hidden, const LmLossInputs& inputs, LossParts* parts) {
  const at::Tensor parameter = inputs.graph->lm_head_parameter();
  return LmLossFunction::apply(hidden, parameter.defined() ? parameter : at::empty({0}), &inputs,
                               parts);
}

}  // namespace qalof::train
