// Sensitivity analyses on a tiny model: scores equal those of eval with the unit's plan, stopped
// runs end in the same bytes, and plans are found, refined and compared.
#include "app/sensitivity/sensitivity.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>

#include "app/sensitivity/budget.h"
#include "app/sensitivity/from_gradients.h"
#include "app/sensitivity/plan_comparison.h"
#include "app/sensitivity/plan_meter.h"
#include "app/sensitivity/state.h"
#include "core/file.h"
#include "io/adapter_dir.h"
#include "support/error_of.h"
#include "support/temp_dir.h"
#include "support/tiny_runtime.h"
#include "text/bpe_tokenizer.h"

namespace qalof::app {
namespace sensitivity_test {

using qalof::testing::error_of;

// A tiny model with the nano model's tokenizer and questions, and an adapter set per width.
class SensitivityTest : public ::testing::Test {
 protected:
  SensitivityTest() {
    Json config = qalof::testing::tiny_config();
    config["vocab_size"] = 640;
    config["n_positions"] = 128;
    config["bos_token_id"] = config["eos_token_id"] = 0;
    qalof::testing::write_model(model(), config);
    text::copy_tokenizer_files(QALOF_SOURCE_DIR "/assets/nano/model", model());
    const model::ModelConfig parsed = model::parse_model_config(config, "test config");
    io::AdapterDir described;
    described.base_id = "tiny";
    const auto set = qalof::testing::random_adapters(parsed, {8, 4});
    for (const auto& [width, adapter] : set->by_width) {
      described.adapters[width] = fmt::format("w{}", width);
      weights::save_adapter(fmt::format("{}/w{}", adapters(), width), *adapter, parsed,
                            weights::HeadKind::kSpan, "tiny");
    }
    described.heads = described.adapters;
    io::write_adapter_dir(adapters(), described);
  }
  std::string model() const { return dir_.file("model"); }
  std::string adapters() const { return dir_.file("adapters"); }

  SensitivityOptions options(const std::string& output = "") const {
    SensitivityOptions options;
    options.model.model = model();
    options.model.adapter = adapters();
    options.model.threads = 2;
    options.data.file = QALOF_SOURCE_DIR "/assets/nano/data/validation.json";
    options.data.max_samples = 60;
    options.data.max_seq_length = 128;
    options.tasks.get<tasks::Qa>().doc_stride = 16;
    if (!output.empty()) options.output_dir = dir_.file(output);
    return options;
  }
  SensitivityResult run(const SensitivityOptions& options) {
    return measure_sensitivity(options, silent_);
  }
  // Scores of eval with a plan file of these words after the default.
  tasks::Scores evaluate(const std::string& rest) {
    std::ofstream(dir_.file("plan.json"))
        << R"({"format_version": 1, "default": "w8a8kv8", "head": 8)" << rest << "}";
    ModelOptions chosen = options().model;
    chosen.precision = dir_.file("plan.json");
    const ModelHandle handle = open_model(chosen, silent_);
    ThreadPool pool(2);
    const SensitivityOptions given = options();
    const text::TextEncoder encoder = open_encoder(handle, silent_);
    const runtime::RequestExecutions executions(make_execution(handle, pool, silent_));
    return given.tasks.get<tasks::Qa>().evaluate(
        {make_reading(handle, encoder, silent_), executions, pool}, given.data);
  }
  static const UnitResult& unit(const SensitivityResult& result, const std::string& name,
                                Part part = Part::kBoth) {
    for (const UnitResult& entry : result.units) {
      if (entry.unit.name == name && entry.unit.part == part) return entry;
    }
    ADD_FAILURE() << "no unit " << name;
    return result.units.front();
  }

  qalof::testing::TempDir dir_;
  Observer silent_;
};

TEST_F(SensitivityTest, ScoresAreThoseOfEvalWithTheUnitsPlan) {
  SensitivityOptions options = this->options();
  options.low = {4, 3};
  const SensitivityResult result = run(options);
  EXPECT_EQ(result.samples, 60U);
  EXPECT_EQ(result.units.size(), 8U);
  const tasks::Scores high = evaluate("");
  EXPECT_EQ(result.f1, high.at("eval_f1"));
  EXPECT_EQ(result.em, high.at("eval_exact_match"));
  int changed = 0;
  for (const auto& [unit, costs] : result.units) {
    for (const UnitCost& cost : costs) {
      const tasks::Scores low = evaluate(
          fmt::format(R"(, "modules": {{"{}": "w{}a{}"}})", unit.name, cost.bits, cost.bits));
      // Sums of the same numbers in another order.
      EXPECT_NEAR(cost.delta_f1, low.at("eval_f1") - high.at("eval_f1"), 1e-10) << unit.name;
      EXPECT_NEAR(cost.delta_em, low.at("eval_exact_match") - high.at("eval_exact_match"), 1e-10)
          << unit.name;
      EXPECT_GT(cost.kl, 0) << unit.name;
      EXPECT_LE(cost.delta_f1_interval.low, cost.delta_f1);
      EXPECT_GE(cost.delta_f1_interval.high, cost.delta_f1);
      changed += cost.delta_f1 != 0 ? 1 : 0;
    }
    EXPECT_NE(costs[1].kl, costs[0].kl) << unit.name;
  }
  EXPECT_GT(changed, 4);
}

TEST_F(SensitivityTest, PartsKindsAndKvAreThoseOfEval) {
  SensitivityOptions options = this->options();
  options.units = {Granularity::kKind, /*split=*/true, /*kv=*/true};
  const SensitivityResult result = run(options);
  EXPECT_EQ(result.units.size(), 2U * 7 + 2);
  const auto check = [&](const UnitResult& found, const std::string& plan) {
    EXPECT_NEAR(found.costs[0].delta_f1, evaluate(plan).at("eval_f1") - result.f1, 1e-10) << plan;
  };
  const std::string rules = R"(, "rules": [{"match": "h\\.\\d+\\.)";
  check(unit(result, "attn", Part::kWeights), rules + R"(attn\\..*", "set": "w4a8"}])");
  check(unit(result, "mlp.c_fc", Part::kActivations), rules + R"(mlp\\.c_fc", "set": "w8a4"}])");
  check(unit(result, "k", Part::kKv), R"(, "kv": {"0": {"k": 4}, "1": {"k": 4}})");
  EXPECT_EQ(unit(result, "mlp", Part::kWeights).unit.parameters, 2U * 2 * 32 * 128);
}

TEST_F(SensitivityTest, UnitsOfEveryGranularityCoverTheModel) {
  const auto base = weights::BaseModel::load_directory(model());
  const auto names = [&](Granularity granularity) {
    std::vector<std::string> result;
    std::size_t parameters = 0;
    for (const SensitivityUnit& unit : sensitivity_units(*base, {granularity, false, true})) {
      result.push_back(unit.name);
      parameters += unit.parameters;
    }
    EXPECT_EQ(parameters, (granularity == Granularity::kKind ? 3U : 1U) * 2 * 12 * 32 * 32);
    return fmt::format("{}", fmt::join(result, " "));
  };
  EXPECT_EQ(names(Granularity::kLayer),
            "h.0.attn h.0.mlp h.1.attn h.1.mlp h.0.k h.0.v h.1.k h.1.v");
  EXPECT_EQ(names(Granularity::kBlock), "h.0 h.1 h.0.k h.0.v h.1.k h.1.v");
  EXPECT_EQ(names(Granularity::kKind),
            "attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj attn mlp all k v");
  EXPECT_EQ(error_of([] { parse_granularity("head"); }).message,
            "--granularity: found head, expected sublayer, layer, block or kind");
}

TEST_F(SensitivityTest, AStoppedRunEndsInTheSameBytes) {
  const SensitivityOptions whole = options("whole");
  run(whole);
  SensitivityOptions stopped = options("stopped");
  int asked = 0;
  stopped.should_stop = [&] { return ++asked > 5; };
  EXPECT_EQ(error_of([&] { run(stopped); }).kind, ErrorKind::kInterrupted);
  const std::string state = stopped.output_dir + "/sensitivity_state.jsonl";
  const std::string text = read_file(state, 1 << 24);
  // Killed in the middle of a line.
  std::ofstream(state, std::ios::trunc) << text.substr(0, text.size() - 7);
  stopped.should_stop = nullptr;
  EXPECT_FALSE(path_exists(stopped.output_dir + "/sensitivity.json"));
  run(stopped);
  EXPECT_EQ(read_file(stopped.output_dir + "/sensitivity.json", 1 << 24),
            read_file(whole.output_dir + "/sensitivity.json", 1 << 24));
  EXPECT_EQ(read_file(state, 1 << 24),
            read_file(whole.output_dir + "/sensitivity_state.jsonl", 1 << 24));
}

TEST_F(SensitivityTest, StatesOfOtherRunsAndBrokenOnesAreRefused) {
  SensitivityOptions options = this->options("out");
  options.data.max_samples = 3;
  run(options);
  options.low = {5};
  const std::string state = options.output_dir + "/sensitivity_state.jsonl";
  EXPECT_EQ(error_of([&] { run(options); }).message,
            state +
                ": is of another run (low was [4] and is now [5]); give another "
                "--output_dir or --overwrite_output_dir");
  options.overwrite_output_dir = true;
  EXPECT_EQ(run(options).low, std::vector<int>{5});
  options.overwrite_output_dir = false;
  std::ofstream(state, std::ios::app) << "{\"batch\": 0, \"trial\": 1, \"scores\": [[1]]}\n";
  const auto error = error_of([&] { run(options); });
  EXPECT_EQ(error.kind, ErrorKind::kCorruptFile);
  EXPECT_NE(error.message.find("scores: expected a list of lists of four numbers"),
            std::string::npos);
}

TEST_F(SensitivityTest, WidthsThatAreNotLowerAreRefused) {
  for (const int bits : {8, 1, 16}) {
    SensitivityOptions options = this->options();
    options.low = {bits};
    const auto error = error_of([&] { run(options); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    EXPECT_EQ(error.message, fmt::format("--low: found {}, expected 2..8 and less than --high "
                                         "w8a8kv8",
                                         bits));
  }
  SensitivityOptions lm = options();
  lm.task = "lm";
  EXPECT_NE(error_of([&] { run(lm); }).message.find("lm"), std::string::npos);
}

TEST_F(SensitivityTest, EarlyStopLeavesClearUnitsAndResumesAlike) {
  SensitivityOptions options = this->options("early");
  options.data.max_samples = 200;
  options.early_stop = true;
  options.low = {2};
  options.units.granularity = Granularity::kBlock;
  const SensitivityResult first = run(options);
  EXPECT_EQ(first.samples, 200U);
  const std::string bytes = read_file(options.output_dir + "/sensitivity.json", 1 << 24);
  for (const UnitResult& entry : first.units) EXPECT_GE(entry.costs[0].samples, 64U);
  run(options);
  EXPECT_EQ(read_file(options.output_dir + "/sensitivity.json", 1 << 24), bytes);
}

TEST_F(SensitivityTest, EstimatesFoldLinearsIntoUnits) {
  SensitivityOptions options = this->options("fisher");
  options.data.max_samples = 8;
  const SensitivityResult linears = estimate_sensitivity(options, silent_);
  EXPECT_EQ(linears.by, "fisher");
  EXPECT_GE(linears.samples, 8U);
  EXPECT_EQ(linears.units.size(), 8U);
  options.units = {Granularity::kBlock, /*split=*/true, /*kv=*/false};
  options.output_dir.clear();
  const SensitivityResult blocks = estimate_sensitivity(options, silent_);
  ASSERT_EQ(blocks.units.size(), 4U);
  for (const std::size_t block : {0U, 1U}) {
    double sum = 0, parts = 0;
    for (std::size_t i = 0; i < 4; ++i) sum += *linears.units[4 * block + i].costs[0].score;
    for (const Part part : {Part::kWeights, Part::kActivations})
      parts += *unit(blocks, fmt::format("h.{}", block), part).costs[0].score;
    EXPECT_NEAR(parts, sum, 1e-12 * sum);
  }
  options.against = dir_.file("fisher") + "/sensitivity_fisher.json";
  EXPECT_EQ(error_of([&] { estimate_sensitivity(options, silent_); }).message,
            options.against + ": has 0 of our 4 units and widths, expected at least 3");
  options.units = {Granularity::kSublayer, false, true};
  EXPECT_EQ(error_of([&] { estimate_sensitivity(options, silent_); }).kind,
            ErrorKind::kUnsupported);
}

TEST_F(SensitivityTest, RanksAreComparedWithAnotherFiles) {
  SensitivityOptions options = this->options("measured");
  options.data.max_samples = 8;
  const SensitivityResult measured = run(options);
  options.output_dir.clear();
  options.against = dir_.file("measured") + "/sensitivity.json";
  const SensitivityResult again = run(options);
  const auto rho = [&](const std::string& ours, const std::string& theirs) {
    for (const RankCorrelation& found : again.correlations) {
      if (found.ours == ours && found.theirs == theirs) return found.rho;
    }
    ADD_FAILURE() << ours << " with " << theirs;
    return 0.0;
  };
  EXPECT_NEAR(rho("kl", "kl"), 1, 1e-12);
  std::vector<double> kl, loss;
  for (const UnitResult& entry : measured.units) {
    kl.push_back(entry.costs[0].kl);
    loss.push_back(entry.costs[0].delta_loss);
  }
  EXPECT_NEAR(rho("kl", "delta_loss"), spearman(kl, loss), 1e-12);
}

// A plan that lowers one unit costs what the unit does.
TEST_F(SensitivityTest, PlansMeasuredAsAWholeCostWhatTheirOnlyUnitDoes) {
  const SensitivityOptions options = this->options();
  const SensitivityResult result = run(options);
  PlanMeter meter(options, silent_);
  for (const char* name : {"h.0.attn.c_attn", "h.1.mlp.c_proj"}) {
    quant::PlanSpec plan;
    plan.default_precision = quant::parse_uniform_precision("8");
    plan.head = 8;
    plan.modules[name] = quant::parse_uniform_precision("4").linear;
    const UnitCost& cost = unit(result, name).costs.front();
    EXPECT_EQ(meter.cost(plan, quant::BudgetCost::kKl), cost.kl);
    EXPECT_EQ(-meter.cost(plan, quant::BudgetCost::kF1), cost.delta_f1);
    EXPECT_NEAR(meter.cost(plan, quant::BudgetCost::kLoss), cost.delta_loss, 1e-12);
  }
  EXPECT_EQ(qalof::testing::error_of([&] { meter.cost({}, quant::BudgetCost::kScore); }).kind,
            ErrorKind::kUsage);
}

TEST_F(SensitivityTest, HeadsOfKAndVAreUnitsOfTheirOwn) {
  SensitivityOptions options = this->options();
  options.units = {Granularity::kBlock, /*split=*/false, /*kv=*/false, /*kv_heads=*/true};
  const SensitivityResult result = run(options);
  const std::size_t heads = 2;
  ASSERT_EQ(result.units.size(), 2 + 2 * 2 * heads);
  const auto check = [&](const std::string& name, const std::string& plan) {
    EXPECT_NEAR(unit(result, name, Part::kKv).costs[0].delta_f1,
                evaluate(plan).at("eval_f1") - result.f1, 1e-10)
        << plan;
    EXPECT_GT(unit(result, name, Part::kKv).costs[0].kl, 0) << name;
  };
  check("h.0.k.1", R"(, "kv": {"0": {"k": [8, 4]}})");
  check("h.1.v.0", R"(, "kv": {"1": {"v": [4, 8]}})");
  BudgetOptions budget;
  budget.target_bits = 8;
  budget.target_kv_bits = 6;
  const BudgetResult found = plan_under_budget(to_json(result), "test", budget, nullptr, {});
  EXPECT_EQ(found.mean_kv_bits, 6.0);
  EXPECT_EQ(found.plan.kv.size(), 2U);
  options.units.granularity = Granularity::kKind;
  EXPECT_EQ(error_of([&] { run(options); }).kind, ErrorKind::kUsage);
}

TEST_F(SensitivityTest, PlansAreComparedOnTheSameSamples) {
  SensitivityOptions options = this->options("compared");
  const Json analysis = to_json(run(options));
  BudgetOptions budget;
  budget.target_bits = 6;
  const BudgetResult plan = plan_under_budget(analysis, "test", budget, nullptr, {});
  const auto base = weights::BaseModel::load_directory(model());
  ComparisonOptions comparison;
  comparison.measure = 3;
  comparison.compare = {"uniform", "random", "original", "w8a4"};
  comparison.random_plans = 3;
  const auto compare = [&] {
    PlanMeter meter(options, silent_);
    return compare_plans(plans_to_compare(analysis, "test", {plan}, comparison, *base, {}),
                         base->target(), meter, silent_);
  };
  const ComparisonResult found = compare();
  std::map<std::string, const MeasuredPlan*> by_name;
  for (const MeasuredPlan& one : found.plans) by_name[one.plan.name] = &one;
  ASSERT_TRUE(by_name.contains("plan 6") && by_name.contains("uniform 4") &&
              by_name.contains("random 6 #3") && by_name.contains("original") &&
              by_name.contains("w8a4"));
  EXPECT_EQ(found.samples, 60U);
  EXPECT_EQ(by_name["uniform 4"]->f1,
            evaluate(R"(, "rules": [{"match": ".*", "set": "w4a4"}])").at("eval_f1"));
  EXPECT_LE(by_name["random 6 #3"]->bits, by_name["plan 6"]->bits);
  EXPECT_GT(by_name["plan 6"]->tokens_per_second, 0);
  // The middles of two blocks lie in GPT-2's blocks 3 and 9.
  std::string low;
  for (const auto& [name, precision] : by_name["original"]->plan.spec.modules) low += name + " ";
  EXPECT_EQ(low, "h.0.attn.c_proj h.1.mlp.c_fc h.1.mlp.c_proj ");
  std::map<std::string, PlanDifference> by_other;
  for (const PlanDifference& one : found.differences) by_other[one.other] = one;
  EXPECT_EQ(by_other.size(), 4U);
  EXPECT_NEAR(by_other["uniform 4"].delta_f1, by_name["plan 6"]->f1 - by_name["uniform 4"]->f1,
              1e-9);
  double mean = 0;
  for (int n = 1; n <= 3; ++n) mean += by_name[fmt::format("random 6 #{}", n)]->f1 / 3;
  EXPECT_NEAR(by_other["mean of 3 random"].delta_f1, by_name["plan 6"]->f1 - mean, 1e-9);
  EXPECT_LE(by_other["original"].interval.low, by_other["original"].delta_f1);
  // What was measured is on disk, speeds included: the same bytes.
  Json first, second;
  add_comparison(found, first);
  add_comparison(compare(), second);
  EXPECT_EQ(first, second);
  comparison.compare = {"nonsense"};
  EXPECT_EQ(error_of([&] { compare(); }).kind, ErrorKind::kUsage);
}

TEST_F(SensitivityTest, LearnedValuesArePartOfAnAdaptersDigest) {
  weights::AdapterSet set;
  const auto adapter = std::make_shared<weights::Adapter>();
  set.by_width[4] = adapter;
  std::vector<std::string> digests = {adapters_sha256(set)};
  adapter->learned = weights::LearnedQuantizers{4, {}, std::vector<weights::LearnedLinear>(1)};
  digests.push_back(adapters_sha256(set));
  adapter->learned->linears[0].clip = 0.5F;
  digests.push_back(adapters_sha256(set));
  adapter->learned->linears[0].steps = {1};
  digests.push_back(adapters_sha256(set));
  adapter->learned->linears[0].zeros = {1};
  digests.push_back(adapters_sha256(set));
  EXPECT_EQ(std::set<std::string>(digests.begin(), digests.end()).size(), digests.size());
}

TEST_F(SensitivityTest, RefinedPlansCostNoMoreThanTheSumsPlan) {
  const SensitivityOptions options = this->options();
  const Json analysis = to_json(run(options));
  PlanMeter meter(options, silent_);
  BudgetOptions budget;
  budget.target_bits = 6;
  budget.refine = 4;
  budget.refine_cost = "kl";
  int measured = 0;
  const BudgetResult found =
      plan_under_budget(analysis, "test", budget, nullptr, {},
                        [&](const quant::PlanSpec& plan, quant::BudgetCost cost) {
                          ++measured;
                          return meter.cost(plan, cost);
                        });
  ASSERT_TRUE(found.refined.has_value());
  EXPECT_EQ(found.refined->measurements, measured);
  EXPECT_LE(measured, 4);
  EXPECT_GE(measured, 2);
  EXPECT_LE(found.mean_weight_bits, 6.0);
  EXPECT_LE(found.refined->point.cost, found.refined->first_cost);
  EXPECT_EQ(meter.cost(found.plan, quant::BudgetCost::kKl), found.refined->point.cost);
}

}  // namespace sensitivity_test
}  // namespace qalof::app
