#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "train/attack_loss_torch.h"

namespace qalof::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Rows of scores held at a time: with a vocabulary of 50,000 tokens they are 50 MB.
constexpr std::int64_t kScoreRows = 256;

bool is_kernel_tensor(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat;
}

at::Tensor indices(const std::vector<std::int64_t>& values, const at::Tensor& like) {
  return at::tensor(values, at::kLong).to(like.device());
}

// Values of rows [tokens, hidden] against the token after each; gradients of the sum with weights.
struct FluencyFunction : torch::autograd::Function<FluencyFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& hidden, const Variable& mixed,
                          const PackedBatch* batch, const TokenMatrix* tokens) {
    std::vector<std::int64_t> rows, windows;
    std::vector<double> shares;
    for (std::size_t w = 0; w < batch->windows(); ++w) {
      const std::size_t predicted = batch->offsets[w + 1] - batch->offsets[w] - 1;
      for (std::size_t i = 0; i < predicted; ++i) {
        rows.push_back(static_cast<std::int64_t>(batch->offsets[w] + i));
        windows.push_back(static_cast<std::int64_t>(w));
        shares.push_back(1.0 / static_cast<double>(predicted));
      }
    }
    const at::Tensor row = indices(rows, hidden), window = indices(windows, hidden);
    const at::Tensor share =
        at::tensor(shares, at::kDouble).to(hidden.device(), hidden.scalar_type());
    const at::Tensor x = hidden.index_select(0, row).contiguous();
    const at::Tensor next = mixed.index_select(0, row + 1);
    const auto count = static_cast<std::int64_t>(rows.size());
    at::Tensor scores = at::empty({std::min(count, kScoreRows), tokens->vocab()}, hidden.options());
    at::Tensor values = at::empty({count}, hidden.options());
    std::vector<at::Tensor> expected = {at::zeros({0, x.size(1)}, x.options())};
    for (std::int64_t first = 0; first < count; first += kScoreRows) {
      const std::int64_t part = std::min(kScoreRows, count - first);
      at::Tensor z = scores.narrow(0, 0, part);
      tokens->scores(x.narrow(0, first, part), z, /*add=*/false);
      constexpr std::int64_t kTaskRows = 8;
      for_rows(part, kTaskRows, tokens->parallel(), [&](std::int64_t begin, std::int64_t size) {
        at::Tensor mine = z.narrow(0, begin, size);
        const at::Tensor top = mine.amax({1}, /*keepdim=*/true);
        mine.sub_(top).exp_();
        const at::Tensor sum = mine.sum({1}, /*keepdim=*/true);
        mine.div_(sum);
        values.narrow(0, first + begin, size).copy_(sum.log().add_(top).squeeze(1));
      });
      expected.push_back(tokens->mix(z));
    }
    // log sum exp(x E^T) - x . mixed
    values.sub_((x * next).sum({1})).mul_(share);
    const at::Tensor weight = share.unsqueeze(1);
    ctx->save_for_backward(
        {(at::cat(expected, 0) - next).mul_(weight), x.mul(weight).neg_(), row, window});
    return at::zeros({static_cast<std::int64_t>(batch->windows())}, hidden.options())
        .index_add(0, window, values);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& row = saved[2];
    const at::Tensor scale = dy[0].index_select(0, saved[3]).unsqueeze(1);
    const std::int64_t tokens = row.size(0) + dy[0].size(0);
    auto placed = [&](const at::Tensor& values, const at::Tensor& at_rows) {
      return at::zeros({tokens, values.size(1)}, values.options())
          .index_copy(0, at_rows, values * scale);
    };
    return {placed(saved[0], row), placed(saved[1], row + 1), {}, {}};
  }
};

}  // namespace

void for_rows(std::int64_t rows, std::int64_t size, ParallelFor& parallel,
              const std::function<void(std::int64_t first, std::int64_t count)>& task) {
  const auto tasks = static_cast<std::size_t>((rows + size - 1) / size);
  parallel.run(tasks, [&](std::size_t index) {
    const at::NoGradGuard no_grad;  // of this thread
    const std::int64_t first = static_cast<std::int64_t>(index) * size;
    task(first, std::min(size, rows - first));
  });
}

TokenMatrix::TokenMatrix(const at::Tensor& table, ParallelFor& parallel)
    : table_(table.detach().contiguous()), parallel_(parallel) {
  if (!is_kernel_tensor(table_)) return;
  const auto vocab = static_cast<std::size_t>(table_.size(0));
  const auto hidden = static_cast<std::size_t>(table_.size(1));
  const float* values = table_.const_data_ptr<float>();
  mix_matrix_ = pack_right({values, vocab, hidden}, mix_panels_, parallel);
  const kernels::WeightFormat format = kernels::f32_format(vocab);
  score_panels_.resize(kernels::packed_matrix_bytes(format, vocab, hidden) / sizeof(float));
  kernels::pack_f32(values, vocab, hidden, hidden, /*transposed=*/false, score_panels_.data(),
                    parallel, format);
  score_matrix_ = {format, vocab, hidden, score_panels_.data(), nullptr, nullptr};
}

at::Tensor TokenMatrix::mix(const at::Tensor& weights) const {
  if (mix_panels_.empty()) return weights.mm(table_);
  at::Tensor mixed = at::empty({weights.size(0), table_.size(1)}, table_.options());
  kernels::gemm_f32(weights.const_data_ptr<float>(), static_cast<std::size_t>(weights.size(0)),
                    static_cast<std::size_t>(weights.size(1)), mix_matrix_, 1.0F, nullptr,
                    kernels::Accumulate::kStore, mixed.mutable_data_ptr<float>(), parallel_);
  return mixed;
}

void TokenMatrix::scores(const at::Tensor& rows, at::Tensor& scores, bool add) const {
  if (score_panels_.empty()) {
    if (add) {
      scores.addmm_(rows, table_.t());
    } else {
      at::mm_out(scores, rows, table_.t());
    }
    return;
  }
  kernels::gemm_f32(rows.const_data_ptr<float>(), static_cast<std::size_t>(rows.size(0)),
                    static_cast<std::size_t>(rows.size(1)), score_matrix_, 1.0F, nullptr,
                    add ? kernels::Accumulate::kAdd : kernels::Accumulate::kStore,
                    scores.mutable_data_ptr<float>(), parallel_);
}

at::Tensor margin_losses(const at::Tensor& logits, std::span<const std::int32_t> labels,
                         double kappa) {
  const at::Tensor label =
      indices(std::vector<std::int64_t>(labels.begin(), labels.end()), logits).unsqueeze(1);
  const at::Tensor own = logits.gather(1, label).squeeze(1);
  const at::Tensor hidden_label =
      at::zeros_like(logits).scatter(1, label, -std::numeric_limits<double>::infinity());
  const at::Tensor other = (logits + hidden_label).amax({1});
  return (own - other + kappa).clamp_min(0);
}

at::Tensor fluency_losses(const at::Tensor& hidden, const at::Tensor& mixed,
                          const PackedBatch& batch, const TokenMatrix& tokens) {
  return FluencyFunction::apply(hidden, mixed, &batch, &tokens);
}

at::Tensor similarities(const at::Tensor& hidden, const at::Tensor& original,
                        const at::Tensor& weights) {
  constexpr double kLeastNorm = 1e-12;
  const std::int64_t count = original.size(0);
  const at::Tensor u = original / original.norm(2, {1}, true).clamp_min(kLeastNorm);
  const at::Tensor v =
      (hidden / hidden.norm(2, {1}, true).clamp_min(kLeastNorm)).view({-1, count, hidden.size(1)});
  // [windows, n (of hidden), n (of original)]
  const at::Tensor cosines = at::matmul(v, u.t());
  return std::get<0>(cosines.max(1)).matmul(weights);
}

}  // namespace qalof::train
