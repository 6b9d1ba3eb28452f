// The attack loop: Adam on each text's theta with Gumbel samples drawn anew in every iteration.
#include "train/attack.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "core/error.h"
#include "core/finite.h"
#include "core/flag_range.h"
#include "core/random.h"
#include "kernels/quantize.h"
#include "train/torch/attack_objective.h"
#include "train/torch/teacher.h"

namespace qalof::train {

namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;  // of Adam

// Precision of products with token embeddings, which take most of an iteration; linears have that
// of training.
constexpr int kProductBits = 16;

struct Moments {
  at::Tensor mean, square;
};

void adam(TextState& state, Moments& moments, double learning_rate, std::size_t step) {
  const at::Tensor& gradient = state.gradient;
  const auto exponent = static_cast<double>(step);
  moments.mean.mul_(kBeta1).add_(gradient, 1 - kBeta1);
  moments.square.mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
  const at::Tensor scale =
      moments.square.sqrt().div_(std::sqrt(1 - std::pow(kBeta2, exponent))).add_(kEpsilon);
  state.theta.addcdiv_(moments.mean, scale, -learning_rate / (1 - std::pow(kBeta1, exponent)));
}

at::Tensor token_table(const weights::BaseModel& base, quant::BitWidth width,
                       ParallelFor& parallel) {
  std::vector<float> values =
      *base.source().tensor_f32(model::tensor_names(base.config()).token_embedding);
  if (width.bits < 32)
    kernels::round_to_bf16(values.data(), values.size(), values.data(), parallel);
  return to_tensor(values, {static_cast<std::int64_t>(base.config().vocab_size),
                            static_cast<std::int64_t>(base.config().hidden)});
}

}  // namespace

Expectation parse_expectation(const std::string& text) {
  if (text == "all") return Expectation::kAll;
  if (text == "one") return Expectation::kOne;
  fail(ErrorKind::kUsage, "--expectation: found {}, expected all or one", text);
}

std::string to_string(Expectation expectation) {
  return expectation == Expectation::kAll ? "all" : "one";
}

void check_attack(const AttackOptions& options) {
  static constexpr double kMost = 1e30;  // its square does not overflow a double
  auto positive = [](double value, const char* flag) {
    QALOF_CHECK(value > 0 && value <= kMost, ErrorKind::kUsage,
                "{}: found {}, expected more than 0 and at most {}", flag, value, kMost);
  };
  auto finite = [](double value, const char* flag) {
    QALOF_CHECK(value >= 0 && value <= kMost, ErrorKind::kUsage, "{}: found {}, expected 0 to {}",
                flag, value, kMost);
  };
  check_count("--iterations", options.iterations);
  check_count("--gumbel_samples", options.gumbel_samples);
  positive(options.learning_rate, "--learning_rate");
  positive(options.initial, "--initial");
  finite(options.kappa, "--kappa");
  finite(options.lambda_similarity, "--lambda_similarity");
  finite(options.lambda_fluency, "--lambda_fluency");
  QALOF_CHECK(
      options.temperature >= GumbelNoise::kLowestTemperature && options.temperature <= kMost,
      ErrorKind::kUsage, "--temperature: found {}, expected {} to {}", options.temperature,
      GumbelNoise::kLowestTemperature, kMost);
}

struct Attacker::State {
  State(const AttackNetworks& networks, const AttackOptions& attack_options, Device target,
        std::size_t longest, ParallelFor& parallel_for)
      : options(attack_options),
        parallel(parallel_for),
        device(target == Device::kCuda ? at::kCUDA : at::kCPU),
        vocab(networks.reference.base->config().vocab_size),
        noise(options.seed, options.temperature, longest * vocab, parallel),
        stream(options.seed, "attack.expectation") {
    // The pool owns the threads; operations of ATen run on the thread that calls them.
    at::set_num_threads(1);
    std::vector<AttackNetwork> classifiers;
    for (const TeacherModel& model : networks.classifiers)
      classifiers.push_back(
          network(model, weights::HeadKind::kClass, networks.num_labels, "attacked"));
    AttackNetwork reference =
        network(networks.reference, weights::HeadKind::kLm, 0, "--reference_model");
    at::Tensor allowed = at::zeros({static_cast<std::int64_t>(vocab)}, at::kFloat);
    float* values = allowed.mutable_data_ptr<float>();
    for (std::size_t v = 0; v < std::min(vocab, networks.allowed.size()); ++v)
      values[v] = networks.allowed[v] ? 1.0F : 0.0F;
    objective =
        std::make_unique<AttackObjective>(std::move(classifiers), std::move(reference),
                                          allowed.to(device), options, kProductBits, parallel);
    num_classifiers = networks.classifiers.size();
    noise_table = at::from_blob(const_cast<float*>(noise.values().data()),
                                {static_cast<std::int64_t>(noise.values().size())})
                      .to(device);
  }

  AttackNetwork network(const TeacherModel& model, weights::HeadKind head_kind,
                        std::size_t num_labels, const std::string& where) {
    QALOF_CHECK(model.base->config().vocab_size == vocab, ErrorKind::kBadInput,
                "{}: {} embeddings, the reference model has {}", model.name,
                model.base->config().vocab_size, vocab);
    AttackNetwork result;
    result.plan = std::make_shared<GraphPlan>(model.plan, /*clip=*/0);
    result.view = frozen_view(model, head_kind, num_labels, where + " " + model.name, device);
    std::unique_ptr<Graph>& graph = graphs[model.base.get()];
    if (!graph && device.is_cpu()) {
      graph = make_kernel_graph(model.base, nullptr, parallel, {.bits = kProductBits});
    } else if (!graph) {
      graph = make_aten_graph(model.base, device, parallel);
    }
    result.graph = graph.get();
    std::shared_ptr<const TokenMatrix>& tokens =
        matrices[{model.base.get(), result.plan->embedding.bits}];
    if (!tokens) {
      tokens = std::make_shared<TokenMatrix>(
          token_table(*model.base, result.plan->embedding, parallel).to(device), kProductBits,
          parallel);
    }
    result.tokens = tokens;
    return result;
  }

  at::Tensor stretch(const char* name, std::uint64_t step, std::uint64_t index,
                     std::int64_t positions) const {
    const auto count = static_cast<std::size_t>(positions) * vocab;
    const auto numbers = noise.stretch(name, step, index, count);
    return noise_table
        .narrow(0, numbers.data() - noise.values().data(), static_cast<std::int64_t>(count))
        .view({positions, static_cast<std::int64_t>(vocab)});
  }

  AttackOptions options;
  ParallelFor& parallel;
  at::Device device;
  std::size_t vocab;
  GumbelNoise noise;
  RandomStream stream;
  std::size_t num_classifiers = 0;
  at::Tensor noise_table;  // the values of noise, on the device
  std::map<const weights::BaseModel*, std::unique_ptr<Graph>> graphs;
  std::map<std::pair<const weights::BaseModel*, int>, std::shared_ptr<const TokenMatrix>> matrices;
  std::unique_ptr<AttackObjective> objective;
};

Attacker::Attacker(const AttackNetworks& networks, const AttackOptions& options, Device device,
                   std::size_t longest, ParallelFor& parallel) {
  check_attack(options);
  state_ = std::make_unique<State>(networks, options, device, longest, parallel);
}
Attacker::~Attacker() = default;

std::vector<AttackedText> Attacker::attack(
    std::span<const AttackText> texts,
    const std::function<void(std::size_t iteration)>& on_iteration) {
  State& state = *state_;
  const AttackOptions& options = state.options;
  std::vector<TextState> states(texts.size());
  std::vector<Moments> moments(texts.size());
  std::vector<AttackedText> results(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto positions = static_cast<std::int64_t>(texts[i].ids.size());
    TextState& text = states[i];
    text.text = &texts[i];
    text.theta = at::zeros({positions, static_cast<std::int64_t>(state.vocab)}, at::kFloat);
    float* theta = text.theta.mutable_data_ptr<float>();
    for (std::size_t t = 0; t < texts[i].ids.size(); ++t)
      theta[t * state.vocab + static_cast<std::size_t>(texts[i].ids[t])] =
          static_cast<float>(options.initial);
    text.theta = text.theta.to(state.device);
    text.original = state.objective->original_states(texts[i]);
    text.weights = texts[i].weights.empty()
                       ? at::full({positions}, 1.0 / static_cast<double>(positions), at::kFloat)
                       : to_tensor(texts[i].weights, {positions});
    text.weights = text.weights.to(state.device);
    moments[i] = {at::zeros_like(text.theta), at::zeros_like(text.theta)};
  }
  for (std::size_t iteration = 0; iteration < options.iterations; ++iteration) {
    std::vector<std::vector<at::Tensor>> noise(texts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      for (std::size_t b = 0; b < options.gumbel_samples; ++b)
        noise[i].push_back(state.stretch("attack.noise", texts[i].index,
                                         iteration * options.gumbel_samples + b,
                                         states[i].theta.size(0)));
    }
    std::vector<std::size_t> chosen;
    if (options.expectation == Expectation::kOne)
      chosen.push_back(state.stream.below(state.num_classifiers, 0, iteration));
    state.objective->evaluate(states, noise, chosen);
    for_rows(static_cast<std::int64_t>(texts.size()), 1, state.parallel,
             [&](std::int64_t i, std::int64_t) {
               const auto text = static_cast<std::size_t>(i);
               adam(states[text], moments[text], options.learning_rate, iteration + 1);
             });
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (iteration == 0) results[i].first = states[i].losses;
      results[i].last = states[i].losses;
      const AttackLosses& losses = states[i].losses;
      for (const auto& [what, value] : {std::pair{"the margin", losses.margin},
                                        {"the fluency", losses.fluency},
                                        {"the similarity", losses.similarity},
                                        {"the loss", losses.total(options)}}) {
        check_finite(value, what, [&] {
          return fmt::format("sample {}, iteration {}", texts[i].index, iteration + 1);
        });
      }
    }
    if (on_iteration) on_iteration(iteration + 1);
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const at::NoGradGuard no_grad;
    results[i].distribution = {texts[i].ids.size(), state.vocab,
                               to_vector(state.objective->weights_of(states[i]))};
    check_finite(std::span<const float>(results[i].distribution.weights), "a token's probability",
                 [&] { return fmt::format("sample {}", texts[i].index); });
  }
  return results;
}

std::vector<std::int32_t> Attacker::hard_sample(const AttackText& text,
                                                const TokenDistribution& distribution,
                                                std::uint64_t number) const {
  return draw_tokens(distribution,
                     state_->noise.stretch("attack.hard", text.index, number,
                                           distribution.positions * distribution.vocab));
}

}  // namespace qalof::train
