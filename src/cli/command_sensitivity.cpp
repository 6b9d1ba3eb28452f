#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>

#include "app/budget.h"
#include "app/sensitivity.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/signals.h"
#include "core/error.h"
#include "core/file.h"

namespace qalof::cli {

namespace {

double cost_value(const app::UnitCost& cost) { return cost.score.value_or(cost.kl); }

std::string ranking_text(const app::SensitivityResult& result) {
  const bool is_measured = result.by == "measured";
  std::vector<std::vector<std::string>> rows = {{"unit", "part", "bits"}};
  for (const char* name : is_measured ? std::vector<const char*>{"KL", "delta loss", "delta F1",
                                                                 "95 %", "delta EM", "samples"}
                                      : std::vector<const char*>{"score", "first order"})
    rows.front().emplace_back(name);
  for (const std::size_t index : app::sensitivity_ranking(result)) {
    const auto& [unit, costs] = result.units[index];
    for (const app::UnitCost& cost : costs) {
      std::vector<std::string>& row = rows.emplace_back();
      row = {unit.name, to_string(unit.part), std::to_string(cost.bits)};
      if (!is_measured) {
        row.push_back(fmt::format("{:.3g}", *cost.score));
        row.push_back(fmt::format("{:.3g}", *cost.first_order));
        continue;
      }
      row.push_back(fmt::format("{:.3g}", cost.kl));
      row.push_back(fmt::format("{:+.4f}", cost.delta_loss));
      row.push_back(fmt::format("{:+.2f}", cost.delta_f1));
      row.push_back(fmt::format("{:+.2f} .. {:+.2f}", cost.delta_f1_interval.low,
                                cost.delta_f1_interval.high));
      row.push_back(fmt::format("{:+.2f}", cost.delta_em));
      row.push_back(std::to_string(cost.samples));
    }
  }
  return table_text(rows, {2, 3, 4, 5, 6, 7, 8});
}

// Blocks x kinds at the first width; the largest cost is the darkest.
std::string heat_map_text(const app::SensitivityResult& result) {
  constexpr const char* kShades[] = {" .", "░░", "▒▒", "▓▓", "██"};
  std::vector<std::string> kinds;
  std::map<std::pair<std::size_t, std::string>, double> cells;
  double largest = 0;
  std::size_t blocks = 0;
  for (const auto& [unit, costs] : result.units) {
    if (!unit.block) continue;
    const std::string kind =
        unit.part == app::Part::kWeights || unit.part == app::Part::kActivations
            ? fmt::format("{} ({})", unit.kind, to_string(unit.part))
            : unit.kind;
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
    const double value = cost_value(costs.front());
    cells[{*unit.block, kind}] = value;
    largest = std::max(largest, value);
    blocks = std::max(blocks, *unit.block + 1);
  }
  if (kinds.empty()) return "";
  std::size_t width = 0;
  for (const std::string& kind : kinds) width = std::max(width, kind.size());
  std::string text = fmt::format("{:<{}}  ", "block", width);
  for (std::size_t block = 0; block < blocks; ++block) text += fmt::format("{:>2}", block % 100);
  text += '\n';
  for (const std::string& kind : kinds) {
    text += fmt::format("{:<{}}  ", kind, width);
    for (std::size_t block = 0; block < blocks; ++block) {
      const auto cell = cells.find({block, kind});
      const double share = cell == cells.end() || largest <= 0 ? 0 : cell->second / largest;
      text += kShades[std::clamp<int>(static_cast<int>(share * 5), 0, 4)];
    }
    text += '\n';
  }
  return text + fmt::format("darkest: {} {:.3g} at {} bits\n",
                            result.by == "measured" ? "KL" : "score", largest, result.low.front());
}

struct BudgetFlags {
  double target_bits = 0, max_f1_loss = 0;
  std::uint64_t target_size = 0;
  std::string cost, output_plan, from;
};

void add_budget_flags(CommandLine& line, BudgetFlags& flags) {
  line.option("--target_bits", flags.target_bits,
              "plan: least cost with at most that many weight bits on average");
  line.option("--target_size", flags.target_size,
              "plan: least cost with at most that many bytes of linears, scales included");
  line.option("--max_f1_loss", flags.max_f1_loss,
              "plan: fewest bits whose single losses of F1 add up to at most that");
  line.option("--cost", flags.cost,
              "what is added up: f1, loss, kl or score; default: kl, f1 under --max_f1_loss")
      ->check(CLI::IsMember({"f1", "loss", "kl", "score"}));
  line.option("--output_plan", flags.output_plan, "plan file to write");
  line.option("--from", flags.from, "a sensitivity.json to plan from; nothing is measured");
}

std::optional<app::BudgetOptions> budget_options(const CommandLine& line,
                                                 const BudgetFlags& flags) {
  app::BudgetOptions options;
  if (line.given("--target_bits")) options.target_bits = flags.target_bits;
  if (line.given("--target_size")) options.target_size = flags.target_size;
  if (line.given("--max_f1_loss")) options.max_f1_loss = flags.max_f1_loss;
  options.cost = flags.cost;
  const bool plans = options.target_bits || options.target_size || options.max_f1_loss;
  for (const char* needs_limit : {"--cost", "--output_plan", "--from"}) {
    QALOF_CHECK(plans || !line.given(needs_limit), ErrorKind::kUsage,
                "{}: needs --target_bits, --target_size or --max_f1_loss", needs_limit);
  }
  if (!plans) return std::nullopt;
  app::check_budget(options);
  return options;
}

// Chooses the plan, writes what is to be written, adds it to the result; its text.
std::string add_plan(const app::SensitivityOptions& options, const app::BudgetOptions& budget,
                     const BudgetFlags& flags, Observer& observer, Json& result) {
  const app::ModelHandle handle = app::open_model(options.model, observer);
  const std::string where = flags.from.empty() ? app::sensitivity_file("measured") : flags.from;
  const app::BudgetResult found = app::plan_under_budget(
      result, where, budget, handle.base.get(), handle.plan.scheme.value_or(quant::QuantScheme{}));
  const quant::PrecisionPlan plan = quant::resolve(found.plan, handle.base->target());
  const std::string words = quant::describe(plan, handle.base->target());
  result["plan"] = quant::to_json(found.plan);
  result["budget"] = {{"cost", found.cost_name},
                      {"predicted_cost", found.cost},
                      {"mean_weight_bits", found.mean_weight_bits},
                      {"front", found.front.size()},
                      {"dominated", found.dominated}};
  result["budget"][budget.target_size ? "bytes" : "bits_times_parameters"] = found.size;
  if (!flags.output_plan.empty())
    write_file_atomic(flags.output_plan, result["plan"].dump(2) + "\n");
  if (!options.output_dir.empty()) {
    make_directories(options.output_dir);
    write_file_atomic(options.output_dir + "/" + app::kFrontFile,
                      app::front_json(found, budget).dump(2) + "\n");
  }
  return fmt::format(
      "\nplan: {}; {:.3f} weight bits on average; sum of single costs ({}) {:.4g}; one of {} plans "
      "on the front, {} dominated sums dropped\n",
      words, found.mean_weight_bits, found.cost_name, found.cost, found.front.size(),
      found.dominated);
}

}  // namespace

void run_sensitivity(std::vector<std::string> arguments) {
  const std::vector<std::string> given = arguments;
  app::SensitivityOptions options;
  std::string by = "measured", granularity = "sublayer";
  bool heat_map = false;
  BudgetFlags budget_flags;
  CommandLine line("sensitivity",
                   "What each part of a model loses at few bits, from all-high: measured on the "
                   "packed runtime, or estimated from gradients.",
                   "  qalof sensitivity --model_name_or_path gpt2 --adapter out --validation_file "
                   "dev.json --max_eval_samples 200 --output_dir s\n"
                   "  qalof sensitivity --granularity kind --low 4 5 6 --split --kv "
                   "--model_name_or_path gpt2 --adapter out --validation_file dev.json\n"
                   "  qalof sensitivity --by fisher --against s/sensitivity.json "
                   "--model_name_or_path gpt2 --adapter out --validation_file dev.json\n"
                   "  qalof sensitivity --from s/sensitivity.json --model_name_or_path gpt2 "
                   "--target_bits 5.2 --output_plan plan.json\n",
                   std::move(arguments));
  add_model_flags(line, options.model, /*with_precision=*/false);
  line.option("--kv_scheme", options.model.kv_scheme,
              "what shares a scale of K and V: seed (a token) or head (a token and head)");
  line.option("--by", by, "measured, or fisher: from one backward pass")
      ->check(CLI::IsMember({"measured", "fisher"}));
  line.option("--task", options.task, "qa or classification");
  line.option("--validation_file", options.data.validation_file,
              "qa: SQuAD JSON or JSONL; classification: SST-2 TSV or AG News CSV");
  line.option("--max_eval_samples", options.data.max_eval_samples,
              "the first N questions or texts; 0 = all (fisher: 64)");
  line.option("--granularity", granularity,
              "sublayer (every linear), layer (attention or MLP of a block), block, or kind (a "
              "linear type over all blocks, all attention, all MLP)");
  line.option("--high", options.high, "precision of all that is not lowered: 8, w8a8kv8, ...");
  line.option("--low", options.low, "bits a unit goes to; several: each of them");
  line.flag("--split", options.units.split, "weights and activations apart");
  line.flag("--kv", options.units.kv, "K and V of each layer as units of their own, too");
  line.flag("--early_stop", options.early_stop,
            "a unit whose F1 clearly differs is measured no further");
  line.option("--max_seq_length", options.data.features.max_seq_length, "window in tokens");
  line.option("--doc_stride", options.data.features.doc_stride,
              "qa: overlap of neighbouring windows in tokens");
  line.option("--max_answer_length", options.data.decode.max_answer_length,
              "qa: longest answer in tokens");
  line.flag("--version_2_with_negative", options.data.decode.version_2_with_negative,
            "qa: questions may have no answer");
  line.option(
      "--output_dir", options.output_dir,
      "writes sensitivity.json (fisher: sensitivity_fisher.json); the same command goes on where "
      "it was stopped");
  line.flag("--overwrite_output_dir", options.overwrite_output_dir,
            "begin anew, whatever the directory holds");
  line.option("--against", options.against,
              "sensitivity.json of another run: prints Spearman's rank correlations with it");
  line.flag("--heat_map", heat_map, "blocks x kinds in shades; on a terminal by itself");
  add_budget_flags(line, budget_flags);
  line.parse();
  const auto budget = budget_options(line, budget_flags);
  if (!budget_flags.from.empty()) {
    Json known = read_json_file(budget_flags.from);
    const std::string words = add_plan(options, *budget, budget_flags, line.observer(), known);
    line.print({{"plan", known["plan"]}, {"budget", known["budget"]}}, words);
    return;
  }
  QALOF_CHECK(!options.data.validation_file.empty(), ErrorKind::kUsage,
              "--validation_file is required (see qalof sensitivity -h)");
  options.units.granularity = app::parse_granularity(granularity);
  const StopSignals signals;
  options.should_stop = [] { return StopSignals::received() != 0; };
  const app::SensitivityResult result =
      by == "measured" ? app::measure_sensitivity(options, line.observer())
                       : estimated_sensitivity(options, line.observer(), given);
  std::string text = ranking_text(result);
  if (heat_map || isatty(STDOUT_FILENO) == 1) text += "\n" + heat_map_text(result);
  text += "\n" + result.high + ": ";
  if (by == "measured")
    text += fmt::format("exact match {:.2f}   F1 {:.2f}   ", result.em, result.f1);
  text += fmt::format("loss {:.4f}   {} samples\n", result.loss, result.samples);
  for (const app::RankCorrelation& found : result.correlations)
    text +=
        fmt::format("{} bits: Spearman's rho of {} with {} of {}: {:.3f} ({} units)\n", found.bits,
                    found.ours, found.theirs, options.against, found.rho, found.units);
  Json json = app::to_json(result);
  if (budget) text += add_plan(options, *budget, budget_flags, line.observer(), json);
  line.print(json, text);
}

}  // namespace qalof::cli
