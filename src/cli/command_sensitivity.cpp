// `qalof sensitivity`: options, ranking, heat map and plans under a budget.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "app/run_journal.h"
#include "app/sensitivity/sensitivity.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/sensitivity_plans.h"
#include "cli/signals.h"
#include "core/error.h"
#include "core/file.h"

namespace qalof::cli {

namespace {

double cost_value(const app::UnitCost& cost) { return cost.score.value_or(cost.kl); }

std::string ranking_text(const app::SensitivityResult& result) {
  const bool is_measured = result.by == "measured";
  const char* detail = result.by == "hessian" ? "mean trace" : "first order";
  std::vector<std::vector<std::string>> rows = {{"unit", "part", "bits"}};
  for (const char* name : is_measured ? std::vector<const char*>{"KL", "delta loss", "delta F1",
                                                                 "95 %", "delta EM", "samples"}
                                      : std::vector<const char*>{"score", detail})
    rows.front().emplace_back(name);
  for (const std::size_t index : app::sensitivity_ranking(result)) {
    const auto& [unit, costs] = result.units[index];
    for (const app::UnitCost& cost : costs) {
      std::vector<std::string>& row = rows.emplace_back();
      row = {unit.name, to_string(unit.part), std::to_string(cost.bits)};
      if (!is_measured) {
        row.push_back(fmt::format("{:.3g}", *cost.score));
        row.push_back(cost.mean_trace ? fmt::format("{:.3g} ± {:.1g}", *cost.mean_trace,
                                                    cost.mean_trace_error.value_or(0))
                                      : fmt::format("{:.3g}", cost.first_order.value_or(0)));
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
      // A cost that is no number has no shade.
      text += kShades[share > 0 ? static_cast<int>(std::min(share, 0.9) * 5) : 0];
    }
    text += '\n';
  }
  return text + fmt::format("darkest: {} {:.3g} at {} bits\n",
                            result.by == "measured" ? "KL" : "score", largest, result.low.front());
}

std::string result_text(const app::SensitivityResult& result, const std::string& against,
                        bool with_heat_map) {
  std::string text = ranking_text(result);
  if (with_heat_map) text += "\n" + heat_map_text(result);
  text += "\n" + result.high + ": ";
  if (result.by == "measured")
    text += fmt::format("exact match {:.2f}   F1 {:.2f}   ", result.em, result.f1);
  text += fmt::format("loss {:.4f}   {} samples\n", result.loss, result.samples);
  for (const app::RankCorrelation& found : result.correlations)
    text += fmt::format("{} bits: Spearman's rho of {} with {} of {}: {} ({} units)\n", found.bits,
                        found.ours, found.theirs, against,
                        std::isnan(found.rho) ? "none, one side is the same for all"
                                              : fmt::format("{:.3f}", found.rho),
                        found.units);
  return text;
}

}  // namespace

void run_sensitivity(std::vector<std::string> arguments) {
  const std::vector<std::string> given = arguments;
  app::SensitivityOptions options;
  app::ProcessOptions process_options;
  std::string granularity = "sublayer";
  bool heat_map = false;
  PlanFlags plan_flags;
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
                   "--target_bits 5.2 --output_plan plan.json\n"
                   "  qalof sensitivity --from s/sensitivity.json --model_name_or_path gpt2 "
                   "--adapter out --validation_file dev.json --max_eval_samples 500 --target_bits "
                   "4.5 5 6 7 --compare uniform random original --output_dir c\n",
                   std::move(arguments));
  app::list_model_options(line, options.model, /*with_precision=*/false);
  app::list_text_options(line, options.model);
  line.group("precision");
  line.option("--kv_scheme", options.model.kv_scheme,
              "what shares a scale of K and V: token or head (a token and head)");
  line.group("method");
  line.option("--by", options.by,
              "measured; fisher: from one backward pass; hessian: from the trace of the Hessian")
      ->one_of({"measured", "fisher", "hessian"});
  line.option("--hessian_vectors", options.hessian_vectors,
              "by hessian: passes over the samples, each with random vectors of its own");
  line.group("data");
  line.option("--validation_file", options.data.file,
              options.tasks.file_kinds(tasks::Use::kAnalyse));
  line.option("--max_eval_samples", options.data.max_samples,
              "the first N questions or texts; 0 = all (fisher, hessian: 32)");
  line.option("--max_seq_length", options.data.max_seq_length, "window in tokens", "384");
  options.tasks.list(line, options.task, tasks::Use::kAnalyse);
  line.group("method");
  line.option("--granularity", granularity,
              "sublayer (every linear), layer (attention or MLP of a block), block, or kind (a "
              "linear type over all blocks, all attention, all MLP, everything)");
  line.option("--high", options.high, "precision of all that is not lowered: 8, w8a8kv8, ...");
  line.option("--low", options.low, "bits a unit goes to; several: each of them");
  line.flag("--split", options.units.split, "weights and activations apart");
  line.flag("--kv", options.units.kv, "K and V of each layer as units of their own, too");
  line.flag("--kv_heads", options.units.kv_heads,
            "K and V of each key/value head as units of their own, too");
  line.flag("--early_stop", options.early_stop,
            "a unit whose F1 clearly differs is measured no further");
  line.group("output");
  line.option(
      "--output_dir", options.output_dir,
      "writes sensitivity.json (by fisher: sensitivity_fisher.json, ...); the same command resumes "
      "where it was stopped");
  line.flag("--overwrite_output_dir", options.overwrite_output_dir,
            "begin anew, whatever the directory holds");
  line.option("--against", options.against,
              "sensitivity.json of another run: prints Spearman's rank correlations with it");
  line.flag("--heat_map", heat_map, "blocks x kinds in shades; on a terminal by itself");
  add_plan_flags(line, plan_flags);
  process_options.list(line);
  line.parse();
  const std::vector<app::BudgetOptions> budgets = plan_budgets(line, plan_flags);
  options.seed = plan_flags.comparison.seed;
  const StopSignals signals;
  options.should_stop = [] { return StopSignals::received() != 0; };
  QALOF_CHECK(!options.data.file.empty() || !plan_flags.from.empty(), ErrorKind::kUsage,
              "--validation_file is required (see qalof sensitivity -h)");
  options.units.granularity = app::parse_granularity(granularity);
  const app::Processes processes = command_processes("sensitivity", given, process_options,
                                                     options.model.threads, line.observer());
  options.group = processes.group();
  options.model.shared_memory = processes.shared_memory();
  if (!processes.lead()) {
    options.output_dir.clear();
    plan_flags.output_plan.clear();
  }
  run_together(processes, [&] {
    processes.check_same({{"arguments", given}}, app::member_difference);
    Json json;
    std::string text;
    if (!plan_flags.from.empty()) {
      Json known = read_json_file(plan_flags.from);
      text = add_plans(options, budgets, plan_flags, processes.observer(), known);
      for (const char* key : {"plan", "budget", "points", "differences"}) {
        if (known.contains(key)) json[key] = known[key];
      }
    } else {
      const app::SensitivityResult result =
          options.by == "measured" ? app::measure_sensitivity(options, processes.observer())
                                   : estimated_sensitivity(options, processes.observer(), given);
      text = result_text(result, options.against, heat_map || isatty(STDOUT_FILENO) == 1);
      json = app::to_json(result);
      if (!budgets.empty())
        text += add_plans(options, budgets, plan_flags, processes.observer(), json);
    }
    if (processes.lead()) line.print(json, text);
  });
}

}  // namespace qalof::cli
