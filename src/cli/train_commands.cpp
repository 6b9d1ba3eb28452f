// The commands that need libtorch, linked into qalof-train.
#include <csignal>

#include "app/attack/search.h"
#include "app/demo.h"
#include "app/sensitivity/from_gradients.h"
#include "app/train/bench.h"
#include "app/train/processes.h"
#include "app/train/run.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/signals.h"
#include "core/error.h"

namespace qalof::cli {

namespace {

std::string phases_text(const train::TrainResult& result) {
  std::vector<std::vector<std::string>> rows = {
      {"phase", "precision", "steps", "train loss", "tokens/s", "seconds"}};
  std::string skipped;
  for (const train::PhaseHistory& phase : result.phases) {
    const auto steps = static_cast<std::int64_t>(phase.steps.size());
    if (phase.skipped_steps > 0) {
      skipped += fmt::format("{}: {} of {} steps skipped, not finite\n", phase.name,
                             phase.skipped_steps, steps);
    }
    rows.push_back(
        {phase.name, phase.precision, std::to_string(steps),
         steps > phase.skipped_steps ? fmt::format("{:.4f}", phase.train_loss) : "-",
         fmt::format("{:.0f}", static_cast<double>(phase.tokens) / std::max(phase.seconds, 1e-9)),
         fmt::format("{:.1f}", phase.seconds)});
  }
  return table_text(rows, {2, 3, 4, 5}) + skipped;
}

std::string scores_text(const std::vector<app::WidthScore>& scores) {
  std::string text;
  for (const app::WidthScore& score : scores)
    text += fmt::format("{}: {}\n", score.precision,
                        tasks::to_text(score.scores, ", ", /*with_counts=*/false));
  return text;
}

}  // namespace

bool has_training() { return true; }
void hand_over_where_built(const char* /*command*/, const std::vector<std::string>& /*arguments*/) {
}

app::Processes command_processes(const char* /*command*/,
                                 const std::vector<std::string>& /*arguments*/,
                                 const app::ProcessOptions& options, int& threads,
                                 Observer& observer) {
  return app::connect_processes(options, threads, observer);
}

void run_train(std::vector<std::string> arguments) {
  app::TrainRunOptions options;
  CommandLine line(
      "train", "Fine-tunes adapters, one per bit width, on a quantized base; or the whole model.",
      "  qalof train --method switch --bit_widths 8 4 --model_name_or_path gpt2 --train_file "
      "train.json \\\n"
      "    --validation_file dev.json --output_dir out\n"
      "  qalof train --method joint --task classification --model_name_or_path gpt2 --train_file "
      "train.tsv --output_dir out\n"
      "  qalof train --method full --task lm --model_name_or_path nano --train_file text.txt "
      "--output_dir lm\n",
      std::move(arguments));
  options.list(line);
  line.parse();
  options.flags = line.identity();
  const StopSignals signals;
  options.should_stop = [] { return StopSignals::received() != 0; };
  const app::TrainRunResult result = app::run_train(options, line.observer());
  if (result.rank > 0) {
    if (result.train.interrupted) throw Error(ErrorKind::kInterrupted, "");
    return;
  }
  line.print(app::to_json(result), fmt::format("{}{}{}\n", phases_text(result.train),
                                               scores_text(result.scores), result.output_dir));
  if (result.train.interrupted)
    fail(
        ErrorKind::kInterrupted,
        "stopped after step {}; what was learned is in {}, and the same command resumes from there",
        result.train.steps, result.output_dir);
}

void run_demo(std::vector<std::string> arguments) {
  app::DemoOptions options;
  CommandLine line("demo",
                   "Full precision, post-training quantization, adapters per width and a hybrid "
                   "plan on the shipped nano model.",
                   "  qalof demo\n  qalof demo --seed 2 --output_dir out/demo2 --json\n",
                   std::move(arguments));
  line.option("--output_dir", options.output_dir,
              "directory for models, adapters, results.json, report.md and report.html");
  line.option("--assets", options.assets, "directory of the nano model and its data");
  line.option("--seed", options.seed, "seed of training");
  line.option("--lora_steps", options.lora_steps,
              "steps of the full-precision LoRA; 0 = as many as the adapters get");
  line.option("--threads", options.threads, "threads; 0 = QALOF_THREADS, else all");
  line.parse();
  const StopSignals signals;
  options.should_stop = [] { return StopSignals::received() != 0; };
  const app::DemoResult result = app::run_demo(options, line.observer());
  Json rows = Json::array();
  std::vector<std::vector<std::string>> table = {
      {"row", "precision", "EM", "F1", "bits", "size", "seconds"}};
  for (const app::DemoRow& row : result.rows) {
    rows.push_back(app::to_json(row));
    table.push_back({row.name, row.precision, fmt::format("{:.2f}", row.exact_match),
                     fmt::format("{:.2f}", row.f1), fmt::format("{:.2f}", row.effective_bits),
                     bytes_text(row.bytes), fmt::format("{:.1f}", row.seconds)});
  }
  line.print({{"rows", rows},
              {"seed", options.seed},
              {"seconds", result.seconds},
              {"switch_microseconds", result.switch_microseconds},
              {"report", result.page}},
             fmt::format("{}\nSwitching the loaded model from 8 to 4 bits took {:.0f} us. {:.0f} s "
                         "in all.\nReport: {}, {}\n",
                         table_text(table, {2, 3, 4, 5, 6}), result.switch_microseconds,
                         result.seconds, result.report, result.page));
}

app::SensitivityResult estimated_sensitivity(const app::SensitivityOptions& options,
                                             Observer& observer,
                                             const std::vector<std::string>& /*arguments*/) {
  return app::estimate_sensitivity(options, observer);
}

app::AttackScores searched_attack(app::AttackRunOptions& options, const std::string& device,
                                  const std::string& expectation, const app::Processes& processes,
                                  const std::vector<std::string>& /*arguments*/) {
  options.device = train::parse_device(device);
  options.attack.expectation = train::parse_expectation(expectation);
  return app::run_attack(options, processes);
}

void run_bench_train(std::vector<std::string> arguments) {
  app::TrainBenchOptions options;
  CommandLine line(
      "bench train",
      "Speed of a training step (LoRA and span head) on this machine: one warm-up, "
      "then the median of the repeats.",
      "  qalof bench train --model_name_or_path gpt2 --precision 8 --batch 16 --seq 256\n"
      "  qalof bench train --model_name_or_path gpt2 --precision 8 --train_file train.json\n",
      std::move(arguments));
  line.option("--model_name_or_path", options.model.model,
              "model directory, or org/name[@revision] on the hub")
      ->required();
  line.option("--precision,--sp_config", options.model.precision,
              "8, w4a8kv8, ... or a plan file; default 32");
  line.option("--batch", options.batch, "windows of a step");
  line.option("--seq", options.tokens, "tokens of a window; at most, with --train_file");
  line.option("--train_file", options.train_file, "SQuAD JSON whose windows are used; else random");
  line.option("--repeats,--steps", options.repeats, "steps measured, after one warm-up");
  line.option("--lora_r", options.train.adapters.lora_r, "rank of the adapters");
  line.option("--gradient_bits", options.train.quantizers.gradient_bits,
              "products of gradients with integer weights: 32, 16 or 8");
  line.flag("--activation_checkpointing", options.train.schedule.activation_checkpointing,
            "keep less of each block and compute it again, as train does");
  line.option("--threads", options.model.threads, "threads; 0 = QALOF_THREADS, else all");
  line.parse();
  const app::TrainBenchResult result = app::run_train_bench(options, line.observer());
  if (result.rank > 0) return;
  Json steps = Json::array();
  train::StepTimes sum;
  for (const train::StepRecord& step : result.steps) {
    steps.push_back({{"tokens", step.tokens},
                     {"forward", step.times.forward},
                     {"backward", step.times.backward},
                     {"optimizer", step.times.optimizer},
                     {"exchange", step.times.exchange}});
    sum.forward += step.times.forward;
    sum.backward += step.times.backward;
    sum.optimizer += step.times.optimizer;
    sum.exchange += step.times.exchange;
  }
  const double percent = 100 / sum.total();
  line.print(
      {{"bench", "train"},
       {"tokens_per_second", result.tokens_per_second},
       {"seconds", result.seconds},
       {"steps", steps},
       {"tokens", result.tokens},
       {"batch", options.batch},
       {"seq", options.tokens},
       {"threads", result.threads},
       {"processes", result.processes},
       {"isa", result.isa},
       {"precision", result.precision}},
      fmt::format("train {:.1f} tokens/s   median {:.4f} s of {} (forward {:.0f} %, backward "
                  "{:.0f} %, optimizer {:.1f} %{})   {} threads   {}   {}\n",
                  result.tokens_per_second, result.seconds, options.repeats, percent * sum.forward,
                  percent * sum.backward, percent * sum.optimizer,
                  result.processes > 1 ? fmt::format(", exchange of {} processes {:.1f} %",
                                                     result.processes, percent * sum.exchange)
                                       : "",
                  result.threads, result.isa, result.precision));
}

}  // namespace qalof::cli
