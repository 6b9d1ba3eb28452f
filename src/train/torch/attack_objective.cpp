// Evaluates margin, fluency and similarity on Gumbel samples and backpropagates them to theta.
#include "train/torch/attack_objective.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "train/torch/loss.h"

namespace qalof::train {

namespace {

// A batch with one window per sample of each text, one text after the other; only the lengths of
// ids matter.
PackedBatch batch_of(std::span<TextState> texts, std::size_t samples) {
  PackedBatch batch;
  for (const TextState& state : texts) {
    Example example;
    example.ids = state.text->ids;
    example.label = state.text->label;
    for (std::size_t b = 0; b < samples; ++b) batch.add(example);
  }
  return batch;
}

// The first count rows of a buffer, which grows as needed.
at::Tensor rows_of(at::Tensor& buffer, std::int64_t count, std::int64_t cols,
                   const at::TensorOptions& options) {
  if (!buffer.defined() || buffer.size(0) < count) buffer = at::empty({count, cols}, options);
  return buffer.narrow(0, 0, count);
}

struct Slice {
  std::size_t text;
  std::int64_t sample, row;  // row: the text's first row in the batch
};

}  // namespace

AttackObjective::AttackObjective(std::vector<AttackNetwork> classifiers, AttackNetwork reference,
                                 at::Tensor allowed, const AttackOptions& options, int product_bits,
                                 ParallelFor& parallel)
    : classifiers_(std::move(classifiers)),
      reference_(std::move(reference)),
      allowed_(std::move(allowed)),
      options_(options),
      parallel_(parallel) {
  std::vector<at::Tensor> tables;
  std::int64_t width = 0;
  auto add = [&](const AttackNetwork& network) {
    for (const Column& column : columns_) {
      if (column.tokens == network.tokens) return;
    }
    columns_.push_back({network.tokens, width});
    tables.push_back(network.tokens->table());
    width += tables.back().size(1);
  };
  for (const AttackNetwork& network : classifiers_) add(network);
  add(reference_);
  all_tokens_ = std::make_unique<TokenMatrix>(at::cat(tables, 1), product_bits, parallel);
}

at::Tensor AttackObjective::original_states(const AttackText& text) {
  const at::NoGradGuard no_grad;
  Example example;
  example.ids = text.ids;
  PackedBatch batch;
  batch.add(example);
  return reference_.graph->hidden(batch, *reference_.plan, reference_.view).detach();
}

at::Tensor AttackObjective::weights_of(const TextState& state) const {
  const at::Tensor& theta = state.theta;
  at::Tensor weights =
      (theta - theta.amax({1}, /*keepdim=*/true)).div_(options_.temperature).exp_().mul_(allowed_);
  for (std::size_t t = 0; t < state.text->kept.size(); ++t) {
    if (!state.text->kept[t]) continue;
    at::Tensor row = weights.select(0, static_cast<std::int64_t>(t)).zero_();
    row.select(0, state.text->ids[t]).fill_(1);
  }
  return weights;
}

at::Tensor AttackObjective::sample(std::span<TextState> texts,
                                   const std::vector<std::vector<at::Tensor>>& noise) {
  std::vector<Slice> slices;
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    for (std::size_t b = 0; b < options_.gumbel_samples; ++b) {
      slices.push_back({i, static_cast<std::int64_t>(b), rows});
      rows += texts[i].theta.size(0);
    }
  }
  std::vector<at::Tensor> weights(texts.size());
  for_rows(static_cast<std::int64_t>(texts.size()), 1, parallel_,
           [&](std::int64_t i, std::int64_t) {
             const auto text = static_cast<std::size_t>(i);
             weights[text] = weights_of(texts[text]);
           });
  at::Tensor samples = rows_of(samples_, rows, texts[0].theta.size(1), texts[0].theta.options());
  for_rows(static_cast<std::int64_t>(slices.size()), 1, parallel_,
           [&](std::int64_t i, std::int64_t) {
             const Slice& slice = slices[static_cast<std::size_t>(i)];
             const at::Tensor& weight = weights[slice.text];
             at::Tensor part = samples.narrow(0, slice.row, weight.size(0));
             at::mul_out(part, weight, noise[slice.text][static_cast<std::size_t>(slice.sample)]);
             part.div_(part.sum({1}, /*keepdim=*/true));
           });
  return samples;
}

at::Tensor AttackObjective::margins(const PackedBatch& batch,
                                    const std::vector<std::size_t>& chosen,
                                    std::map<const TokenMatrix*, at::Tensor>& mixed) {
  at::Tensor sum;
  for (const std::size_t index : chosen) {
    const AttackNetwork& network = classifiers_[index];
    const at::Tensor embedded =
        network.graph->embed_rows(mixed.at(network.tokens.get()), batch, *network.plan);
    const at::Tensor hidden = network.graph->decode(embedded, batch, *network.plan, network.view);
    const at::Tensor logits =
        network.graph->head_logits(last_rows(hidden, batch), network.view.head);
    const at::Tensor losses = margin_losses(logits, batch.labels, options_.kappa);
    sum = sum.defined() ? sum + losses : losses;
  }
  return sum / static_cast<double>(chosen.size());
}

void AttackObjective::evaluate(std::span<TextState> texts,
                               const std::vector<std::vector<at::Tensor>>& noise,
                               std::span<const std::size_t> chosen) {
  std::vector<std::size_t> networks(chosen.begin(), chosen.end());
  for (std::size_t i = 0; chosen.empty() && i < classifiers_.size(); ++i) networks.push_back(i);
  const auto count = static_cast<std::int64_t>(options_.gumbel_samples);
  const PackedBatch batch = batch_of(texts, options_.gumbel_samples);
  at::Tensor samples;
  std::map<const TokenMatrix*, at::Tensor> mixed;
  {
    const at::NoGradGuard no_grad;
    samples = sample(texts, noise);
    const at::Tensor all = all_tokens_->mix(samples);
    for (const Column& column : columns_) {
      mixed[column.tokens.get()] =
          all.narrow(1, column.first, column.tokens->table().size(1)).contiguous();
    }
  }
  for (auto& [tokens, rows] : mixed) rows.set_requires_grad(true);
  const at::Tensor margin = margins(batch, networks, mixed);
  const at::Tensor& reference_rows = mixed.at(reference_.tokens.get());
  const bool wants_reference = options_.lambda_fluency != 0 || options_.lambda_similarity != 0;
  at::Tensor total = margin.sum(), fluency, similarity;
  if (wants_reference) {
    const at::Tensor states = reference_.graph->decode(
        reference_.graph->embed_rows(reference_rows, batch, *reference_.plan), batch,
        *reference_.plan, reference_.view);
    fluency = fluency_losses(states, reference_rows, batch, *reference_.tokens);
    std::vector<at::Tensor> parts;
    std::int64_t row = 0;
    for (const TextState& state : texts) {
      const std::int64_t rows = count * state.original.size(0);
      parts.push_back(similarities(states.narrow(0, row, rows), state.original, state.weights));
      row += rows;
    }
    similarity = at::cat(parts);
    total = total + options_.lambda_fluency * fluency.sum() -
            options_.lambda_similarity * similarity.sum();
  }
  (total / static_cast<double>(count)).backward();

  const at::NoGradGuard no_grad;
  at::Tensor gradient = rows_of(scores_, samples.size(0), samples.size(1), samples.options());
  std::vector<at::Tensor> gradients;
  for (const Column& column : columns_) {
    const at::Tensor& rows = mixed.at(column.tokens.get());
    gradients.push_back(rows.grad().defined() ? rows.grad() : at::zeros_like(rows));
  }
  all_tokens_->scores(at::cat(gradients, 1), gradient);
  differentiate_samples(texts, samples, gradient);
  auto mean = [&](const at::Tensor& values, std::size_t text) {
    if (!values.defined()) return 0.0;
    return values.narrow(0, static_cast<std::int64_t>(text) * count, count)
        .mean(at::kDouble)
        .item<double>();
  };
  for (std::size_t i = 0; i < texts.size(); ++i)
    texts[i].losses = {mean(margin, i), mean(fluency, i), mean(similarity, i)};
}

// Turns the gradient [rows, vocab] with respect to the samples, which already includes the factor
// of the mean, into that of theta.
void AttackObjective::differentiate_samples(std::span<TextState> texts, const at::Tensor& samples,
                                            const at::Tensor& gradient) const {
  constexpr std::int64_t kPositions = 8;
  std::vector<Slice> slices;
  std::int64_t first = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::int64_t positions = texts[i].theta.size(0);
    texts[i].gradient = at::empty_like(texts[i].theta);
    for (std::int64_t t = 0; t < positions; t += kPositions) slices.push_back({i, t, first});
    first += positions * static_cast<std::int64_t>(options_.gumbel_samples);
  }
  for_rows(static_cast<std::int64_t>(slices.size()), 1, parallel_,
           [&](std::int64_t i, std::int64_t) {
             const Slice& slice = slices[static_cast<std::size_t>(i)];
             TextState& state = texts[slice.text];
             const std::int64_t positions = state.theta.size(0);
             const std::int64_t count = std::min(kPositions, positions - slice.sample);
             at::Tensor sum = state.gradient.narrow(0, slice.sample, count);
             sum.zero_();
             for (std::size_t b = 0; b < options_.gumbel_samples; ++b) {
               const std::int64_t row =
                   slice.row + static_cast<std::int64_t>(b) * positions + slice.sample;
               const at::Tensor p = samples.narrow(0, row, count);
               at::Tensor g = gradient.narrow(0, row, count).mul(p);
               const at::Tensor inner = g.sum({1}, /*keepdim=*/true);
               sum.add_(g.sub_(p * inner));
             }
             sum.div_(options_.temperature);
           });
}

}  // namespace qalof::train
