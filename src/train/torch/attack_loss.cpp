// Products with the token embedding table, and fluency, margin and similarity with their gradients.
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "train/torch/attack_loss.h"

namespace qalof::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Rows of scores held at a time; 50 MB for a vocabulary of 50,000 tokens.
constexpr std::int64_t kScoreRows = 256;

bool is_kernel_tensor(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat;
}

at::Tensor indices(const std::vector<std::int64_t>& values, const at::Tensor& like) {
  return at::tensor(values, at::kLong).to(like.device());
}

// The fluency loss of every window: each row of hidden [tokens, hidden] predicts the mixed
// embedding of the next token; rows are weighted by 1 / predicted tokens of their window.
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
      tokens->scores(x.narrow(0, first, part), z);
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
    const at::NoGradGuard no_grad;  // applies to this thread only
    const std::int64_t first = static_cast<std::int64_t>(index) * size;
    task(first, std::min(size, rows - first));
  });
}

namespace {

// Packs w [n, k] for the kernels, from rows of n or, transposed, of k numbers.
kernels::PackedMatrix packed(const at::Tensor& w, int bits, std::vector<std::byte>& panels,
                             ParallelFor& parallel) {
  const auto n = static_cast<std::size_t>(w.size(0)), k = static_cast<std::size_t>(w.size(1));
  const kernels::WeightFormat format =
      bits == 16 ? kernels::WeightFormat::kBf16 : kernels::f32_format(n);
  panels.resize(kernels::packed_matrix_bytes(format, n, k));
  const at::Tensor values = w.contiguous();
  if (bits == 16) {
    kernels::pack_bf16(values.const_data_ptr<float>(), n, k,
                       reinterpret_cast<std::uint16_t*>(panels.data()), parallel);
  } else {
    kernels::pack_f32(values.const_data_ptr<float>(), n, k, k, /*transposed=*/false,
                      reinterpret_cast<float*>(panels.data()), parallel, format);
  }
  return {format, n, k, panels.data(), nullptr, nullptr};
}

}  // namespace

TokenMatrix::TokenMatrix(const at::Tensor& table, int bits, ParallelFor& parallel)
    : table_(table.detach().contiguous()), parallel_(parallel) {
  if (!is_kernel_tensor(table_)) return;
  mix_matrix_ = packed(table_.t(), bits, mix_panels_, parallel);
  score_matrix_ = packed(table_, bits, score_panels_, parallel);
}

void TokenMatrix::multiply(const at::Tensor& x, const kernels::PackedMatrix& w,
                           at::Tensor& y) const {
  const auto rows = static_cast<std::size_t>(x.size(0));
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  if (w.format == kernels::WeightFormat::kBf16) {
    kernels::gemm_bf16(from, rows, nullptr, w, nullptr, to, parallel_);
  } else {
    kernels::gemm_f32(from, rows, w.k, w, 1.0F, nullptr, kernels::Accumulate::kStore, to,
                      parallel_);
  }
}

at::Tensor TokenMatrix::mix(const at::Tensor& weights) const {
  if (mix_panels_.empty()) return weights.mm(table_);
  at::Tensor mixed = at::empty({weights.size(0), table_.size(1)}, table_.options());
  multiply(weights, mix_matrix_, mixed);
  return mixed;
}

void TokenMatrix::scores(const at::Tensor& rows, at::Tensor& scores) const {
  if (score_panels_.empty()) {
    at::mm_out(scores, rows, table_.t());
  } else {
    multiply(rows, score_matrix_, scores);
  }
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
