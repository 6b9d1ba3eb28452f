// Opening a packed file and switching plans. The file is named by QALOF_BENCH_FILE, e.g. one of
// `qalof quantize --bit_widths 8 4 --lm_head_bits 8`; threads by QALOF_THREADS (default 2).
//
// Open: mapping, tokenizer files, everything every plan needs and the first width and LM head
// verified, until the first token could be computed; the page cache is warm from the second
// iteration. Switch: another plan of widths that are loaded.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "runtime/execution.h"
#include "weights/packed_file.h"

namespace qalof {
namespace {

const char* bench_file() { return std::getenv("QALOF_BENCH_FILE"); }

int bench_threads() {
  const char* text = std::getenv("QALOF_THREADS");
  return text == nullptr ? 2 : std::atoi(text);
}

std::shared_ptr<const runtime::Execution> make_execution(const weights::PackedModel& packed,
                                                         int bits, ParallelFor& parallel) {
  quant::PlanSpec plan = quant::parse_plan(fmt::format("w{}a8kv8", bits));
  plan.scheme = packed.plan.scheme;
  runtime::ExecutionOptions options;
  if (!packed.lm_head_bits.empty()) options.lm_head = quant::BitWidth{packed.lm_head_bits.front()};
  return runtime::Execution::create(packed.base, quant::resolve(plan, packed.base->target()),
                                    packed.adapters, parallel, options);
}

void bench_open(benchmark::State& state) {
  if (bench_file() == nullptr) return state.SkipWithError("QALOF_BENCH_FILE is not set");
  ThreadPool pool(bench_threads());
  const auto bits = static_cast<int>(state.range(0));
  for (auto unused : state) {
    (void)unused;
    const weights::PackedModel packed = weights::open_packed_file(bench_file(), pool);
    const auto execution = make_execution(packed, bits, pool);
    benchmark::DoNotOptimize(packed.base->lm_head(execution->lm_head_width(), pool).panels);
  }
}
BENCHMARK(bench_open)->Arg(8)->Arg(4)->Unit(benchmark::kMillisecond)->UseRealTime();

void bench_switch(benchmark::State& state) {
  if (bench_file() == nullptr) return state.SkipWithError("QALOF_BENCH_FILE is not set");
  ThreadPool pool(bench_threads());
  const weights::PackedModel packed = weights::open_packed_file(bench_file(), pool);
  for (const int bits : {8, 4}) make_execution(packed, bits, pool);
  int bits = 4;
  for (auto unused : state) {
    (void)unused;
    bits = 12 - bits;
    benchmark::DoNotOptimize(make_execution(packed, bits, pool));
  }
}
BENCHMARK(bench_switch)->Unit(benchmark::kMicrosecond)->UseRealTime();

}  // namespace
}  // namespace qalof
