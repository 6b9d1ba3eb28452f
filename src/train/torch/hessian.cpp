// Hutchinson's estimator with random signs: gradients at W + h v and W - h v per batch.
#include "train/hessian.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/finite.h"
#include "core/random.h"
#include "train/torch/loss.h"
#include "train/torch/teacher.h"
#include "train/torch/window_loss.h"
#include "weights/rotation.h"

namespace qalof::train {

namespace {

// Step of the central difference relative to the weights' root mean square: large enough for the
// rounding of gradients, small enough for the curvature of the loss.
constexpr double kRelativeStep = 1e-3;

// Random signs of one linear: bits of the stream, 128 per counter.
at::Tensor signs(const RandomStream& stream, std::uint64_t batch, std::size_t linear,
                 const at::Tensor& like) {
  const auto count = static_cast<std::size_t>(like.numel());
  std::vector<float> values(count);
  for (std::size_t first = 0; first < count; first += 128) {
    const auto words = stream.words(batch, (std::uint64_t{linear} << 32) + first / 128);
    for (std::size_t i = first; i < std::min(count, first + 128); ++i)
      values[i] = (words[(i - first) / 32] >> (i % 32) & 1) != 0 ? 1.0F : -1.0F;
  }
  return to_tensor(values, like.sizes().vec()).to(like.scalar_type());
}

double root_mean_square(const std::vector<at::Tensor>& tensors) {
  double sum = 0, count = 0;
  for (const at::Tensor& tensor : tensors) {
    sum += tensor.square().sum(at::kDouble).item<double>();
    count += static_cast<double>(tensor.numel());
  }
  return std::sqrt(sum / count);
}

void set_dtype(NetworkView& view, at::ScalarType type) {
  for (LoraParams& pair : view.lora) {
    if (!pair.a.defined()) continue;
    pair.a = pair.a.to(type);
    pair.b = pair.b.to(type);
  }
  view.head.weight = view.head.weight.to(type);
  if (view.head.bias.defined()) view.head.bias = view.head.bias.to(type);
}

std::vector<std::vector<double>> quantization_errors(const HessianInputs& inputs,
                                                     ParallelFor& parallel) {
  const auto base = weights::model_for(inputs.network.base, inputs.scheme);
  std::vector<std::vector<double>> errors(inputs.low.size());
  for (std::size_t linear = 0; linear < base->linears().size(); ++linear) {
    const std::vector<float> weights = base->source().linear_f32(linear);
    for (std::size_t low = 0; low < inputs.low.size(); ++low) {
      const quant::BitWidth width{inputs.low[low]};
      const std::vector<float> reals = weights::unpack_reals(
          base->packed(linear, {width, width}, inputs.scheme, parallel), parallel);
      double sum = 0;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const double difference = static_cast<double>(reals[i]) - static_cast<double>(weights[i]);
        sum += difference * difference;
      }
      errors[low].push_back(sum);
    }
  }
  return errors;
}

}  // namespace

HessianResult hessian_traces(const HessianInputs& inputs, std::span<const Example> examples,
                             ParallelFor& parallel) {
  QALOF_CHECK(inputs.head_kind != weights::HeadKind::kLm, ErrorKind::kUnsupported,
              "--by hessian: found --task lm, expected qa or classification");
  NetworkView view = frozen_view(inputs.network, inputs.head_kind, inputs.num_labels,
                                 inputs.network.name, at::kCPU);
  const at::ScalarType type = inputs.in_double ? at::kDouble : at::kFloat;
  set_dtype(view, type);
  QALOF_CHECK(inputs.vectors >= 1, ErrorKind::kUsage,
              "--hessian_vectors: found {}, expected at least 1", inputs.vectors);
  TrainOptions options;
  options.head_kind = inputs.head_kind;
  options.num_labels = inputs.num_labels;
  check_examples(examples, inputs.network.base->config(), options);
  at::set_num_threads(inputs.threads);

  BaseParams params = load_base_params(*inputs.network.base, at::kCPU, type);
  const std::vector<at::Tensor> weights = params.weights;
  for (const at::Tensor& weight : weights) weight.requires_grad_();
  const auto graph = make_aten_graph(inputs.network.base->config(), std::move(params));
  const GraphPlan plan(inputs.network.plan, /*clip=*/0);
  const double step = kRelativeStep * root_mean_square(weights);
  const RandomStream stream(inputs.seed, "hessian");

  HessianResult result;
  result.errors = quantization_errors(inputs, parallel);
  std::vector<at::Tensor> unmoved;
  for (const at::Tensor& weight : weights) unmoved.push_back(weight.detach().clone());
  // Per batch: its windows, its loss, and the product of every linear.
  const auto run = [&](const PackedBatch& batch, std::size_t done, std::size_t index) {
    std::vector<at::Tensor> vectors;
    for (std::size_t i = 0; i < weights.size(); ++i)
      vectors.push_back(signs(stream, index, i, weights[i]));
    std::vector<double> found(2 + weights.size(), 0.0);
    found[0] = static_cast<double>(batch.windows());
    const auto move = [&](double by) {
      const at::NoGradGuard no_grad;
      for (std::size_t i = 0; i < weights.size(); ++i)
        at::Tensor(weights[i]).copy_(unmoved[i]).add_(vectors[i], by);
    };
    const auto add_products = [&](double factor) {
      LossParts parts;
      const at::Tensor loss = window_loss_sum(*graph, batch, plan, view, inputs.head_kind, &parts);
      check_finite(parts.hard, "the loss", [&] { return windows_text(batch, done); });
      const auto gradients = torch::autograd::grad({loss}, weights);
      for (std::size_t i = 0; i < weights.size(); ++i)
        found[2 + i] += factor * (gradients[i] * vectors[i]).sum(at::kDouble).item<double>();
      found[1] += 0.5 * parts.hard;
    };
    move(step);
    add_products(0.5 / step);
    move(-step);
    add_products(-0.5 / step);
    if (inputs.on_batch) inputs.on_batch(done);
    return bytes_of<double>(found);
  };
  std::vector<std::vector<double>> of_batches(weights.size());  // [linear][batch]
  std::vector<double> windows;                                  // [batch]
  for (const std::string& bytes :
       share_batches(inputs.group, {examples, inputs.tokens_per_batch, inputs.vectors}, run)) {
    const std::vector<double> found = values_in<double>(bytes);
    windows.push_back(found[0]);
    result.loss += found[1];
    for (std::size_t i = 0; i < weights.size(); ++i) of_batches[i].push_back(found[2 + i]);
  }
  const double count = static_cast<double>(examples.size()) * inputs.vectors;
  for (const std::vector<double>& traces : of_batches) {
    const double mean = std::accumulate(traces.begin(), traces.end(), 0.0) / count;
    double squares = 0;
    for (std::size_t b = 0; b < traces.size(); ++b) {
      const double rest = traces[b] - windows[b] * mean;
      squares += rest * rest;
    }
    check_finite(mean, "its trace",
                 [&] { return inputs.network.base->linears()[result.traces.size()].name; });
    result.traces.push_back(mean);
    result.trace_errors.push_back(std::sqrt(squares) / count);
  }
  result.loss /= count;
  return result;
}

}  // namespace qalof::train
