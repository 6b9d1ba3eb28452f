#include <torch/csrc/autograd/custom_function.h>

#include "train/loss_torch.h"
#include "train/span_loss.h"

namespace qalof::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Rows of LM logits held at a time: with a vocabulary of 50,257 each copy of them is 103 MB.
constexpr std::int64_t kLogitRows = 512;

std::span<const float> view_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

at::Tensor scalar(double value, const at::Tensor& like) {
  return at::full({}, value, like.options());
}

struct SpanLossFunction : torch::autograd::Function<SpanLossFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& logits, const at::Tensor& teacher,
                          const PackedBatch* batch, const Distillation* distillation,
                          double normalizer, LossParts* parts) {
    const at::Tensor on_cpu = logits.to(at::kCPU, at::kFloat).contiguous();
    const bool distill = teacher.numel() > 0;
    const at::Tensor teacher_on_cpu = teacher.to(at::kCPU, at::kFloat).contiguous();
    at::Tensor dlogits = at::empty_like(on_cpu);
    SpanLossInputs inputs;
    inputs.logits = view_of(on_cpu);
    if (distill) inputs.teacher_logits = view_of(teacher_on_cpu);
    inputs.offsets = batch->offsets;
    inputs.starts = batch->starts;
    inputs.ends = batch->ends;
    inputs.kd_alpha = distillation->alpha;
    inputs.kd_temperature = distillation->temperature;
    inputs.normalizer = normalizer;
    const SpanLoss loss = span_loss(
        inputs, {dlogits.mutable_data_ptr<float>(), static_cast<std::size_t>(dlogits.numel())});
    *parts = {loss.hard, loss.distillation, loss.total};
    ctx->save_for_backward({dlogits.to(logits.device(), logits.scalar_type())});
    return scalar(loss.total, logits);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    return {ctx->get_saved_variables()[0] * dy[0], {}, {}, {}, {}, {}};
  }
};

struct LmLossFunction : torch::autograd::Function<LmLossFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& hidden, const Variable& head,
                          const LmLossInputs* inputs, LossParts* parts) {
    const bool distill = inputs->teacher_hidden.defined();
    const bool head_trains = head.numel() > 0;
    const double temperature = inputs->distillation.temperature;
    const double alpha = distill ? inputs->distillation.alpha : 0.0;
    const auto index = at::TensorOptions().dtype(at::kLong);
    std::vector<std::int64_t> rows, targets;
    const PackedBatch& batch = *inputs->batch;
    for (std::size_t w = 0; w < batch.windows(); ++w) {
      for (std::size_t row = batch.offsets[w]; row + 1 < batch.offsets[w + 1]; ++row) {
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
      const at::Tensor log_p = at::log_softmax(logits, 1);
      sums.hard -= log_p.gather(1, chunk_targets).sum(at::kDouble).item<double>();
      at::Tensor dlogits = log_p.exp();
      dlogits.scatter_add_(1, chunk_targets, at::full({count, 1}, -1.0, dlogits.options()));
      dlogits.mul_((1.0 - alpha) / inputs->normalizer);
      if (distill) {
        const at::Tensor teacher_logits = inputs->graph->lm_logits(
            inputs->teacher_hidden.index_select(0, chunk_rows), *inputs->teacher_plan);
        const at::Tensor log_teacher = at::log_softmax(teacher_logits / temperature, 1);
        const at::Tensor log_student = at::log_softmax(logits / temperature, 1);
        const at::Tensor teacher = log_teacher.exp();
        sums.distillation +=
            temperature * temperature *
            (teacher * (log_teacher - log_student)).sum(at::kDouble).item<double>();
        dlogits.add_(log_student.exp() - teacher, alpha * temperature / inputs->normalizer);
      }
      dhidden.index_copy_(0, chunk_rows, inputs->graph->lm_hidden_gradient(dlogits, *inputs->plan));
      if (head_trains) inputs->graph->add_lm_head_gradient(dlogits, chunk, dhead);
    }
    sums.total = ((1.0 - alpha) * sums.hard + alpha * sums.distillation) / inputs->normalizer;
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

at::Tensor span_loss_of(const at::Tensor& logits, const at::Tensor& teacher_logits,
                        const PackedBatch& batch, const Distillation& distillation,
                        double normalizer, LossParts* parts) {
  const at::Tensor teacher = teacher_logits.defined() ? teacher_logits : at::empty({0});
  return SpanLossFunction::apply(logits, teacher, &batch, &distillation, normalizer, parts);
}

at::Tensor lm_loss_of(const at::Tensor& hidden, const LmLossInputs& inputs, LossParts* parts) {
  const at::Tensor parameter = inputs.graph->lm_head_parameter();
  return LmLossFunction::apply(hidden, parameter.defined() ? parameter : at::empty({0}), &inputs,
                               parts);
}

}  // namespace qalof::train
