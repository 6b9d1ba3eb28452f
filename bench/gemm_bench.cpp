// Speed of the matrix products at the sizes of GPT-2's linears, every instruction set in the same
// run: many rows against the arithmetic of this machine, few rows against its memory. Every product
// is checked against a plain sum before it is timed.
#include "kernels/gemm.h"

#include <algorithm>
#include <cmath>

#include "bench_util.h"
#include "core/threads.h"
#include "kernels/quantize.h"
#include "peak.h"

namespace qalof::kernels {
namespace {

using bench::Arithmetic;

struct Sizes {
  std::size_t m, n, k;
  int threads;
};

// Arguments: instruction set, m, n, k, threads.
bool begin(benchmark::State& state, Sizes& sizes) {
  const auto isas = available_isas();
  const Isa isa = known_isas()[static_cast<std::size_t>(state.range(0))];
  if (std::find(isas.begin(), isas.end(), isa) == isas.end()) {
    state.SkipWithError("not on this CPU");
    return false;
  }
  force_isa(isa);
  sizes = {static_cast<std::size_t>(state.range(1)), static_cast<std::size_t>(state.range(2)),
           static_cast<std::size_t>(state.range(3)), static_cast<int>(state.range(4))};
  return true;
}

// Few rows meet weights that are no longer in a cache, as in decoding: as many copies as fill this.
constexpr std::size_t kCopiesBytes = std::size_t{96} << 20;
constexpr std::size_t kFewRows = 8;

std::size_t num_copies(const Sizes& sizes, std::size_t bytes) {
  return sizes.m > kFewRows ? 1 : kCopiesBytes / bytes + 1;
}

void report(benchmark::State& state, const Sizes& sizes, Arithmetic arithmetic, std::size_t bytes) {
  const double ops = 2e-9 * static_cast<double>(sizes.m * sizes.n * sizes.k);
  bench::count_operations(state, ops * 1e9);
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  if (sizes.m > kFewRows) {
    const double peak = bench::peak_gops(arithmetic) * sizes.threads;
    if (peak > 0) state.counters["of_peak"] = benchmark::Counter(ops / peak, rate);
  } else {
    state.counters["GB/s"] = benchmark::Counter(static_cast<double>(bytes) * 1e-9, rate);
    state.counters["read_GB/s"] = bench::read_gbs();
  }
}

void float_product(benchmark::State& state, WeightFormat format) {
  Sizes s;
  if (!begin(state, s)) return;
  ThreadPool pool(s.threads);
  std::vector<float> x = bench::random_floats(s.m * s.k), w = bench::random_floats(s.n * s.k);
  const std::vector<float> bias = bench::random_floats(s.n);
  const std::size_t bytes = packed_matrix_bytes(format, s.n, s.k);
  const std::size_t copies = num_copies(s, bytes);
  std::vector<std::uint8_t> panels(bytes * copies);
  for (std::size_t copy = 0; copy < copies; ++copy) {
    void* dst = panels.data() + copy * bytes;
    if (format == WeightFormat::kF32) {
      pack_f32(w.data(), s.n, s.k, s.k, /*transposed=*/false, static_cast<float*>(dst), pool);
    } else {
      pack_bf16(w.data(), s.n, s.k, static_cast<std::uint16_t*>(dst), pool);
    }
  }
  if (format == WeightFormat::kBf16) {
    round_to_bf16(x.data(), x.size(), x.data(), pool);
    round_to_bf16(w.data(), w.size(), w.data(), pool);
  }
  PackedMatrix matrix{format, s.n, s.k, panels.data(), nullptr, nullptr};
  std::vector<float> y(s.m * s.n);
  std::size_t turn = 0;
  const auto run = [&] {
    matrix.panels = panels.data() + turn++ % copies * bytes;
    gemm_f32(x.data(), s.m, s.k, matrix, 1.0F, bias.data(), Accumulate::kStore, y.data(), pool);
  };
  run();
  double expected = bias[s.n - 1];
  for (std::size_t i = 0; i < s.k; ++i)
    expected += double{x[(s.m - 1) * s.k + i]} * w[(s.n - 1) * s.k + i];
  constexpr double kTolerance = 1e-3;  // of sums of up to 3072 terms of size 1
  if (!(std::fabs(y.back() - expected) <= kTolerance)) return state.SkipWithError("wrong result");
  for (auto _ : state) run();
  report(state, s, format == WeightFormat::kF32 ? Arithmetic::kF32 : Arithmetic::kBf16, bytes);
}

void integer_product(benchmark::State& state, WeightFormat format, std::size_t group) {
  Sizes s;
  if (!begin(state, s)) return;
  ThreadPool pool(s.threads);
  const std::size_t length = group == 0 ? s.k : group;
  const std::size_t groups = num_groups(s.k, group);
  const std::vector<std::int8_t> x = bench::random_codes(s.m * s.k, 127);
  const std::vector<std::int8_t> w =
      bench::random_codes(s.n * s.k, level_count(code_layout(format).bits));
  const std::vector<float> x_scales = bench::random_floats(s.m), bias = bench::random_floats(s.n),
                           scales = bench::random_floats(s.n * groups);
  std::vector<float> w_scales(grouped_count(s.n, groups));
  std::vector<std::int32_t> sums(grouped_count(s.n, groups));
  const std::size_t bytes = packed_matrix_bytes(format, s.n, s.k);
  const std::size_t copies = num_copies(s, bytes);
  std::vector<std::uint8_t> panels(bytes * copies);
  for (std::size_t copy = 0; copy < copies; ++copy) {
    void* dst = panels.data() + copy * bytes;
    if (group == 0) {
      pack_codes(w.data(), s.n, s.k, format, dst, sums.data(), pool);
    } else {
      pack_codes(w.data(), s.n, s.k, format, group, dst, sums.data(), pool);
    }
  }
  if (group == 0) {
    std::copy(scales.begin(), scales.end(), w_scales.begin());
  } else {
    pack_groups(scales.data(), s.n, groups, w_scales.data());
  }
  PackedMatrix matrix{format, s.n, s.k, nullptr, w_scales.data(), sums.data(), group};
  std::vector<float> y(s.m * s.n);
  std::size_t turn = 0;
  const auto run = [&] {
    matrix.panels = panels.data() + turn++ % copies * bytes;
    gemm_int(x.data(), x_scales.data(), s.m, matrix, bias.data(), y.data(), pool);
  };
  run();
  float expected = 0.0F;
  for (std::size_t g = 0; g < groups; ++g) {
    std::int32_t acc = 0;
    for (std::size_t i = g * length; i < (g + 1) * length; ++i)
      acc += x[(s.m - 1) * s.k + i] * w[(s.n - 1) * s.k + i];
    expected += static_cast<float>(acc) * scales[(s.n - 1) * groups + g];
  }
  if (y.back() != expected * x_scales[s.m - 1] + bias[s.n - 1])
    return state.SkipWithError("wrong result");
  for (auto _ : state) run();
  report(state, s, Arithmetic::kInt8, bytes + (group == 0 ? 0 : scales.size() * sizeof(float)));
}

void shapes(benchmark::internal::Benchmark* bench) {
  for (const int threads : {1, 2}) {
    for (const int m : {1, 4, 8, 512}) {
      for (const auto& [n, k] : {std::pair{3072, 768}, std::pair{768, 3072}}) {
        for (int isa = 1; isa < static_cast<int>(known_isas().size()); ++isa)
          bench->Args({isa, m, n, k, threads});
      }
    }
  }
  bench->ArgNames({"isa", "m", "n", "k", "threads"})->UseRealTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(float_product, f32, WeightFormat::kF32)->Apply(shapes);
BENCHMARK_CAPTURE(float_product, bf16, WeightFormat::kBf16)->Apply(shapes);
BENCHMARK_CAPTURE(integer_product, int8, WeightFormat::kInt8, 0)->Apply(shapes);
BENCHMARK_CAPTURE(integer_product, int4, WeightFormat::kInt4, 0)->Apply(shapes);
BENCHMARK_CAPTURE(integer_product, int4_group64, WeightFormat::kInt4, 64)->Apply(shapes);
BENCHMARK_CAPTURE(integer_product, int3_group64, WeightFormat::kInt3, 64)->Apply(shapes);
BENCHMARK_CAPTURE(integer_product, int2_group64, WeightFormat::kInt2, 64)->Apply(shapes);

// Float panels of [3072, 768]; argument: whether the source is transposed. Gop/s counts elements.
void pack_speed(benchmark::State& state) {
  constexpr std::size_t kRows = 3072, kCols = 768;
  SerialFor serial;
  const bool transposed = state.range(0) != 0;
  const std::vector<float> src = bench::random_floats(kRows * kCols);
  std::vector<float> panels(kRows * kCols);
  for (auto _ : state) {
    pack_f32(src.data(), kRows, kCols, transposed ? kRows : kCols, transposed, panels.data(),
             serial);
  }
  bench::count_operations(state, static_cast<double>(kRows * kCols));
}
BENCHMARK(pack_speed)->Arg(0)->Arg(1)->ArgName("transposed")->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace qalof::kernels
