// Backpropagates windows through the kernel graph and sums g d and (g d)^2 for each linear.
#include "train/fisher.h"

#include <ATen/Parallel.h>

#include <numeric>

#include "core/error.h"
#include "core/finite.h"
#include "train/torch/kernel_functions.h"
#include "train/torch/loss.h"
#include "train/torch/teacher.h"
#include "train/torch/window_loss.h"
#include "weights/adapter_weights.h"
#include "weights/rotation.h"

namespace qalof::train {

namespace {

struct Sums {
  double first = 0, second = 0;
};

// Sums of g d and of (g d)^2 over [rows, cols], row by row, so that the number of threads does not
// matter.
Sums sums_of(const float* g, const float* d, std::size_t rows, std::size_t cols,
             ParallelFor& parallel) {
  std::vector<Sums> parts(rows);
  parallel.run(rows, [&](std::size_t row) {
    double first = 0, second = 0;
    for (std::size_t i = row * cols; i < (row + 1) * cols; ++i) {
      const double product = static_cast<double>(g[i]) * static_cast<double>(d[i]);
      first += product;
      second += product * product;
    }
    parts[row] = {first, second};
  });
  Sums sums;
  for (const Sums& part : parts) {
    sums.first += part.first;
    sums.second += part.second;
  }
  return sums;
}

class Estimator {
 public:
  Estimator(const FisherInputs& inputs, ParallelFor& parallel)
      : inputs_(inputs),
        parallel_(parallel),
        base_(weights::model_for(inputs.network.base, inputs.network.plan.scheme)),
        resources_(base_->config(), parallel) {
    totals_.resize(slots());
  }

  void begin_batch(const PackedBatch& batch) {
    batch_ = &batch;
    of_windows_.assign(batch.windows() * slots(), {});
  }
  /// The sums of every window of the batch, for add.
  std::string bytes() const { return bytes_of<Sums>(of_windows_); }
  /// Adds windows in their order.
  void add(std::string_view bytes) {
    const std::vector<Sums> sums = values_in<Sums>(bytes);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      totals_[i % slots()].first += sums[i].first;
      totals_[i % slots()].second += sums[i].second;
    }
  }

  void observe(std::size_t linear, const at::Tensor& x, const at::Tensor& dy,
               const at::Tensor& dinput) {
    const quant::Precision high = inputs_.network.plan.linears[linear];
    const at::Tensor at_high = input_at(x, high.activation);
    std::vector<at::Tensor> weight_changes, input_changes;
    const at::Tensor reals = weights_at(linear, high);
    for (const int bits : inputs_.low) {
      weight_changes.push_back(weights_at(linear, {{bits}, high.activation}).sub_(reals));
      input_changes.push_back(input_at(x, {bits}).sub(at_high));
    }
    const std::size_t out = base_->linears()[linear].out, in = base_->linears()[linear].in;
    at::Tensor dw = at::empty({static_cast<std::int64_t>(out), static_cast<std::int64_t>(in)});
    for (std::size_t w = 0; w < batch_->windows(); ++w) {
      const std::size_t first = batch_->offsets[w], rows = batch_->offsets[w + 1] - first;
      resources_.gemm.multiply_transposed({dy.const_data_ptr<float>() + first * out, rows, out},
                                          {at_high.const_data_ptr<float>() + first * in, rows, in},
                                          1.0F, kernels::Accumulate::kStore,
                                          dw.mutable_data_ptr<float>());
      for (std::size_t low = 0; low < inputs_.low.size(); ++low) {
        Sums* sums = &of_windows_[w * slots()];
        sums[slot(low, linear, 0)] =
            sums_of(dw.const_data_ptr<float>(), weight_changes[low].const_data_ptr<float>(), out,
                    in, parallel_);
        sums[slot(low, linear, 1)] =
            sums_of(dinput.const_data_ptr<float>() + first * in,
                    input_changes[low].const_data_ptr<float>() + first * in, rows, in, parallel_);
      }
    }
  }

  FisherResult result(std::size_t windows) const {
    FisherResult result;
    const auto mean = [&](std::size_t part) {
      std::vector<std::vector<FisherEstimate>> means;
      const auto count = static_cast<double>(windows);
      for (std::size_t low = 0; low < inputs_.low.size(); ++low) {
        means.emplace_back();
        for (std::size_t i = 0; i < base_->linears().size(); ++i) {
          const Sums& sums = totals_[slot(low, i, part)];
          const FisherEstimate estimate{sums.first / count, 0.5 * sums.second / count};
          check_finite(estimate.first + estimate.second, "its estimate",
                       [&] { return base_->linears()[i].name; });
          means.back().push_back(estimate);
        }
      }
      return means;
    };
    result.weights = mean(0);
    result.activations = mean(1);
    return result;
  }

 private:
  // part: 0 weights, 1 activations.
  std::size_t slot(std::size_t low, std::size_t linear, std::size_t part) const {
    return (low * base_->linears().size() + linear) * 2 + part;
  }
  std::size_t slots() const { return inputs_.low.size() * base_->linears().size() * 2; }

  at::Tensor input_at(const at::Tensor& x, quant::BitWidth width) {
    weights::LinearCall call;
    call.precision.activation = width;
    call.range = weights::activation_range(inputs_.network.plan.scheme);
    return quantized_input(x, call, resources_);
  }

  // Dequantized weights plus the adapter's product, [out, in].
  at::Tensor weights_at(std::size_t linear, quant::Precision precision) {
    const model::LinearSpec& spec = base_->linears()[linear];
    std::vector<float> reals = weights::unpack_reals(
        base_->packed(linear, precision, inputs_.network.plan.scheme, parallel_), parallel_);
    add_adapter(linear, precision.weight.bits, reals);
    return to_tensor(reals,
                     {static_cast<std::int64_t>(spec.out), static_cast<std::int64_t>(spec.in)});
  }
  void add_adapter(std::size_t linear, int bits, std::vector<float>& reals) {
    const weights::AdapterSet* adapters = inputs_.network.adapters.get();
    const auto serving = adapters != nullptr ? adapters->serving_width(bits) : std::nullopt;
    if (!serving) return;
    const weights::Adapter& adapter = *adapters->by_width.at(*serving);
    QALOF_CHECK(!weights::owns_weights(adapter), ErrorKind::kUnsupported,
                "{}: its adapter w{} has weights or quantizers of its own, expected a separate "
                "adapter without learned values",
                inputs_.network.name, *serving);
    if (adapter.linears.empty() || !adapter.linears[linear]) return;
    const weights::LoraLinear& pair = *adapter.linears[linear];
    const model::LinearSpec& spec = base_->linears()[linear];
    const float scaling = pair.view().scaling;
    const auto add = [&](const std::vector<float>& a, const std::vector<float>& b) {
      weights::add_low_rank(a.data(), b.data(), pair.rank(), scaling, spec.out, spec.in,
                            reals.data(), parallel_);
    };
    if (base_->rotation()) {
      const weights::RotatedPair rotated = base_->rotation()->rotate_pair(
          linear, pair.a().data(), pair.b().data(), pair.rank(), scaling);
      add(rotated.a, rotated.b);
    } else {
      add(pair.a(), pair.b());
    }
  }

  const FisherInputs& inputs_;
  ParallelFor& parallel_;
  std::shared_ptr<const weights::BaseModel> base_;
  KernelResources resources_;
  const PackedBatch* batch_ = nullptr;
  std::vector<Sums> of_windows_;  // [window, slot] of the batch
  std::vector<Sums> totals_;      // [slot]
};

}  // namespace

FisherResult fisher_estimates(const FisherInputs& inputs, std::span<const Example> examples,
                              ParallelFor& parallel) {
  QALOF_CHECK(inputs.head_kind != weights::HeadKind::kLm, ErrorKind::kUnsupported,
              "--by fisher: found --task lm, expected qa or classification");
  const NetworkView view = frozen_view(inputs.network, inputs.head_kind, inputs.num_labels,
                                       inputs.network.name, at::kCPU);
  TrainOptions options;
  options.head_kind = inputs.head_kind;
  options.num_labels = inputs.num_labels;
  check_examples(examples, inputs.network.base->config(), options);
  at::set_num_threads(1);
  Estimator estimator(inputs, parallel);
  const auto graph = make_kernel_graph(
      inputs.network.base, nullptr, parallel, {},
      [&](std::size_t linear, const at::Tensor& x, const at::Tensor& dy, const at::Tensor& dinput) {
        estimator.observe(linear, x, dy, dinput);
      });
  const GraphPlan plan(inputs.network.plan, /*clip=*/0);
  const std::vector<std::string> batches = share_batches(
      inputs.group, {examples, inputs.tokens_per_batch},
      [&](const PackedBatch& batch, std::size_t done, std::size_t /*index*/) {
        estimator.begin_batch(batch);
        LossParts parts;
        const at::Tensor sum = window_loss_sum(*graph, batch, plan, view, inputs.head_kind, &parts);
        check_finite(parts.hard, "the loss", [&] { return windows_text(batch, done); });
        sum.backward();
        if (inputs.on_batch) inputs.on_batch(done);
        return bytes_of<double>({&parts.hard, 1}) + estimator.bytes();
      });
  double loss = 0;
  for (const std::string& batch : batches) {
    const std::string_view bytes = batch;
    loss += values_in<double>(bytes.substr(0, sizeof(double))).front();
    estimator.add(bytes.substr(sizeof(double)));
  }
  FisherResult result = estimator.result(examples.size());
  result.loss = loss / static_cast<double>(examples.size());
  return result;
}

}  // namespace qalof::train
