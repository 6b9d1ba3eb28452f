// Speed of row operations and attention on this machine. QALOF_ISA chooses the instruction set.
// Products are in gemm_bench.cpp.
#include <vector>

#include "bench_util.h"
#include "core/threads.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"

namespace qalof::kernels {
namespace {

using bench::count_operations;
using bench::random_floats;

// Row operations on [512, 3072]; Gop/s counts elements.
enum class RowOp { kQuantize, kLayerNorm, kLayerNormBackward, kGelu, kGeluBackward };
void row_operation(benchmark::State& state, RowOp op) {
  constexpr std::size_t kRows = 512, kCols = 3072;
  ThreadPool pool(static_cast<int>(state.range(0)));
  const std::vector<float> x = random_floats(kRows * kCols), dy = x, gamma = random_floats(kCols);
  std::vector<float> y(kRows * kCols), stats(kRows * 2), scales(kRows), dgamma(kCols), dbeta(kCols);
  std::vector<std::int8_t> codes(kRows * kCols);
  layer_norm(x.data(), kRows, kCols, gamma.data(), gamma.data(), 1e-5F, y.data(), stats.data(),
             pool);
  for (auto _ : state) {
    switch (op) {
      case RowOp::kQuantize:
        quantize_rows(x.data(), kRows, kCols, 8, codes.data(), scales.data(), pool);
        break;
      case RowOp::kLayerNorm:
        layer_norm(x.data(), kRows, kCols, gamma.data(), gamma.data(), 1e-5F, y.data(),
                   stats.data(), pool);
        break;
      case RowOp::kLayerNormBackward:
        layer_norm_backward(dy.data(), x.data(), stats.data(), gamma.data(), kRows, kCols, y.data(),
                            dgamma.data(), dbeta.data(), pool);
        break;
      case RowOp::kGelu:
        gelu_new(x.data(), x.size(), y.data(), pool);
        break;
      case RowOp::kGeluBackward:
        gelu_new_backward(dy.data(), x.data(), x.size(), y.data(), pool);
        break;
    }
  }
  count_operations(state, static_cast<double>(kRows * kCols));
}
void threads_only(benchmark::internal::Benchmark* bench) {
  bench->Arg(1)->Arg(2)->ArgName("threads")->UseRealTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(row_operation, quantize, RowOp::kQuantize)->Apply(threads_only);
BENCHMARK_CAPTURE(row_operation, layer_norm, RowOp::kLayerNorm)->Apply(threads_only);
BENCHMARK_CAPTURE(row_operation, layer_norm_backward, RowOp::kLayerNormBackward)
    ->Apply(threads_only);
BENCHMARK_CAPTURE(row_operation, gelu, RowOp::kGelu)->Apply(threads_only);
BENCHMARK_CAPTURE(row_operation, gelu_backward, RowOp::kGeluBackward)->Apply(threads_only);

// One sequence of 12 heads of 64; arguments: queries, keys before them, threads. Gop/s counts the
// multiplications and additions of both products over the visible keys, five products in the
// backward pass.
void attention_speed(benchmark::State& state, bool backward) {
  constexpr std::size_t kHeads = 12, kDim = 64, kHidden = kHeads * kDim;
  const auto q_len = static_cast<std::size_t>(state.range(0)),
             past = static_cast<std::size_t>(state.range(1));
  ThreadPool pool(static_cast<int>(state.range(2)));
  const std::vector<float> q = random_floats(q_len * kHidden),
                           kv = random_floats((past + q_len) * kHidden);
  std::vector<float> out(q.size()), lse(q_len * kHeads), dq(q.size()), dk(kv.size()), dv(kv.size());
  const AttentionShape shape{kHeads, kHeads, kDim, kHidden, kHidden, kHidden, kHidden, 0.125F};
  const AttentionSequence sequence{q.data(),   kv.data(), kv.data(), out.data(),
                                   lse.data(), q_len,     past};
  const AttentionGradient gradient{q.data(), dq.data(), dk.data(), dv.data()};
  attention(shape, &sequence, 1, pool);
  for (auto _ : state) {
    if (backward) {
      attention_backward(shape, &sequence, &gradient, 1, pool);
    } else {
      attention(shape, &sequence, 1, pool);
    }
  }
  const double pairs = static_cast<double>(q_len) *
                       (static_cast<double>(past) + (static_cast<double>(q_len) + 1) / 2);
  count_operations(state, pairs * 2.0 * static_cast<double>(kHidden) * (backward ? 5 : 2));
}
BENCHMARK_CAPTURE(attention_speed, forward, false)
    ->ArgsProduct({{512}, {0}, {1, 2}})
    ->Args({1, 512, 1})
    ->Args({1, 512, 2})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(attention_speed, backward, true)
    ->ArgsProduct({{384}, {0}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace qalof::kernels
