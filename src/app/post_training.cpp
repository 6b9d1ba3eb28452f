#include "app/post_training.h"

#include <cmath>

#include "runtime/decoder.h"
#include "runtime/derived_model.h"
#include "runtime/gptq.h"
#include "runtime/rotation.h"
#include "runtime/smoothing.h"

namespace qalof::app {

namespace {

constexpr std::size_t kBatchTokens = 2048;

using InputObserver = std::function<void(std::size_t, const float*, std::size_t)>;

// Runs the 32-bit network over the windows; observe sees what every linear reads.
void run_windows(const std::shared_ptr<const runtime::BaseModel>& base,
                 const std::shared_ptr<const runtime::AdapterSet>& adapters,
                 const TokenWindows& windows, const InputObserver& observe, ParallelFor& parallel) {
  const auto execution = runtime::Execution::create(
      base, quant::resolve(quant::parse_plan("32"), base->target()), adapters, parallel);
  runtime::DecoderWorkspace workspace;
  workspace.observe_inputs = observe;
  std::vector<float> hidden;
  for (std::size_t next = 0; next < windows.size();) {
    std::vector<runtime::Sequence> sequences;
    std::size_t tokens = 0;
    while (next < windows.size() &&
           (tokens == 0 || tokens + windows[next].size() <= kBatchTokens)) {
      sequences.push_back({windows[next]});
      tokens += windows[next++].size();
    }
    hidden.resize(tokens * base->config().hidden);
    runtime::forward(*execution, sequences, workspace, hidden.data(), parallel);
  }
}

}  // namespace

PostTrained smooth_model(const std::shared_ptr<const runtime::BaseModel>& base,
                         const std::shared_ptr<const runtime::AdapterSet>& adapters,
                         const TokenWindows& windows, float alpha, ParallelFor& parallel,
                         Observer& observer) {
  runtime::InputRanges ranges;
  for (const model::LinearSpec& spec : base->linears()) ranges.emplace_back(spec.in, 0.0F);
  run_windows(
      base, adapters, windows,
      [&](std::size_t linear, const float* rows, std::size_t m) {
        std::vector<float>& range = ranges[linear];
        for (std::size_t i = 0; i < m * range.size(); ++i) {
          float& largest = range[i % range.size()];
          largest = std::max(largest, std::fabs(rows[i]));
        }
      },
      parallel);
  observer.progress("windows", windows.size(), windows.size(), "");
  runtime::Smoothed smoothed = runtime::smooth(base, adapters, ranges, alpha);
  return {std::move(smoothed.base), std::move(smoothed.adapters), {}};
}

PostTrained gptq_model(const std::shared_ptr<const runtime::BaseModel>& given,
                       const std::shared_ptr<const runtime::AdapterSet>& adapters,
                       const quant::PrecisionPlan& plan, const TokenWindows& windows,
                       ParallelFor& parallel, Observer& observer) {
  const std::shared_ptr<const runtime::BaseModel> base = runtime::model_for(given, plan.scheme);
  const std::vector<model::LinearSpec>& specs = base->linears();
  runtime::DerivedWeights so_far, result;
  result.scheme = plan.scheme;
  PostTrained trained;
  trained.adapters = adapters;
  for (std::size_t first = 0; first < specs.size();) {
    std::size_t end = first;
    while (end < specs.size() && specs[end].layer == specs[first].layer) ++end;
    std::vector<runtime::InputProducts> products;
    for (std::size_t i = first; i < end; ++i) products.emplace_back(specs[i].in);
    run_windows(
        runtime::derive_model(base, so_far), adapters, windows,
        [&](std::size_t linear, const float* rows, std::size_t m) {
          if (linear >= first && linear < end) products[linear - first].add(rows, m, parallel);
        },
        parallel);
    for (std::size_t i = first; i < end; ++i) {
      const quant::BitWidth width = plan.linears[i].weight;
      if (!width.is_integer()) continue;
      runtime::GptqResult codes =
          runtime::quantize_gptq(base->source().linear_f32(i), specs[i].out, products[i - first],
                                 width.bits, plan.scheme, parallel);
      trained.layers.push_back({specs[i].name, codes.nearest_error, codes.error});
      so_far.linears[i] = runtime::reals_of(codes.codes, parallel);
      result.codes[{i, width.bits}] = std::move(codes.codes);
    }
    observer.progress("linears", end, specs.size(), "");
    first = end;
  }
  trained.base = runtime::derive_model(base, std::move(result));
  return trained;
}

}  // namespace qalof::app
