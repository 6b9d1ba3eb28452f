// Hidden-state distillation by a custom autograd function; contrastive distillation in ATen.
#include <torch/csrc/autograd/custom_function.h>

#include "train/torch/feature_loss.h"

namespace qalof::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// 1 / |t|^2 of every row t, in f32; a row of zeros counts as one of tiny numbers.
at::Tensor inverse_squares(const at::Tensor& rows) {
  const at::Tensor squares = rows.square().sum({1}, /*keepdim=*/true, at::kDouble);
  return squares.clamp_min(1e-12).reciprocal().to(at::kFloat);
}

// weight * sum over rows of |x - teacher|^2 / |teacher|^2. A custom function, because autograd
// would keep the difference of every block, and because the sum runs in f64.
struct RelativeErrorFunction : torch::autograd::Function<RelativeErrorFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const at::Tensor& teacher,
                          double weight, double* value) {
    const at::Tensor errors = (x - teacher).square().sum({1}, /*keepdim=*/true, at::kDouble);
    const double sum = (errors * inverse_squares(teacher)).sum().item<double>();
    *value += weight * sum;
    ctx->save_for_backward({x, teacher});
    ctx->saved_data["weight"] = weight;
    return at::full({}, weight * sum, x.options());
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const variable_list saved = ctx->get_saved_variables();
    const double weight = ctx->saved_data["weight"].toDouble();
    const at::Tensor scale = inverse_squares(saved[1]).to(saved[1].scalar_type());
    return {(saved[0] - saved[1]).mul_(scale).mul_(2.0 * weight * dy[0]), {}, {}, {}};
  }
};

at::Tensor unit_rows(const at::Tensor& x) {
  return x / x.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-12);
}

}  // namespace

at::Tensor compute_hidden_loss(const std::vector<at::Tensor>& blocks,
                               const std::vector<const std::vector<at::Tensor>*>& teachers,
                               double normalizer, double* value) {
  at::Tensor loss = at::zeros({}, blocks.front().options());
  const double weight = 1.0 / (static_cast<double>(blocks.size()) * normalizer);
  for (const std::vector<at::Tensor>* teacher : teachers) {
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      loss = loss + RelativeErrorFunction::apply(blocks[i], (*teacher)[i], weight, value);
    }
  }
  return loss;
}

at::Tensor compute_contrastive_loss(const at::Tensor& hidden,
                                    const std::vector<at::Tensor>& teachers, double temperature,
                                    double weight, double* value) {
  const std::int64_t tokens = hidden.size(0), count = std::min(tokens, kContrastedTokens);
  const at::Tensor rows =
      (at::arange(count, at::kLong) * tokens).floor_divide(count).to(hidden.device());
  const at::Tensor student = unit_rows(hidden.index_select(0, rows)) / temperature;
  at::Tensor loss = at::zeros({}, hidden.options());
  for (const at::Tensor& teacher : teachers) {
    const at::Tensor logits = student.mm(unit_rows(teacher.index_select(0, rows)).t());
    const at::Tensor own = at::log_softmax(logits, 1).diagonal();
    *value -= weight * own.detach().mean(at::kDouble).item<double>();
    loss = loss - own.mean() * weight;
  }
  return loss;
}

}  // namespace qalof::train
