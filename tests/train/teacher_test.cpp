// Teachers and the losses that compare states: values and gradients against their definitions,
// outputs against the runtime, and the cache against none.
#include "train/torch/teacher.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "runtime/decoder.h"
#include "support/error_of.h"
#include "train/phases.h"
#include "train/torch/feature_loss.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace teacher_test {

using qalof::testing::error_of;

at::Tensor values_of(const std::string& name, std::int64_t rows, std::int64_t cols) {
  return to_tensor(qalof::testing::tensor_values(name, static_cast<std::size_t>(rows * cols), 1.5F),
                   {rows, cols});
}

double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor difference = found.to(at::kDouble) - expected.to(at::kDouble);
  return difference.abs().max().item<double>() / expected.abs().max().item<double>();
}

TrainOptions short_run(Method method) {
  TrainOptions options;
  options.method = method;
  options.schedule.max_steps = 8;
  options.schedule.warmup_steps = 1;
  options.schedule.batch_size = 3;
  options.adapters.lora_r = 3;
  options.adapters.lora_alpha = 6;
  options.schedule.learning_rate = 5e-3;
  options.threads = 2;
  options.widths.num_cyclic_period = 1;
  options.widths.min_bits = 6;
  if (method == Method::kLora) options.bf16 = true;
  return options;
}

// A LoRA that has learned a little, at 32 bits.
std::shared_ptr<const TeacherModel> teacher_of(std::shared_ptr<const weights::BaseModel> base,
                                               weights::HeadKind head_kind) {
  TrainOptions options = short_run(Method::kLora);
  options.bf16 = false;
  options.head_kind = head_kind;
  options.seed = 7;
  auto teacher = std::make_shared<TeacherModel>();
  teacher->name = "teacher";
  teacher->adapters =
      make_adapter_set(train(base, options, tiny_examples(8, /*shortest=*/2), {}).weights);
  teacher->plan = plan_of("32", *base);
  teacher->base = std::move(base);
  return teacher;
}

void expect_same_run(const TrainResult& a, const TrainResult& b) {
  ASSERT_EQ(a.weights.adapters.size(), b.weights.adapters.size());
  for (const auto& [width, adapter] : a.weights.adapters)
    EXPECT_TRUE(same_adapter(*adapter, *b.weights.adapters.at(width))) << width;
  for (std::size_t i = 0; i < a.phases.size(); ++i) {
    for (std::size_t s = 0; s < a.phases[i].steps.size(); ++s) {
      const StepRecord &x = a.phases[i].steps[s], &y = b.phases[i].steps[s];
      EXPECT_EQ(x.loss, y.loss);
      EXPECT_EQ(x.distillation, y.distillation);
      EXPECT_EQ(x.hidden_loss, y.hidden_loss);
      EXPECT_EQ(x.contrastive_loss, y.contrastive_loss);
    }
  }
}

TEST(HiddenLoss, IsItsDefinitionInValueAndGradient) {
  std::vector<at::Tensor> blocks, first, second;
  for (const char* name : {"a", "b", "c"}) {
    blocks.push_back(values_of(name, 7, 5).set_requires_grad(true));
    first.push_back(values_of(std::string(name) + "1", 7, 5));
    second.push_back(values_of(std::string(name) + "2", 7, 5));
  }
  double value = 0;
  compute_hidden_loss(blocks, {&first, &second}, /*normalizer=*/11, &value).backward();
  double expected = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const at::Tensor s = blocks[i].detach().to(at::kDouble), a = first[i].to(at::kDouble),
                     b = second[i].to(at::kDouble);
    at::Tensor gradient = at::zeros_like(s);
    for (const at::Tensor& t : {a, b}) {
      for (std::int64_t token = 0; token < 7; ++token) {
        const double size = t[token].dot(t[token]).item<double>();
        const at::Tensor error = s[token] - t[token];
        expected += error.dot(error).item<double>() / size / (3 * 11);
        gradient[token] += 2 * error / size / (3 * 11);
      }
    }
    // f32 differences of numbers near 1.
    EXPECT_LE(relative_error(blocks[i].grad(), gradient), 1e-6) << i;
    EXPECT_FALSE(first[i].grad().defined());
  }
  EXPECT_NEAR(value, expected, 1e-6 * expected);
}

TEST(HiddenLoss, LargeStatesCountLikeOthersAndZerosStayFinite) {
  const at::Tensor teacher = values_of("t", 4, 6), student = values_of("s", 4, 6);
  const std::vector<at::Tensor> plain = {teacher}, scaled = {teacher * 1000};
  double small = 0, large = 0, none = 0;
  compute_hidden_loss({student}, {&plain}, 4, &small);
  compute_hidden_loss({student * 1000}, {&scaled}, 4, &large);
  EXPECT_NEAR(small, large, 1e-6 * small);  // f32 products
  const std::vector<at::Tensor> zeros = {at::zeros({4, 6})};
  at::Tensor x = at::zeros({4, 6}).set_requires_grad(true);
  compute_hidden_loss({x}, {&zeros}, 4, &none).backward();
  EXPECT_EQ(none, 0);
  EXPECT_TRUE(at::isfinite(x.grad()).all().item<bool>());
}

// -log softmax of cosines / temperature, token by token in f64.
at::Tensor plain_contrastive(const at::Tensor& s, const at::Tensor& t,
                             const std::vector<std::int64_t>& rows, double temperature) {
  at::Tensor sum = at::zeros({}, at::kDouble);
  for (const std::int64_t i : rows) {
    std::vector<at::Tensor> cosines;
    for (const std::int64_t j : rows)
      cosines.push_back(s[i].dot(t[j]) / (s[i].dot(s[i]) * t[j].dot(t[j])).sqrt() / temperature);
    const at::Tensor own = s[i].dot(t[i]) / (s[i].dot(s[i]) * t[i].dot(t[i])).sqrt() / temperature;
    sum = sum + at::logsumexp(at::stack(cosines), 0) - own;
  }
  return sum / static_cast<double>(rows.size());
}

TEST(ContrastiveLoss, IsItsDefinitionInValueAndGradient) {
  const at::Tensor s = values_of("s", 9, 6).set_requires_grad(true);
  const at::Tensor t = values_of("t", 9, 6), u = values_of("u", 9, 6);
  double value = 0;
  compute_contrastive_loss(s, {t, u}, /*temperature=*/0.3, /*weight=*/0.25, &value).backward();
  const std::vector<std::int64_t> rows = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  const at::Tensor exact = s.detach().to(at::kDouble).set_requires_grad(true);
  at::Tensor expected = at::zeros({}, at::kDouble);
  for (const at::Tensor& teacher : {t, u})
    expected = expected + 0.25 * plain_contrastive(exact, teacher.to(at::kDouble), rows, 0.3);
  expected.backward();
  // f32 cosines over a temperature, through exp.
  EXPECT_NEAR(value, expected.item<double>(), 1e-5 * value);
  EXPECT_LE(relative_error(s.grad(), exact.grad()), 1e-5);
  EXPECT_FALSE(t.grad().defined());
}

TEST(ContrastiveLoss, ComparesEvenlySpacedTokensWhereThereAreMany) {
  const std::int64_t tokens = 2 * kContrastedTokens + 1;
  const at::Tensor t = values_of("t", tokens, 3);
  const at::Tensor s = t.clone().set_requires_grad(true);
  double value = 0;
  compute_contrastive_loss(s, {t}, 0.1, 1, &value).backward();
  const at::Tensor moved = s.grad().abs().sum(1) > 0;
  for (std::int64_t k = 0; k < kContrastedTokens; ++k)
    EXPECT_TRUE(moved[k * tokens / kContrastedTokens].item<bool>()) << k;
  EXPECT_EQ(moved.sum().item<std::int64_t>(), kContrastedTokens);
}

class TeacherTest : public ::testing::TestWithParam<Family> {
 protected:
  TeacherTest() : base_(tiny_base(GetParam())), pool_(2) { at::set_num_threads(1); }

  // Leaves of a random adapter and the view of it.
  NetworkView view(at::ScalarType dtype, std::vector<at::Tensor>& leaves) const {
    NetworkView result;
    result.lora_scaling = 2;
    for (const model::LinearSpec& spec : base_->linears()) {
      auto leaf = [&](const char* half, std::size_t rows, std::size_t cols) {
        leaves.push_back((values_of(spec.name + half, static_cast<std::int64_t>(rows),
                                    static_cast<std::int64_t>(cols))
                              .to(dtype) *
                          0.1)
                             .set_requires_grad(true));
        return leaves.back();
      };
      const at::Tensor a = leaf("a", 3, spec.in);
      result.lora.push_back({a, leaf("b", spec.out, 3)});
    }
    return result;
  }

  // Both losses on a graph beside a teacher of random states.
  at::Tensor loss_on(Graph& graph, const NetworkView& network, at::ScalarType dtype) {
    PackedBatch batch;
    for (const Example& example : tiny_examples(4)) batch.add(example);
    const auto tokens = static_cast<std::int64_t>(batch.tokens()),
               hidden = static_cast<std::int64_t>(base_->config().hidden);
    std::vector<at::Tensor> blocks, teacher;
    const GraphPlan plan(plan_of("32", *base_), 0);
    const at::Tensor states = graph.hidden(batch, plan, network, &blocks);
    for (std::size_t i = 0; i < blocks.size(); ++i)
      teacher.push_back(values_of(fmt::format("t{}", i), tokens, hidden).to(dtype));
    double value = 0;
    return compute_hidden_loss(blocks, {&teacher}, static_cast<double>(tokens), &value) +
           compute_contrastive_loss(states, {values_of("f", tokens, hidden).to(dtype)}, 0.5, 1,
                                    &value);
  }

  std::shared_ptr<const weights::BaseModel> base_;
  ThreadPool pool_;
};

INSTANTIATE_TEST_SUITE_P(Families, TeacherTest, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

TEST_P(TeacherTest, GradientsThroughBothGraphsAreThoseOfNumericDifferences) {
  std::vector<at::Tensor> leaves, exact_leaves;
  const NetworkView network = view(at::kFloat, leaves);
  const NetworkView exact = view(at::kDouble, exact_leaves);
  const auto kernel = make_kernel_graph(base_, nullptr, pool_);
  const auto aten =
      make_aten_graph(base_->config(), load_base_params(*base_, at::kCPU, at::kDouble));
  loss_on(*kernel, network, at::kFloat).backward();
  loss_on(*aten, exact, at::kDouble).backward();
  const c10::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    // f32 through two layers in another order of sums, as in graph_test.cpp.
    EXPECT_LE(relative_error(leaves[i].grad(), exact_leaves[i].grad()), 1e-4) << i;
    double* values = exact_leaves[i].mutable_data_ptr<double>();
    const std::int64_t middle = exact_leaves[i].numel() / 2;
    const double kept = values[middle];
    values[middle] = kept + kStep;
    const double above = loss_on(*aten, exact, at::kDouble).item<double>();
    values[middle] = kept - kStep;
    const double below = loss_on(*aten, exact, at::kDouble).item<double>();
    values[middle] = kept;
    const double numeric = (above - below) / (2 * kStep);
    EXPECT_NEAR(exact_leaves[i].grad().const_data_ptr<double>()[middle], numeric,
                1e-6 * std::max(1.0, std::abs(numeric)))
        << i;
  }
}

TEST_P(TeacherTest, SaysWhatTheRuntimeSaysAndHasNoGradient) {
  const auto examples = tiny_examples(6, /*shortest=*/2);
  TrainOptions options = short_run(Method::kLora);
  options.teacher = teacher_of(base_, weights::HeadKind::kSpan);
  options.distillation.contrastive = options.distillation.hidden_kd = 1;
  OutsideTeacher teacher(options, at::kCPU, pool_);
  const auto execution =
      runtime::Execution::create(base_, options.teacher->plan, options.teacher->adapters, pool_);
  const std::size_t width = base_->config().hidden;
  // Windows known and new, in any order.
  for (const std::vector<std::uint32_t>& windows :
       {std::vector<std::uint32_t>{4, 1}, {0, 1, 5}, {5, 4, 1}}) {
    const PassOutput output = teacher.outputs(examples, windows);
    EXPECT_EQ(output.blocks.size(), base_->config().num_layers);
    std::vector<float> all_hidden, all_logits;
    for (const std::uint32_t window : windows) {
      const runtime::Sequence sequence{examples[window].ids};
      const std::size_t rows = examples[window].ids.size();
      runtime::DecoderWorkspace workspace;
      std::vector<float> hidden(rows * width), logits(rows * 2);
      runtime::forward(*execution, {&sequence, 1}, workspace, hidden.data(), pool_);
      runtime::apply_head(*execution->head(weights::HeadKind::kSpan), hidden.data(), rows, width,
                          logits.data(), pool_);
      all_hidden.insert(all_hidden.end(), hidden.begin(), hidden.end());
      all_logits.insert(all_logits.end(), logits.begin(), logits.end());
    }
    EXPECT_TRUE(same_bytes(to_vector(output.hidden), all_hidden));
    EXPECT_TRUE(same_bytes(to_vector(output.logits), all_logits));
    EXPECT_FALSE(output.hidden.requires_grad());
    EXPECT_FALSE(output.logits.requires_grad());
    for (const at::Tensor& block : output.blocks) EXPECT_FALSE(block.requires_grad());
  }
}

TEST_P(TeacherTest, ThatIsTheStudentItselfHasNothingToSay) {
  auto same = std::make_shared<TeacherModel>();
  same->base = base_;
  same->plan = plan_of("32", *base_);
  TrainOptions options = short_run(Method::kLora);
  options.bf16 = false;
  options.head_kind = weights::HeadKind::kLm;
  options.teacher = same;
  options.distillation.hidden_kd = options.distillation.contrastive = 1;
  const TrainResult result = train(base_, options, tiny_examples(6, /*shortest=*/2), {});
  const StepRecord &first = result.phases[0].steps.front(), &last = result.phases[0].steps.back();
  EXPECT_EQ(first.distillation, 0) << "B is 0";
  EXPECT_EQ(first.hidden_loss, 0);
  EXPECT_GT(first.contrastive_loss, 0);
  EXPECT_GT(last.distillation, 0) << "hard labels lead away";
  EXPECT_GT(last.hidden_loss, 0);
  EXPECT_NEAR(
      last.loss,
      0.5 * last.hard_loss + 0.5 * last.distillation + last.hidden_loss + last.contrastive_loss,
      1e-9);
}

TEST(Teacher, BringsAStudentOfFewerBitsCloserToItself) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(6, /*shortest=*/2);
  for (const weights::HeadKind head_kind : {weights::HeadKind::kSpan, weights::HeadKind::kLm}) {
    TrainOptions options = short_run(Method::kSwitch);
    options.widths.bit_widths = {4};
    options.head_kind = head_kind;
    options.teacher = teacher_of(base, head_kind);
    options.distillation.kd_alpha = 1;
    options.distillation.hidden_kd = 1;
    options.distillation.contrastive = 0.1;
    options.schedule.batch_size = 6;
    options.schedule.max_steps = 40;
    const TrainResult result = train(base, options, examples, {});
    const auto& steps = result.phases[0].steps;
    EXPECT_LT(steps.back().distillation, 0.7 * steps.front().distillation);
    EXPECT_LT(steps.back().hidden_loss, 0.9 * steps.front().hidden_loss);
    EXPECT_LT(steps.back().contrastive_loss, steps.front().contrastive_loss);
  }
}

TEST(Teacher, CacheOfAnySizeChangesNoBit) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8, /*shortest=*/2);
  for (const weights::HeadKind head_kind : {weights::HeadKind::kSpan, weights::HeadKind::kLm}) {
    const auto teacher = teacher_of(base, head_kind);
    for (const Method method : {Method::kFull, Method::kLora, Method::kSwitch, Method::kJoint}) {
      for (const bool outside : {true, false}) {
        if (!outside && method != Method::kSwitch) continue;
        TrainOptions options = short_run(method);
        options.head_kind = head_kind;
        if (outside) options.teacher = teacher;
        options.distillation.hidden_kd = 0.5;
        options.distillation.contrastive = 0.5;
        options.distillation.teacher_cache_bytes = 0;
        const TrainResult without = train(base, options, examples, {});
        for (const std::uint64_t bytes : {std::uint64_t{20'000}, std::uint64_t{1} << 30}) {
          options.distillation.teacher_cache_bytes = bytes;
          expect_same_run(without, train(base, options, examples, {}));
        }
      }
    }
  }
}

TEST(Teacher, CacheKeepsWithinItsBound) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8);
  TrainOptions options = short_run(Method::kLora);
  int runs = 0;
  const WantedOutputs wanted(options);
  TeacherCache cache(wanted, /*max_bytes=*/400);
  const auto forward = [&](const PackedBatch& batch) {
    ++runs;
    PassOutput output;
    output.logits = at::zeros({static_cast<std::int64_t>(batch.tokens()), 2});
    return output;
  };
  for (int round = 0; round < 2; ++round) {
    for (std::uint32_t window = 0; window < 8; ++window)
      cache.outputs(examples, std::span(&window, 1), forward);
  }
  EXPECT_LE(cache.bytes(), 400U);
  EXPECT_GT(cache.bytes(), 200U);
  EXPECT_GT(runs, 8) << "some windows do not fit";
  EXPECT_LT(runs, 16) << "some are kept";
}

TEST(Teacher, HigherWidthTeachesInEveryMethodThatWalks) {
  const auto base = tiny_base();
  const auto examples = tiny_examples(8, /*shortest=*/2);
  for (const Method method : {Method::kCpt, Method::kRandom, Method::kCurriculum}) {
    for (const RandomWidths widths : {RandomWidths::kStep, RandomWidths::kLayer}) {
      if (method != Method::kRandom && widths == RandomWidths::kLayer) continue;
      TrainOptions options = short_run(method);
      options.widths.random_widths = widths;
      options.schedule.max_steps = 12;
      options.widths.bit_widths = {8, 6, 4};
      options.distillation.hidden_kd = options.distillation.contrastive = 0.1;
      options.teacher_self = true;
      const TrainResult result = train(base, options, examples, {});
      std::set<std::string> taught;
      for (const StepRecord& step : result.phases[0].steps) {
        const PassRecord& pass = step.passes.at(0);
        // At the start all adapters say the same, so a mixed plan may be next to its teacher.
        EXPECT_EQ(pass.distillation > 0, pass.network != "w8") << step.step << pass.network;
        EXPECT_EQ(pass.hidden_loss > 0, pass.network != "w8");
        EXPECT_EQ(pass.contrastive_loss > 0, pass.network != "w8");
        if (pass.distillation > 0) taught.insert(pass.network);
      }
      EXPECT_GE(taught.size(), widths == RandomWidths::kLayer ? 1U : 2U) << to_string(method);
      // The other widths learn something else than without.
      options.teacher_self = false;
      options.distillation.hidden_kd = options.distillation.contrastive = 0;
      const TrainResult alone = train(base, options, examples, {});
      EXPECT_FALSE(same_adapter(*alone.weights.adapters.at(6), *result.weights.adapters.at(6)));
    }
  }
}

TEST(Teacher, EveryHigherWidthTeachesStatesInJointTraining) {
  const auto base = tiny_base();
  TrainOptions options = short_run(Method::kJoint);
  options.widths.bit_widths = {8, 6, 4};
  options.distillation.hidden_kd = options.distillation.contrastive = 0.1;
  const TrainResult result = train(base, options, tiny_examples(8), {});
  const StepRecord& step = result.phases[0].steps.back();
  ASSERT_EQ(step.passes.size(), 3U);
  EXPECT_EQ(step.passes[0].hidden_loss, 0);
  EXPECT_EQ(step.passes[0].contrastive_loss, 0);
  EXPECT_GT(step.passes[1].hidden_loss, 0);
  EXPECT_GT(step.passes[2].hidden_loss, step.passes[1].hidden_loss) << "two teachers, fewer bits";
  EXPECT_GT(step.passes[2].contrastive_loss, step.passes[1].contrastive_loss);
  EXPECT_NEAR(step.hidden_loss, step.passes[1].hidden_loss + step.passes[2].hidden_loss, 1e-12);
}

TEST(Teacher, OfAnotherShapeIsRefusedByName) {
  const auto base = tiny_base();
  const auto narrow = [&](const char* key, int value) {
    const qalof::testing::TempDir dir;
    Json config = qalof::testing::tiny_config();
    config[key] = value;
    qalof::testing::write_model(dir.path(), config);
    auto teacher = std::make_shared<TeacherModel>();
    teacher->name = "other";
    teacher->base = weights::BaseModel::load_directory(dir.path());
    teacher->plan = plan_of("32", *teacher->base);
    return teacher;
  };
  TrainOptions options = short_run(Method::kLora);
  options.head_kind = weights::HeadKind::kLm;
  const auto refused = [&](const std::string& part) {
    const auto error =
        error_of([&] { train(base, options, tiny_examples(8, /*shortest=*/2), {}); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput);
    EXPECT_NE(error.message.find(part), std::string::npos) << error.message;
  };
  options.teacher = narrow("vocab_size", 98);
  refused("--teacher other: vocab_size is 98, expected 97");
  options.teacher = narrow("n_layer", 1);
  train(base, options, tiny_examples(8, /*shortest=*/2), {});  // logits alone: fits
  options.distillation.hidden_kd = 1;
  refused("number of its blocks is 1, expected 2");
  options.distillation.hidden_kd = 0;
  options.distillation.contrastive = 1;
  options.teacher = narrow("n_embd", 48);
  refused("width of its states is 48, expected 32");
  options.distillation.contrastive = 0;
  // A language model has no span head.
  TrainOptions full = short_run(Method::kFull);
  full.head_kind = weights::HeadKind::kLm;
  auto headless = std::make_shared<TeacherModel>(*narrow("n_layer", 2));
  headless->base =
      make_base(*base, train(base, full, tiny_examples(8, /*shortest=*/2), {}).weights.tensors);
  options.teacher = headless;
  options.head_kind = weights::HeadKind::kSpan;
  refused("has no span head");
}

TEST(Teacher, WithWeightsOfItsOwnIsRefusedByName) {
  const auto base = tiny_base();
  TrainOptions switched = short_run(Method::kSwitch);
  switched.widths.bit_widths = {8};
  switched.adapters.adapter_form = AdapterForm::kMerged;
  const auto teacher = std::make_shared<TeacherModel>();
  teacher->name = "merged";
  teacher->base = base;
  teacher->plan = plan_of("8", *base);
  teacher->adapters =
      make_adapter_set(train(base, switched, tiny_examples(8, /*shortest=*/2), {}).weights);
  TrainOptions options = short_run(Method::kLora);
  options.teacher = teacher;
  const auto error = error_of([&] { train(base, options, tiny_examples(8, /*shortest=*/2), {}); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_NE(error.message.find("--teacher merged: its adapter w8"), std::string::npos)
      << error.message;
}

}  // namespace teacher_test
}  // namespace qalof::train
