// Collects activations layer by layer for SmoothQuant's ranges and GPTQ's input products.
#include "app/post_training.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/error.h"
#include "core/finite.h"
#include "core/segment_sums.h"
#include "runtime/decoder.h"
#include "tasks/batch.h"
#include "weights/derived_model.h"
#include "weights/gptq.h"
#include "weights/rotation.h"
#include "weights/smoothing.h"

namespace qalof::app {

namespace {

// A batch of windows of one segment, and the states that the current layer reads.
struct Batch {
  std::size_t segment = 0;
  std::vector<runtime::Sequence> sequences;
  std::size_t tokens = 0;
  std::vector<float> states;
};

// Those of this process's segments.
std::vector<Batch> own_batches(const TokenWindows& windows, const ProcessGroup* group) {
  std::vector<Batch> batches;
  const IndexRange own = own_part(kSegments, group);
  for (std::size_t segment = own.first; segment < own.end; ++segment) {
    const IndexRange range = part_of(windows.size(), kSegments, segment);
    for (std::size_t i = range.first; i < range.end; ++i) {
      const std::size_t tokens = windows[i].size();
      if (batches.empty() || batches.back().segment != segment ||
          batches.back().tokens + tokens > tasks::kBatchTokens)
        batches.emplace_back().segment = segment;
      batches.back().sequences.push_back({windows[i]});
      batches.back().tokens += tokens;
    }
  }
  return batches;
}

void check_inputs(const std::string& linear, std::span<const float> rows) {
  check_finite(rows, "an input", [&] { return fmt::format("--calibration_file: {}", linear); });
}

// An execution with all linears in 32-bit floats.
std::shared_ptr<const runtime::Execution> float_execution(
    const std::shared_ptr<const weights::BaseModel>& base,
    const std::shared_ptr<const weights::AdapterSet>& adapters, ParallelFor& parallel) {
  return runtime::Execution::create(base, quant::resolve(quant::parse_plan("32"), base->target()),
                                    adapters, parallel);
}

}  // namespace

PostTrained smooth_model(const std::shared_ptr<const weights::BaseModel>& base,
                         const std::shared_ptr<const weights::AdapterSet>& adapters,
                         const TokenWindows& windows, float alpha, ParallelFor& parallel,
                         const Processes& processes) {
  weights::InputRanges ranges;
  for (const model::LinearSpec& spec : base->linears()) ranges.emplace_back(spec.in, 0.0F);
  const auto execution = float_execution(base, adapters, parallel);
  runtime::DecoderWorkspace workspace;
  workspace.observe_inputs = [&](std::size_t linear, const float* rows, std::size_t m) {
    std::vector<float>& range = ranges[linear];
    check_inputs(base->linears()[linear].name, {rows, m * range.size()});
    for (std::size_t i = 0; i < m * range.size(); ++i) {
      float& largest = range[i % range.size()];
      largest = std::max(largest, std::fabs(rows[i]));
    }
  };
  const std::vector<Batch> batches = own_batches(windows, processes.group());
  std::size_t done = 0, all = 0;
  for (const Batch& batch : batches) all += batch.sequences.size();
  processes.observer().progress("windows", done, all, "");
  for (const Batch& batch : batches) {
    runtime::forward_layers(*execution, batch.sequences, 0, base->config().num_layers, nullptr,
                            workspace, parallel);
    done += batch.sequences.size();
    processes.observer().progress("windows", done, all, "");
  }
  if (processes.group() != nullptr) {
    processes.wait_for_all();  // one may have had more to do
    for (std::vector<float>& range : ranges) {
      const std::vector<float> found = join_values<float>(*processes.group(), range);
      for (std::size_t i = 0; i < found.size(); ++i) {
        float& largest = range[i % range.size()];
        largest = std::max(largest, found[i]);
      }
    }
  }
  weights::Smoothed smoothed = weights::smooth(base, adapters, ranges, alpha);
  return {std::move(smoothed.base), std::move(smoothed.adapters), {}};
}

PostTrained gptq_model(const std::shared_ptr<const weights::BaseModel>& given,
                       const std::shared_ptr<const weights::AdapterSet>& adapters,
                       const quant::PrecisionPlan& plan, const TokenWindows& windows,
                       ParallelFor& parallel, const Processes& processes) {
  Observer& observer = processes.observer();
  const std::shared_ptr<const weights::BaseModel> base = weights::model_for(given, plan.scheme);
  const std::vector<model::LinearSpec>& specs = base->linears();
  weights::DerivedWeights result;
  result.scheme = plan.scheme;
  PostTrained trained;
  trained.adapters = adapters;
  std::vector<Batch> batches = own_batches(windows, processes.group());
  std::size_t tokens = 0;
  for (const std::vector<std::int32_t>& window : windows) tokens += window.size();
  const std::size_t width = base->config().hidden;
  auto execution = float_execution(base, adapters, parallel);
  runtime::DecoderWorkspace workspace;
  std::size_t done = 0;  // finished linears, in the order in which they run
  observer.progress("linears", done, specs.size(), "");
  for (std::size_t layer = 0; layer < base->layers().size(); ++layer) {
    const model::LayerSteps& steps = base->layers()[layer];
    const std::vector<std::size_t> inputs[] = {
        steps.attention_in, {steps.attention_out}, steps.mlp_in, {steps.mlp_out}};
    for (const std::vector<std::size_t>& readers : inputs) {
      const std::size_t in = specs[readers.front()].in;
      weights::InputProducts segment_products(0);
      workspace.observe_inputs = [&](std::size_t linear, const float* rows, std::size_t m) {
        if (linear != readers.front()) return;
        check_inputs(specs[linear].name, {rows, m * in});
        segment_products.add(rows, m, parallel);
      };
      // A layer's first pass reruns the previous layer, with its final weights, to get the states
      // that this layer reads.
      const bool moves_on = &readers == inputs && layer > 0;
      SegmentSums sums(weights::InputProducts::sums_of(in));
      const IndexRange own = own_part(kSegments, processes.group());
      auto batch = batches.begin();
      for (std::size_t segment = own.first; segment < own.end; ++segment) {
        segment_products = weights::InputProducts(in);
        for (; batch != batches.end() && batch->segment == segment; ++batch) {
          const std::vector<float> states = std::move(batch->states);
          workspace.observe_states = [&](std::size_t at, const float* rows, std::size_t m) {
            if (at == layer) batch->states.assign(rows, rows + m * width);
          };
          runtime::forward_layers(*execution, batch->sequences, moves_on ? layer - 1 : layer,
                                  layer + 1, states.empty() ? nullptr : states.data(), workspace,
                                  parallel);
        }
        sums.add(segment, std::move(segment_products).take_sums());
      }
      processes.wait_for_all();  // one may have had more to do
      weights::InputProducts products(in, tokens, sums.finish(processes.group()));
      const std::string& name = specs[readers.front()].name;
      for (std::size_t i = 0; i < in; ++i) {
        check_finite(products.at(i, i), "a sum of squared inputs",
                     [&] { return fmt::format("--calibration_file: {}", name); });
      }
      std::unique_ptr<const weights::GptqInputs> found;
      if (std::ranges::any_of(readers,
                              [&](std::size_t i) { return plan.linears[i].weight.is_integer(); }))
        found =
            std::make_unique<weights::GptqInputs>(std::move(products), parallel, processes.group());
      for (const std::size_t i : readers) {
        observer.progress("linears", done++, specs.size(), specs[i].name);
        const quant::BitWidth bits = plan.linears[i].weight;
        if (!bits.is_integer()) continue;
        weights::GptqResult codes =
            weights::quantize_gptq(base->source().linear_f32(i), specs[i].out, *found, bits.bits,
                                   plan.scheme, parallel, processes.group());
        trained.layers.push_back({specs[i].name, codes.nearest_error, codes.error});
        execution = runtime::Execution::with_weights(
            execution, i, weights::dequantize_codes(codes.codes, parallel), parallel);
        result.codes[{i, bits.bits}] = std::move(codes.codes);
      }
    }
  }
  observer.progress("linears", done, specs.size(), "");
  trained.base = weights::derive_model(base, std::move(result));
  return trained;
}

}  // namespace qalof::app
