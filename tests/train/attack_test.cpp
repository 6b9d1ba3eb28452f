// The attack: noise and draws by their distribution, losses and gradients by their definition, the
// same texts whatever runs beside them.
#include "train/attack.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/statistics.h"
#include "support/error_of.h"
#include "tensor_test_util.h"
#include "train/torch/attack_objective.h"
#include "train/torch/loss.h"
#include "train/torch/teacher.h"
#include "train_test_util.h"

namespace qalof::train {
namespace attack_test {

constexpr std::size_t kClasses = 3;
constexpr std::size_t kVocab = 97;

TEST(GumbelNoise, NumbersHaveTheDistributionAndStretchesDoNotDependOnTheLongest) {
  ThreadPool pool(2);
  SerialFor serial;
  const GumbelNoise noise(5, 1.0, 1000, pool), longer(5, 1.0, 5000, serial);
  double sum = 0, squares = 0;
  for (const float value : noise.values()) {
    const double g = std::log(static_cast<double>(value));
    ASSERT_TRUE(std::isfinite(g));
    sum += g;
    squares += g * g;
  }
  const auto count = static_cast<double>(noise.values().size());
  const double mean = sum / count;
  // Euler's constant and pi^2 / 6; errors of the estimates are 0.001 and 0.003.
  EXPECT_NEAR(mean, 0.57722, 0.005);
  EXPECT_NEAR(squares / count - mean * mean, 1.64493, 0.015);
  for (const std::uint64_t step : {0, 3}) {
    const auto a = noise.stretch("s", step, 7, 900), b = longer.stretch("s", step, 7, 900);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin()));
    EXPECT_NE(noise.stretch("t", step, 7, 1)[0], a[0]);
  }
  const GumbelNoise colder(5, 0.5, 1000, serial);
  EXPECT_FLOAT_EQ(colder.values()[11], noise.values()[11] * noise.values()[11]);
  EXPECT_THAT(qalof::testing::error_of([&] { GumbelNoise(5, 0.1, 10, serial); }).message,
              ::testing::HasSubstr("--temperature: found 0.1, expected at least 0.3"));
}

TEST(GumbelNoise, DrawsFollowTheWeights) {
  SerialFor serial;
  const GumbelNoise noise(6, 1.0, 16, serial);
  const TokenDistribution distribution{2, 4, {1, 2, 3, 4, 0, 5, 0, 5}};
  constexpr std::size_t kDraws = 20000;
  double counts[2][4] = {};
  for (std::size_t i = 0; i < kDraws; ++i) {
    const auto tokens = draw_tokens(distribution, noise.stretch("d", 0, i, 8));
    for (const std::size_t t : {0, 1}) counts[t][tokens[t]] += 1.0 / kDraws;
  }
  // Four standard errors of a share are at most 0.015.
  for (std::size_t v = 0; v < 4; ++v) {
    EXPECT_NEAR(counts[0][v], 0.1 * (static_cast<double>(v) + 1), 0.015);
    EXPECT_NEAR(counts[1][v], v % 2 == 1 ? 0.5 : 0.0, v % 2 == 1 ? 0.015 : 0.0);
  }
}

class AttackTest : public ::testing::TestWithParam<Family> {
 protected:
  AttackTest() : base_(tiny_base(GetParam())), pool_(2) {
    at::set_num_threads(1);
    // Another model of the same tokens.
    const qalof::testing::TempDir dir;
    qalof::testing::write_model(dir.path(),
                                GetParam() == Family::kGpt2 ? qalof::testing::tiny_config()
                                                            : qalof::testing::tiny_llama_config(),
                                /*seed=*/9);
    reference_ = weights::BaseModel::load_directory(dir.path());
    adapters_ = std::make_shared<weights::AdapterSet>();
    auto adapter = std::make_shared<weights::Adapter>();
    adapter->class_head = weights::Head{
        kClasses,
        qalof::testing::tensor_values("score", kClasses * base_->config().hidden, 0.3F),
        {}};
    adapters_->by_width[0] = adapter;
    for (const std::size_t length : {5, 1, 9}) {
      AttackText text;
      text.index = texts_.size();
      for (std::size_t t = 0; t < length; ++t)
        text.ids.push_back(static_cast<std::int32_t>((t * 31 + length) % 90));
      text.label = static_cast<std::int32_t>(texts_.size() % kClasses);
      texts_.push_back(text);
    }
    texts_[2].weights = {0.1F, 0.2F, 0.0F, 0.1F, 0.1F, 0.1F, 0.1F, 0.1F, 0.2F};
    options_.gumbel_samples = 2;
    options_.initial = 3;
    options_.kappa = 50;  // every sample counts
    options_.lambda_similarity = 0.7;
    options_.lambda_fluency = 1.3;
    options_.temperature = 0.8;
  }

  TeacherModel model(const std::shared_ptr<const weights::BaseModel>& base,
                     const std::string& precision) const {
    return {"tiny", base, base == base_ ? adapters_ : nullptr, plan_of(precision, *base)};
  }
  AttackNetworks networks(const std::vector<std::string>& precisions) const {
    AttackNetworks result;
    for (const std::string& precision : precisions)
      result.classifiers.push_back(model(base_, precision));
    result.num_labels = kClasses;
    result.reference = model(reference_, "32");
    result.allowed.assign(kVocab, true);
    result.allowed[96] = false;
    return result;
  }

  // Graphs of both models in one form.
  struct Graphs {
    std::unique_ptr<Graph> base, reference;
    at::ScalarType type = at::kFloat;
  };
  Graphs kernel_graphs() {
    return {make_kernel_graph(base_, nullptr, pool_),
            make_kernel_graph(reference_, nullptr, pool_)};
  }
  Graphs aten_graphs(at::ScalarType type) {
    auto make = [&](const weights::BaseModel& base) {
      return make_aten_graph(base.config(), load_base_params(base, at::kCPU, type));
    };
    return {make(*base_), make(*reference_), type};
  }
  std::unique_ptr<AttackObjective> objective(const Graphs& graphs,
                                             const std::vector<std::string>& precisions,
                                             int bits = 32) {
    auto network = [&](Graph* graph, const TeacherModel& from, weights::HeadKind head_kind) {
      AttackNetwork result;
      result.graph = graph;
      result.plan = std::make_shared<GraphPlan>(from.plan, 0);
      result.view = frozen_view(from, head_kind, kClasses, "test", at::kCPU);
      if (result.view.head.weight.defined()) {
        result.view.head.weight = result.view.head.weight.to(graphs.type);
        result.view.head.bias = result.view.head.bias.to(graphs.type);
      }
      at::Tensor table = load_base_params(*from.base, at::kCPU).wte;
      if (result.plan->embedding.bits < 32) table = table.to(at::kBFloat16);
      result.tokens = std::make_shared<TokenMatrix>(table.to(graphs.type), bits, pool_);
      return result;
    };
    const AttackNetworks all = networks(precisions);
    std::vector<AttackNetwork> classifiers;
    for (const TeacherModel& one : all.classifiers)
      classifiers.push_back(network(graphs.base.get(), one, weights::HeadKind::kClass));
    at::Tensor allowed = at::ones({kVocab}, graphs.type);
    allowed[96] = 0;
    return std::make_unique<AttackObjective>(
        std::move(classifiers),
        network(graphs.reference.get(), all.reference, weights::HeadKind::kLm), allowed, options_,
        bits, pool_);
  }

  // Thetas that are no longer where they began, and noise, in a type.
  std::vector<TextState> states(AttackObjective& objective, at::ScalarType type) {
    std::vector<TextState> result(texts_.size());
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      const auto positions = static_cast<std::int64_t>(texts_[i].ids.size());
      TextState& state = result[i];
      state.text = &texts_[i];
      state.theta = to_tensor(qalof::testing::tensor_values(fmt::format("theta{}", i),
                                                            texts_[i].ids.size() * kVocab, 1.0F),
                              {positions, kVocab})
                        .to(type);
      for (std::int64_t t = 0; t < positions; ++t)
        state.theta[t][texts_[i].ids[static_cast<std::size_t>(t)]] += options_.initial;
      state.original = objective.original_states(texts_[i]);
      state.weights = (texts_[i].weights.empty()
                           ? at::full({positions}, 1.0 / static_cast<double>(positions), at::kFloat)
                           : to_tensor(texts_[i].weights, {positions}))
                          .to(type);
    }
    return result;
  }
  // Thetas of the texts themselves, where an attack begins.
  std::vector<TextState> original_states(AttackObjective& objective) {
    std::vector<TextState> result = states(objective, at::kFloat);
    for (TextState& state : result) {
      state.theta.zero_();
      for (std::int64_t t = 0; t < state.theta.size(0); ++t)
        state.theta[t][state.text->ids[static_cast<std::size_t>(t)]] = options_.initial;
    }
    return result;
  }
  // Samples of an iteration.
  std::vector<std::vector<at::Tensor>> noise_of(const GumbelNoise& source, std::string_view stream,
                                                std::uint64_t iteration) const {
    std::vector<std::vector<at::Tensor>> result(texts_.size());
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      const std::size_t count = texts_[i].ids.size() * kVocab;
      for (std::size_t b = 0; b < options_.gumbel_samples; ++b) {
        const auto part = source.stretch(stream, i, iteration * options_.gumbel_samples + b, count);
        result[i].push_back(to_tensor({part.begin(), part.end()},
                                      {static_cast<std::int64_t>(texts_[i].ids.size()), kVocab}));
      }
    }
    return result;
  }
  std::vector<std::vector<at::Tensor>> noise(at::ScalarType type) const {
    SerialFor serial;
    static const GumbelNoise source(8, 0.8, 9 * kVocab, serial);
    std::vector<std::vector<at::Tensor>> result = noise_of(source, "n", 0);
    for (std::vector<at::Tensor>& samples : result) {
      for (at::Tensor& sample : samples) sample = sample.to(type);
    }
    return result;
  }
  std::vector<TextState> evaluated(const Graphs& graphs, const std::vector<std::string>& precisions,
                                   int bits = 32) {
    const auto target = objective(graphs, precisions, bits);
    std::vector<TextState> result = states(*target, graphs.type);
    target->evaluate(result, noise(graphs.type), {});
    return result;
  }

  std::shared_ptr<const weights::BaseModel> base_, reference_;
  std::shared_ptr<weights::AdapterSet> adapters_;
  ThreadPool pool_;
  std::vector<AttackText> texts_;
  AttackOptions options_;
};
INSTANTIATE_TEST_SUITE_P(Families, AttackTest, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

TEST_P(AttackTest, GradientOfThetaIsTheDerivativeAndTheGraphsAgree) {
  const Graphs exact_graphs = aten_graphs(at::kDouble);
  const auto exact = objective(exact_graphs, {"32"});
  std::vector<TextState> found = states(*exact, at::kDouble);
  const auto numbers = noise(at::kDouble);
  exact->evaluate(found, numbers, {});
  constexpr double kStep = 1e-5;
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}, std::size_t{2}}) {
    const std::int64_t last = found[i].theta.size(0) - 1;
    for (const auto& [row, col] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {0, texts_[i].ids[0]}, {last, 40}, {last / 2, 63}}) {
      double sides[2];
      for (const int side : {0, 1}) {
        std::vector<TextState> moved = found;
        moved[i].theta = found[i].theta.clone();
        moved[i].theta[row][col] += side == 0 ? -kStep : kStep;
        exact->evaluate(moved, numbers, {});
        sides[side] = moved[i].losses.total(options_);
      }
      // Central differences in f64: kStep^2 and rounding / kStep.
      EXPECT_NEAR(found[i].gradient[row][col].item<double>(), (sides[1] - sides[0]) / (2 * kStep),
                  1e-7)
          << i << " " << row << " " << col;
    }
    EXPECT_EQ(found[i].gradient.select(1, 96).abs().max().item<double>(), 0) << "may not come";
  }
  auto agrees = [&](const std::vector<TextState>& same, double tolerance) {
    for (std::size_t i = 0; i < same.size(); ++i) {
      EXPECT_LE(relative_error(same[i].gradient, found[i].gradient), tolerance) << i;
      EXPECT_NEAR(same[i].losses.total(options_), found[i].losses.total(options_), tolerance) << i;
    }
  };
  agrees(evaluated(kernel_graphs(), {"32"}), 2e-4);  // f32 sums
  agrees(evaluated(aten_graphs(at::kFloat), {"32"}), 2e-4);
  agrees(evaluated(kernel_graphs(), {"32"}, 16), 0.02);  // factors have 8 bits
}

TEST_P(AttackTest, GradientPassesTheQuantizerStraightAndIsTheMeanOverWidths) {
  std::map<std::string, std::vector<TextState>> found;
  for (const char* text : {"8", "4"}) {
    found[text] = evaluated(kernel_graphs(), {text});
    const std::vector<TextState> oracle = evaluated(aten_graphs(at::kDouble), {text});
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      const at::Tensor a = found[text][i].gradient.to(at::kDouble).flatten(),
                       b = oracle[i].gradient.flatten();
      // The graphs round a few codes to the other side; at 4 bits a code is a fifteenth of a range.
      const double cosine = (a.dot(b) / (a.norm() * b.norm())).item<double>();
      EXPECT_GE(cosine, text[0] == '8' ? 0.99 : 0.8) << text << " " << i;
    }
  }
  const std::vector<TextState> both = evaluated(kernel_graphs(), {"8", "4"});
  for (std::size_t i = 0; i < both.size(); ++i) {
    EXPECT_LE(
        relative_error(both[i].gradient, (found["8"][i].gradient + found["4"][i].gradient) / 2),
        1e-5);
    EXPECT_NEAR(both[i].losses.margin,
                (found["8"][i].losses.margin + found["4"][i].losses.margin) / 2, 1e-5);
  }
}

// What lies between theta and the network is the definition's, at widths where the network itself
// has no exact counterpart.
TEST_P(AttackTest, LossesAreThoseOfTheDefinition) {
  options_.lambda_fluency = 1;
  const Graphs graphs = kernel_graphs();
  for (const char* text : {"32", "4"}) {
    const auto target = objective(graphs, {text});
    std::vector<TextState> found = states(*target, at::kFloat);
    const auto numbers = noise(at::kFloat);
    target->evaluate(found, numbers, {});
    const GraphPlan plan(plan_of(text, *base_), 0), full(plan_of("32", *reference_), 0);
    const NetworkView view =
        frozen_view(model(base_, text), weights::HeadKind::kClass, kClasses, "test", at::kCPU);
    const at::Tensor wte = load_base_params(*base_, at::kCPU).wte,
                     reference_wte = load_base_params(*reference_, at::kCPU).wte;
    const at::Tensor rounded =
        plan.embedding.bits < 32 ? wte.to(at::kBFloat16).to(at::kFloat) : wte;
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      Example example;
      example.ids = texts_[i].ids;
      PackedBatch batch;
      batch.add(example);
      AttackLosses expected;
      for (std::size_t b = 0; b < options_.gumbel_samples; ++b) {
        // log of the noise is g / temperature.
        at::Tensor scores = found[i].theta / options_.temperature + numbers[i][b].log();
        scores.select(1, 96).fill_(-std::numeric_limits<float>::infinity());
        const at::Tensor pi = at::softmax(scores, 1);
        const at::Tensor hidden = graphs.base->decode(
            graphs.base->embed_rows(pi.mm(rounded), batch, plan), batch, plan, view);
        const at::Tensor z = graphs.base->head_logits(last_rows(hidden, batch), view.head)[0];
        double other = -1e9;
        for (std::int64_t k = 0; k < z.size(0); ++k)
          if (k != texts_[i].label) other = std::max(other, z[k].item<double>());
        const double share = 1.0 / static_cast<double>(options_.gumbel_samples);
        expected.margin +=
            share * std::max(0.0, z[texts_[i].label].item<double>() - other + options_.kappa);
        const at::Tensor states = graphs.reference->decode(
            graphs.reference->embed_rows(pi.mm(reference_wte), batch, full), batch, full, {});
        const at::Tensor log_p = at::log_softmax(states.mm(reference_wte.t()), 1);
        const std::int64_t n = pi.size(0);
        for (std::int64_t t = 1; t < n; ++t)
          expected.fluency -=
              share * (pi[t] * log_p[t - 1]).sum().item<double>() / static_cast<double>(n - 1);
        for (std::int64_t t = 0; t < n; ++t) {
          double best = -1;
          for (std::int64_t s = 0; s < n; ++s)
            best = std::max(
                best, at::cosine_similarity(found[i].original[t], states[s], 0).item<double>());
          expected.similarity += share * found[i].weights[t].item<double>() * best;
        }
      }
      // Sums in f32; at 4 bits a mixed row may round to another code.
      const double tolerance = text[0] == '4' ? 0.05 : 1e-4;
      EXPECT_NEAR(found[i].losses.margin, expected.margin, tolerance) << text << " " << i;
      EXPECT_NEAR(found[i].losses.fluency, expected.fluency, 1e-4) << text << " " << i;
      EXPECT_NEAR(found[i].losses.similarity, expected.similarity, 1e-4) << text << " " << i;
    }
  }
}

TEST_P(AttackTest, ATextDependsOnNeitherThreadsNorItsNeighbours) {
  options_ = {};
  options_.iterations = 4;
  options_.gumbel_samples = 3;
  auto attack = [&](int threads, std::span<const AttackText> texts,
                    const std::vector<std::string>& precisions) {
    ThreadPool pool(threads);
    Attacker attacker(networks(precisions), options_, Device::kCpu, 9, pool);
    std::vector<AttackedText> result = attacker.attack(texts, {});
    std::vector<std::vector<std::int32_t>> hard;
    for (std::size_t i = 0; i < texts.size(); ++i)
      hard.push_back(attacker.hard_sample(texts[i], result[i].distribution, 3));
    return std::pair(std::move(result), std::move(hard));
  };
  for (const Expectation expectation : {Expectation::kAll, Expectation::kOne}) {
    options_.expectation = expectation;
    const auto together = attack(2, texts_, {"8", "4"});
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      const auto alone = attack(1, std::span(texts_).subspan(i, 1), {"8", "4"});
      EXPECT_TRUE(
          same_bytes(alone.first[0].distribution.weights, together.first[i].distribution.weights))
          << i;
      EXPECT_EQ(alone.first[0].last.margin, together.first[i].last.margin);
      EXPECT_EQ(alone.second[0], together.second[i]);
      for (const std::int32_t id : together.second[i]) EXPECT_NE(id, 96);
    }
  }
  options_.seed = 43;
  EXPECT_FALSE(same_bytes(attack(2, texts_, {"8"}).first[0].distribution.weights,
                          attack(2, texts_, {"4"}).first[0].distribution.weights));
}

TEST_P(AttackTest, TokensThatAreKeptStayInEverySample) {
  options_ = {};
  options_.iterations = 5;
  options_.learning_rate = 2;
  options_.gumbel_samples = 3;
  // One that no attack may put, at the start and at the end.
  AttackText& text = texts_[2];
  text.ids.front() = text.ids.back() = 96;
  text.kept.assign(text.ids.size(), false);
  text.kept.front() = text.kept.back() = text.kept[4] = true;
  Attacker attacker(networks({"8"}), options_, Device::kCpu, 9, pool_);
  const std::vector<AttackedText> attacked = attacker.attack(texts_, {});
  std::size_t moved = 0;
  for (std::uint64_t number = 0; number < 20; ++number) {
    const auto sample = attacker.hard_sample(text, attacked[2].distribution, number);
    for (std::size_t t = 0; t < sample.size(); ++t) {
      if (text.kept[t]) {
        EXPECT_EQ(sample[t], text.ids[t]) << t;
      }
      moved += sample[t] != text.ids[t] ? 1 : 0;
    }
  }
  EXPECT_GT(moved, 0U);
}

// The losses that an attack reports of its first iteration are those of the original's theta on the
// noise of that iteration, and of one that goes on the same.
TEST_P(AttackTest, FirstLossesAreThoseOfTheOriginal) {
  options_ = {};
  options_.gumbel_samples = 4;
  SerialFor serial;
  const GumbelNoise source(options_.seed, options_.temperature, 9 * kVocab, serial);
  const Graphs graphs = kernel_graphs();
  for (const char* text : {"32", "8", "4"}) {
    const auto target = objective(graphs, {text}, /*bits=*/16);
    std::vector<TextState> states = original_states(*target);
    target->evaluate(states, noise_of(source, "attack.noise", 0), {});
    for (const std::size_t iterations : {1, 2}) {
      options_.iterations = iterations;
      Attacker attacker(networks({text}), options_, Device::kCpu, 9, pool_);
      const std::vector<AttackedText> attacked = attacker.attack(texts_, {});
      for (std::size_t i = 0; i < texts_.size(); ++i) {
        const double first = attacked[i].first.total(options_);
        EXPECT_EQ(first, states[i].losses.total(options_)) << text << " " << i;
        if (iterations == 1) {
          EXPECT_EQ(attacked[i].last.total(options_), first);
        }
      }
      if (iterations == 2) {
        EXPECT_NE(attacked[2].last.total(options_), attacked[2].first.total(options_))
            << "other noise, another theta";
      }
    }
  }
}

// The attack minimizes the expectation of its loss over the noise, so that the losses of two
// iterations, each on a few numbers of its own, need not fall. With the margin alone as the loss,
// and large enough that 0 cuts nothing off, its expectation falls: as measured on the same noise
// before and after, by many errors of the mean difference.
TEST_P(AttackTest, LowersTheExpectedMarginAtEveryWidth) {
  options_ = {};
  options_.kappa = 50;
  options_.lambda_similarity = options_.lambda_fluency = 0;
  SerialFor serial;
  const GumbelNoise source(11, options_.temperature, 9 * kVocab, serial);
  for (const char* text : {"32", "8", "4"}) {
    options_.iterations = 20;
    options_.gumbel_samples = 4;
    Attacker attacker(networks({text}), options_, Device::kCpu, 9, pool_);
    const std::vector<AttackedText> attacked = attacker.attack(texts_, {});
    options_.gumbel_samples = 20;
    const Graphs graphs = kernel_graphs();
    const auto target = objective(graphs, {text});
    std::vector<TextState> before = original_states(*target), after = before;
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      const TokenDistribution& found = attacked[i].distribution;
      after[i].theta = to_tensor(found.weights, {static_cast<std::int64_t>(found.positions),
                                                 static_cast<std::int64_t>(found.vocab)})
                           .log();
    }
    std::vector<std::vector<double>> differences(texts_.size());
    for (std::uint64_t group = 0; group < 10; ++group) {
      const auto numbers = noise_of(source, "margin", group);
      target->evaluate(before, numbers, {});
      target->evaluate(after, numbers, {});
      for (std::size_t i = 0; i < texts_.size(); ++i)
        differences[i].push_back(after[i].losses.margin - before[i].losses.margin);
    }
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      const MeanAndError change = mean_and_error(differences[i]);
      EXPECT_LT(change.mean + 6 * change.error, 0) << text << " " << i;
    }
  }
}

TEST_P(AttackTest, RefusesWhatItCannotAttack) {
  auto error = [&](const AttackNetworks& networks, const AttackOptions& options) {
    return qalof::testing::error_of([&] { Attacker(networks, options, Device::kCpu, 9, pool_); })
        .message;
  };
  AttackNetworks headless = networks({"8"});
  headless.classifiers[0].adapters = nullptr;
  EXPECT_THAT(error(headless, options_),
              ::testing::HasSubstr("has no classification head (score)"));
  AttackOptions bad = options_;
  bad.learning_rate = -1;
  EXPECT_THAT(error(networks({"8"}), bad),
              ::testing::HasSubstr("--learning_rate: found -1, expected more than 0"));
  bad = options_;
  bad.gumbel_samples = 0;
  EXPECT_THAT(error(networks({"8"}), bad), ::testing::HasSubstr("--gumbel_samples: found 0"));
}

}  // namespace attack_test
}  // namespace qalof::train
