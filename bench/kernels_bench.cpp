// Speed of the kernels on this machine: products at a linear layer's size, row operations,
// attention. Every product is checked against a plain sum before it is timed. QALOF_ISA chooses the
// instruction set.
#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "core/threads.h"
#include "kernels/gemm.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"

namespace qalof::kernels {
namespace {

std::vector<float> random_floats(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> result(count);
  for (float& value : result) value = normal(random);
  return result;
}

std::vector<std::int8_t> random_codes(std::size_t count, int level) {
  std::mt19937 random(2);
  std::uniform_int_distribution<int> uniform(-level, level);
  std::vector<std::int8_t> result(count);
  for (std::int8_t& code : result) code = static_cast<std::int8_t>(uniform(random));
  return result;
}

void count_operations(benchmark::State& state, double per_iteration) {
  state.counters["Gop/s"] =
      benchmark::Counter(per_iteration * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(to_string(active_isa())));
}

// Arguments: m, n, k, threads.
void float_product(benchmark::State& state, WeightFormat format) {
  const auto m = static_cast<std::size_t>(state.range(0)),
             n = static_cast<std::size_t>(state.range(1)),
             k = static_cast<std::size_t>(state.range(2));
  ThreadPool pool(static_cast<int>(state.range(3)));
  const std::vector<float> x = random_floats(m * k), w = random_floats(n * k),
                           bias = random_floats(n);
  std::vector<std::uint8_t> panels(packed_matrix_bytes(format, n, k));
  if (format == WeightFormat::kF32) {
    pack_f32(w.data(), n, k, k, /*transposed=*/false, reinterpret_cast<float*>(panels.data()),
             pool);
  } else {
    pack_bf16(w.data(), n, k, reinterpret_cast<std::uint16_t*>(panels.data()), pool);
  }
  const PackedMatrix matrix{format, n, k, panels.data(), nullptr, nullptr};
  std::vector<float> y(m * n);
  const auto run = [&] {
    gemm_f32(x.data(), m, k, matrix, 1.0F, bias.data(), Accumulate::kStore, y.data(), pool);
  };
  run();
  double expected = bias[n - 1];
  for (std::size_t i = 0; i < k; ++i) expected += double{x[(m - 1) * k + i]} * w[(n - 1) * k + i];
  const double tolerance =
      format == WeightFormat::kF32 ? 1e-3 : 1.0;  // bf16 weights differ by 2^-9 each
  if (!(std::fabs(y.back() - expected) <= tolerance)) return state.SkipWithError("wrong result");
  for (auto _ : state) run();
  count_operations(state, 2.0 * static_cast<double>(m * n * k));
}

void integer_product(benchmark::State& state, WeightFormat format) {
  const auto m = static_cast<std::size_t>(state.range(0)),
             n = static_cast<std::size_t>(state.range(1)),
             k = static_cast<std::size_t>(state.range(2));
  ThreadPool pool(static_cast<int>(state.range(3)));
  const std::vector<std::int8_t> x = random_codes(m * k, 127),
                                 w = random_codes(n * k, format == WeightFormat::kInt4 ? 7 : 127);
  const std::vector<float> x_scales = random_floats(m), w_scales = random_floats(n),
                           bias = random_floats(n);
  std::vector<std::uint8_t> panels(packed_matrix_bytes(format, n, k));
  std::vector<std::int32_t> sums(n);
  pack_codes(w.data(), n, k, format, panels.data(), sums.data(), pool);
  const PackedMatrix matrix{format, n, k, panels.data(), w_scales.data(), sums.data()};
  std::vector<float> y(m * n);
  const auto run = [&] {
    gemm_int(x.data(), x_scales.data(), m, matrix, bias.data(), y.data(), pool);
  };
  run();
  std::int32_t acc = 0;
  for (std::size_t i = 0; i < k; ++i) acc += x[(m - 1) * k + i] * w[(n - 1) * k + i];
  if (y.back() != static_cast<float>(acc) * w_scales[n - 1] * x_scales[m - 1] + bias[n - 1]) {
    return state.SkipWithError("wrong result");
  }
  for (auto _ : state) run();
  count_operations(state, 2.0 * static_cast<double>(m * n * k));
}

void shapes(benchmark::internal::Benchmark* bench) {
  for (const int threads : {1, 2}) {
    for (const int m : {1, 8, 512}) {
      bench->Args({m, 3072, 768, threads});
      bench->Args({m, 768, 3072, threads});
    }
  }
  bench->ArgNames({"m", "n", "k", "threads"})->UseRealTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(float_product, f32, WeightFormat::kF32)->Apply(shapes);
BENCHMARK_CAPTURE(float_product, bf16, WeightFormat::kBf16)->Apply(shapes);
BENCHMARK_CAPTURE(integer_product, int8, WeightFormat::kInt8)->Apply(shapes);
BENCHMARK_CAPTURE(integer_product, int4, WeightFormat::kInt4)->Apply(shapes);

// Float panels of [3072, 768]; argument: whether the source is transposed. Gop/s counts elements.
void pack_speed(benchmark::State& state) {
  constexpr std::size_t kRows = 3072, kCols = 768;
  SerialFor serial;
  const bool transposed = state.range(0) != 0;
  const std::vector<float> src = random_floats(kRows * kCols);
  std::vector<float> panels(kRows * kCols);
  for (auto _ : state) {
    pack_f32(src.data(), kRows, kCols, transposed ? kRows : kCols, transposed, panels.data(),
             serial);
  }
  count_operations(state, static_cast<double>(kRows * kCols));
}
BENCHMARK(pack_speed)->Arg(0)->Arg(1)->ArgName("transposed")->Unit(benchmark::kMicrosecond);

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
