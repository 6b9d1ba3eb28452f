// Options of budgets, and plans made from a sensitivity analysis. See sensitivity_plans.h.
#include "cli/sensitivity_plans.h"

#include <optional>

#include "app/output_check.h"
#include "app/sensitivity/plan_meter.h"
#include "cli/format.h"
#include "core/error.h"
#include "core/file.h"

namespace qalof::cli {

namespace {

Json budget_json(const app::BudgetResult& found, const app::BudgetOptions& budget) {
  Json json = {{"cost", found.cost_name},
               {"predicted_cost", found.cost},
               {"mean_weight_bits", found.mean_weight_bits},
               {"front", found.front.size()},
               {"dominated", found.dominated}};
  json[budget.target_size ? "bytes" : "bits_times_parameters"] = found.size;
  if (found.mean_kv_bits) json["mean_kv_bits"] = *found.mean_kv_bits;
  if (found.refined) {
    json["measured_cost"] = found.refined->point.cost;
    json["first_measured_cost"] = found.refined->first_cost;
    json["measurements"] = found.refined->measurements;
  }
  return json;
}

std::string budget_text(const app::BudgetResult& found, const app::BudgetOptions& budget,
                        const std::string& words) {
  std::string text = fmt::format(
      "\nplan: {}; {:.3f} weight bits on average; sum of single costs ({}) {:.4g}; one of {} "
      "plans on the front, {} dominated sums dropped\n",
      words, found.mean_weight_bits, found.cost_name, found.cost, found.front.size(),
      found.dominated);
  if (found.refined) {
    text += fmt::format(
        "measured as a whole ({}): {:.4g}, before refinement {:.4g}, {} plans measured\n",
        budget.refine_cost, found.refined->point.cost, found.refined->first_cost,
        found.refined->measurements);
  }
  return text;
}

std::string comparison_text(const app::ComparisonResult& result) {
  std::vector<std::vector<std::string>> plans = {
      {"plan", "bits", "F1", "s.e.", "EM", "loss", "KL", "tokens/s"}};
  for (const app::MeasuredPlan& plan : result.plans) {
    plans.push_back({plan.plan.name, fmt::format("{:.3f}", plan.bits),
                     fmt::format("{:.2f}", plan.f1), fmt::format("{:.2f}", plan.f1_error),
                     fmt::format("{:.2f}", plan.em), fmt::format("{:.4f}", plan.loss),
                     fmt::format("{:.4f}", plan.kl),
                     fmt::format("{:.0f}", plan.tokens_per_second)});
  }
  std::string text = "\n" + table_text(plans, {1, 2, 3, 4, 5, 6, 7}) +
                     fmt::format("{} samples; {} of {} plans are dominated in bits and F1\n",
                                 result.samples, result.dominated, result.plans.size());
  if (result.differences.empty()) return text;
  std::vector<std::vector<std::string>> rows = {{"plan", "against", "delta F1", "s.e.", "95 %"}};
  for (const app::PlanDifference& found : result.differences) {
    rows.push_back({found.plan, found.other, fmt::format("{:+.2f}", found.delta_f1),
                    fmt::format("{:.2f}", found.standard_error),
                    fmt::format("{:+.2f} .. {:+.2f}", found.interval.low, found.interval.high)});
  }
  return text + "\n" + table_text(rows, {2, 3, 4});
}

}  // namespace

void add_plan_flags(CommandLine& line, PlanFlags& flags) {
  line.option("--target_bits", flags.target_bits,
              "plan: least cost with at most that many weight bits on average; several: a plan of "
              "each");
  line.option("--target_size", flags.target_size,
              "plan: least cost with at most that many bytes of linears, scales included");
  line.option("--max_f1_loss", flags.max_f1_loss,
              "plan: fewest bits whose single losses of F1 add up to at most that");
  line.option("--target_kv_bits", flags.target_kv_bits,
              "plan: K and V, which an analysis with --kv or --kv_heads measured, with at most "
              "that many bits on average; else they stay high");
  line.option("--cost", flags.cost,
              "what is added up: f1, loss, kl or score; default: kl, f1 under --max_f1_loss")
      ->one_of({"f1", "loss", "kl", "score"});
  line.option("--refine", flags.refine,
              "plan: at most so many plans are measured as a whole, since single costs do not add "
              "up exactly, and the best is kept; needs --validation_file");
  line.option("--refine_cost", flags.refine_cost, "plan: what --refine measures: f1, loss or kl")
      ->one_of({"f1", "loss", "kl"});
  line.option("--refine_file", flags.refine_file,
              "questions or texts that --refine measures plans on, all of them; default: those of "
              "--validation_file, on which plans are compared");
  line.option("--output_plan", flags.output_plan,
              "plan file to write; --output_dir gets plan_BITS.json of each");
  line.option("--from", flags.from, "a sensitivity.json to plan from; nothing is swept");
  line.option("--compare", flags.comparison.compare,
              "measures the plan beside others on --validation_file: uniform (every width), "
              "random (plans of its size), original (the original's hybrid pattern), or plans as "
              "--precision takes them");
  line.option("--measure", flags.comparison.measure,
              "measures so many plans of the front on --validation_file, too");
  line.option("--random_plans", flags.comparison.random_plans, "--compare random: how many");
  line.option("--seed", flags.comparison.seed, "of random plans and of --by hessian");
}

std::vector<app::BudgetOptions> plan_budgets(const CommandLine& line, const PlanFlags& flags) {
  app::BudgetOptions options;
  if (line.given("--target_size")) options.target_size = flags.target_size;
  if (line.given("--max_f1_loss")) options.max_f1_loss = flags.max_f1_loss;
  if (line.given("--target_kv_bits")) options.target_kv_bits = flags.target_kv_bits;
  options.cost = flags.cost;
  options.refine = flags.refine;
  options.refine_cost = flags.refine_cost;
  std::vector<app::BudgetOptions> budgets;
  for (const double bits : flags.target_bits) budgets.emplace_back(options).target_bits = bits;
  if (budgets.empty() && (options.target_size || options.max_f1_loss)) budgets = {options};
  for (const char* needs_refine : {"--refine_cost", "--refine_file"}) {
    QALOF_CHECK(flags.refine > 0 || !line.given(needs_refine), ErrorKind::kUsage,
                "{}: needs --refine", needs_refine);
  }
  for (const char* needs_limit : {"--cost", "--output_plan", "--from", "--refine", "--compare",
                                  "--measure", "--target_kv_bits"}) {
    QALOF_CHECK(!budgets.empty() || !line.given(needs_limit), ErrorKind::kUsage,
                "{}: needs --target_bits, --target_size or --max_f1_loss", needs_limit);
  }
  QALOF_CHECK(budgets.size() <= 1 || flags.output_plan.empty(), ErrorKind::kUsage,
              "--output_plan: one file for {} plans; --output_dir gets plan_BITS.json of each",
              budgets.size());
  for (const app::BudgetOptions& budget : budgets) app::check_budget(budget);
  return budgets;
}

std::string add_plans(const app::SensitivityOptions& options,
                      const std::vector<app::BudgetOptions>& budgets, const PlanFlags& flags,
                      Observer& observer, Json& analysis) {
  const app::ModelHandle handle = app::open_model(options.model, observer);
  const std::string where = flags.from.empty() ? app::sensitivity_file(options.by) : flags.from;
  const quant::QuantScheme scheme = handle.plan.scheme.value_or(quant::QuantScheme{});
  std::optional<app::PlanMeter> meter, refine_meter;
  const bool refines_apart = !flags.refine_file.empty();
  const bool needs_meter = (flags.refine > 0 && !refines_apart) || !flags.comparison.is_empty();
  QALOF_CHECK(!needs_meter || !options.data.file.empty(), ErrorKind::kUsage,
              "--refine, --compare and --measure: need --validation_file, on which plans are "
              "measured");
  app::SensitivityOptions measured = options;
  if (needs_meter || refines_apart)
    measured.high = json_string(analysis.value("high", Json::object()), "precision", where);
  if (needs_meter) meter.emplace(measured, observer);
  if (refines_apart) {
    measured.data.file = flags.refine_file;
    measured.data.max_samples = 0;
    if (!options.output_dir.empty()) measured.output_dir = options.output_dir + "/refine";
    refine_meter.emplace(measured, observer);
  }
  app::check_output_is_no_input(flags.output_plan,
                                {flags.from, options.data.file, flags.refine_file, options.high,
                                 options.model.model, options.model.adapter});
  std::optional<NewDirectory> made;
  if (!options.output_dir.empty()) made.emplace(options.output_dir);
  std::vector<app::BudgetResult> results;
  Json plans = Json::array(), summaries = Json::array();
  std::string text;
  for (const app::BudgetOptions& budget : budgets) {
    const app::BudgetResult& found = results.emplace_back(
        app::plan_under_budget(analysis, where, budget, handle.base.get(), scheme,
                               [&](const quant::PlanSpec& plan, quant::BudgetCost cost) {
                                 return (refines_apart ? refine_meter : meter)->cost(plan, cost);
                               }));
    plans.push_back(quant::to_json(found.plan));
    summaries.push_back(budget_json(found, budget));
    text += budget_text(
        found, budget,
        quant::describe(quant::resolve(found.plan, handle.base->target()), handle.base->target()));
    const std::string file = plans.back().dump(2) + "\n";
    if (!flags.output_plan.empty()) write_file_atomic(flags.output_plan, file);
    if (!options.output_dir.empty()) {
      const double bits = budget.target_bits.value_or(found.mean_weight_bits);
      write_file_atomic(fmt::format("{}/plan_{:.4g}.json", options.output_dir, bits), file);
    }
  }
  Json front = app::front_json(results.front(), budgets.front());
  if (!flags.comparison.is_empty()) {
    const app::ComparisonResult compared = app::compare_plans(
        app::plans_to_compare(analysis, where, results, flags.comparison, *handle.base, scheme),
        handle.base->target(), *meter, observer);
    app::add_comparison(compared, front);
    analysis["points"] = front["points"];
    analysis["differences"] = front["differences"];
    text += comparison_text(compared);
  }
  if (!options.output_dir.empty())
    write_file_atomic(options.output_dir + "/" + app::kFrontFile, front.dump(2) + "\n");
  analysis["plan"] = plans.size() == 1 ? plans[0] : plans;
  analysis["budget"] = summaries.size() == 1 ? summaries[0] : summaries;
  return text;
}

}  // namespace qalof::cli
