// The commands that need libtorch, linked into qalof-train.
#include <csignal>

#include "app/attack/search.h"
#include "app/demo.h"
#include "app/sensitivity/from_gradients.h"
#include "app/train/bench.h"
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
  for (const app::WidthScore& score : scores) {
    if (score.qa)
      text += fmt::format("{}: exact match {:.2f}, F1 {:.2f}\n", score.precision,
                          score.qa->exact_match, score.qa->f1);
    if (score.classification)
      text += fmt::format("{}: accuracy {:.2f}, loss {:.4f}\n", score.precision,
                          score.classification->accuracy, score.classification->loss);
    if (score.lm)
      text += fmt::format("{}: loss {:.4f}, perplexity {:.3f}\n", score.precision, score.lm->loss,
                          score.lm->perplexity);
  }
  return text;
}

// Flags that can change what a run learns. Files count by what they hold (app/train_checkpoint.h).
Json identifying_flags(Json flags) {
  for (const char* name : {"--json",
                           "--quiet",
                           "--help",
                           "--config",
                           "--model_name_or_path",
                           "--train_file",
                           "--validation_file",
                           "--max_eval_samples",
                           "--output_dir",
                           "--overwrite_output_dir",
                           "--threads",
                           "--logging_steps",
                           "--eval_steps",
                           "--save_steps",
                           "--save_total_limit",
                           "--resume_from_checkpoint",
                           "--report_to",
                           "--logging_dir",
                           "--precision",
                           "--teacher",
                           "--adapter",
                           "--teacher_cache_mb",
                           "--parse_special"}) {
    flags.erase(name);
  }
  return flags;
}

}  // namespace

void run_train(std::vector<std::string> arguments) {
  app::TrainRunOptions options;
  train::TrainOptions& train = options.train;
  std::string task = "qa", method = "lora", scheduler = "cosine", device = "cpu",
              save_dtype = "f32", report_to = "none", random_widths = "step",
              curriculum = "schedule", adapter_form = "separate", init_lora = "default",
              min_bits = "4", learn_steps = "none", adversarial_norm = "l2", kd_loss;
  int kv_bits = 0;
  std::uint64_t teacher_cache_mb = train.teacher_cache_bytes >> 20;
  std::int32_t separator = -1;
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
  line.option("--model_name_or_path", options.model.model, "model directory")->required();
  line.option(
          "--train_file", options.train_file,
          "qa: SQuAD JSON or JSONL; classification: SST-2 TSV or AG News CSV; lm: UTF-8 text, or "
          "self: the model in full precision writes it")
      ->required();
  line.option("--self_tokens", options.self_tokens, "--train_file self: tokens, at least");
  line.option("--validation_file", options.validation_file,
              "scored after each phase and every --eval_steps");
  line.option("--output_dir", options.output_dir, "directory to write")->required();
  line.flag("--overwrite_output_dir", options.overwrite_output_dir,
            "replace what an earlier run wrote there");
  line.option("--task", task, "qa, lm or classification");
  line.option("--method", method,
              "full, lora (no quantization unless --precision), or an adapter per width: switch, "
              "joint, cpt, random, curriculum (docs/training.md)");
  line.option("--bit_widths", train.bit_widths,
              "widths that get an adapter; default 8 4, random and curriculum 8 7 6 5 4, cpt every "
              "width of its range")
      ->delimiter(',');
  line.option("--num_cyclic_period", train.num_cyclic_period, "cpt: cycles of the run");
  line.option(
      "--min_bits", min_bits,
      "cpt: where each cycle begins; auto = the fewest bits at which a short training learns "
      "at least half as much as at --max_bits");
  line.option("--max_bits", train.max_bits, "cpt: where each cycle ends");
  line.option("--random_widths", random_widths,
              "random: step (one width for all linears), layer (one for each) or both (either, by "
              "step)");
  line.option("--curriculum", curriculum,
              "curriculum: a lower width after equal parts of the run (schedule) or where the loss "
              "stops falling (loss)");
  line.option("--adversarial_steps", train.adversarial.steps,
              "qa, classification: examples are moved in embedding space by so many steps of "
              "projected gradient ascent against the network that then trains on them; 0 = not");
  line.option("--adversarial_epsilon", train.adversarial.epsilon,
              "how far a token's embedding moves at most");
  line.option("--adversarial_step_size", train.adversarial.step_size,
              "length of a step; 0 = 2.5 epsilon / steps");
  line.option("--adversarial_norm", adversarial_norm,
              "what epsilon bounds: l2 (the length of a token's move) or linf (each number of it)");
  line.option("--kv_bits", kv_bits,
              "bits of K and V where not the width's own; 16 is the original's form");
  line.option("--precision,--sp_config", options.model.precision,
              "the precision or plan to train in; methods of several widths train around it");
  line.option("--scheme", options.model.scheme,
              "tuned, or parts joined by +: seed, g32, g64, g128, g32-asym, ... (weights), mse "
              "(their ranges), aasym, ag32, ag64, ag128 (activations), rot (both turned); default: "
              "the plan's, else "
              "seed");
  line.option(
      "--learn_steps", learn_steps,
      "quantizer values learned per width: weights (a step per row or group), activations (a "
      "clip factor per linear), all or none");
  line.option("--learn_steps_rate", train.learn_steps_rate,
              "learning rate of --learn_steps, as a factor on --learning_rate");
  line.option("--ste_clip", train.ste_clip,
              "2: no gradient where |x| >= 2, as the original; 0: everywhere");
  line.option(
      "--adapter_form", adapter_form,
      "separate: an adapter per width; cascaded: one for all, of which a width uses the "
      "first ranks (joint, cpt, random, curriculum); merged: an adapter per width, added to "
      "the weights before they are quantized, so that nothing is added at run time");
  line.option("--lora_r", train.lora_r,
              "rank of the adapters; cascaded: of widths to 4 bits, 5 and 6 use two thirds, more "
              "bits one third");
  line.option("--lora_alpha", train.lora_alpha, "scale of the adapters is alpha / r");
  line.option("--init_lora", init_lora,
              "default: B zero; residual_svd: B A stands for the largest singular values of what "
              "quantization loses of W (LoftQ with one round)");
  line.option("--adapter", options.adapter,
              "directory of adapters to start from: each width begins as the adapter and head that "
              "would serve it (default: fresh adapters)");
  line.option("--learning_rate", train.learning_rate, "peak learning rate");
  line.option("--lr_scheduler_type", scheduler, "cosine, linear or constant");
  line.option("--warmup_steps", train.warmup_steps, "steps from 0 to the peak");
  line.option("--max_steps", train.max_steps,
              "optimizer steps a phase; 0 = --num_train_epochs decides");
  line.option("--max_tokens", train.max_tokens,
              "instead of --max_steps: tokens a phase, a text that several widths read in a step "
              "counting for each; the nearest number of steps");
  line.option("--num_train_epochs", train.num_train_epochs,
              "passes over the data a phase, more than 0");
  line.option("--per_device_train_batch_size", train.batch_size, "windows a forward pass");
  line.option("--gradient_accumulation_steps", train.gradient_accumulation_steps,
              "forward passes an optimizer step");
  line.flag("--group_by_length", train.group_by_length,
            "windows of like length in one step (docs/training.md)");
  line.option("--max_grad_norm", train.max_grad_norm, "gradient clipping; 0 = none");
  line.option("--weight_decay", train.weight_decay, "decoupled weight decay of matrices");
  line.option("--kd_loss", kd_loss,
              "distillation of logits: kl or mse; default: mse among the widths of joint, else kl");
  line.option("--kd_alpha", train.kd_alpha, "kl: share of distillation beside hard labels");
  line.option("--kd_temperature", train.kd_temperature, "kl: temperature");
  line.option("--kd_beta", train.kd_beta, "mse: weight of distillation");
  line.option("--teacher", options.teacher,
              "a fine-tuned model, or adapters on the model (a directory): teaches every width; "
              "self: cpt, random, curriculum learn from a higher width");
  line.option("--teacher_cache_mb", teacher_cache_mb,
              "outputs of a teacher that stays as it is are kept up to this size; 0 = none");
  line.option("--hidden_kd", train.hidden_kd,
              "weight of the squared error of the states after every block; needs a teacher");
  line.option("--contrastive", train.contrastive,
              "weight of telling the teacher's state of a token from those of other tokens");
  line.option("--contrastive_temperature", train.contrastive_temperature,
              "divides the cosines of --contrastive");
  line.flag("--bf16", train.bf16, "lora, full: linears in bfloat16");
  line.option("--max_seq_length", options.features.max_seq_length,
              "window in tokens; classification: longer texts are cut");
  line.option("--doc_stride", options.features.doc_stride,
              "qa: overlap of neighbouring windows in tokens");
  line.flag("--line_by_line", options.line_by_line,
            "lm: every line of the text is a document of its own");
  add_text_flags(line, options.model);
  line.option("--separator", separator, "qa: token id between question and context; -1 = none");
  line.option("--max_train_samples", options.max_train_samples,
              "the first N questions, windows or texts; 0 = all");
  line.option("--max_eval_samples", options.max_eval_samples,
              "the first N questions or texts; 0 = all");
  line.option("--logging_steps", train.logging_steps,
              "steps between lines of metrics.jsonl; what is shown meanwhile goes by time");
  line.option("--eval_steps", train.eval_steps,
              "steps between evaluations; 0 = after each phase only");
  line.option("--save_steps", train.save_steps,
              "steps between checkpoints; 0 = only where the run is stopped by a signal");
  line.option("--save_total_limit", options.save_total_limit,
              "checkpoints that are kept, the newest; 0 = all");
  line.option("--resume_from_checkpoint", options.resume_from_checkpoint,
              "a checkpoint directory, or auto for the newest in --output_dir; without it the same "
              "command goes on by itself");
  line.option("--report_to", report_to, "none, or tensorboard: an event file in --logging_dir")
      ->one_of({"none", "tensorboard"});
  line.option("--logging_dir", options.logging_dir, "default: runs in --output_dir");
  line.option("--save_dtype", save_dtype, "full: f32 or bf16 weights on disk")
      ->one_of({"f32", "bf16"});
  line.option("--gradient_bits", train.gradient_bits,
              "products of gradients with integer weights: 32, 16, or 8 with stochastic rounding");
  line.option("--seed", train.seed, "seed of data order and fresh weights");
  line.option("--device", device, "cpu or cuda");
  line.option("--threads", options.model.threads, "threads; 0 = QALOF_THREADS, else all");
  line.parse();
  train.task = weights::parse_task(task);
  train.method = train::parse_method(method);
  train.lr_scheduler_type = train::parse_lr_schedule(scheduler);
  train.device = train::parse_device(device);
  train.random_widths = train::parse_random_widths(random_widths);
  train.curriculum = train::parse_curriculum(curriculum);
  train.adapter_form = train::parse_adapter_form(adapter_form);
  train.init_lora = train::parse_init_lora(init_lora);
  options.find_min_bits = min_bits == "auto";
  QALOF_CHECK(options.find_min_bits || read_value(min_bits, train.min_bits).empty(),
              ErrorKind::kUsage, "--min_bits: found {}, expected auto or a number", min_bits);
  train.learn_steps = train::parse_learn_steps(learn_steps);
  train.adversarial.norm = train::parse_perturbation_norm(adversarial_norm);
  if (!kd_loss.empty()) train.kd_loss = train::parse_kd_loss(kd_loss);
  options.log_events = report_to == "tensorboard";
  options.flags = identifying_flags(line.values());
  if (!options.find_min_bits) options.flags["--min_bits"] = train.min_bits;
  options.save_bf16 = save_dtype == "bf16";
  if (kv_bits != 0) train.kv_bits = kv_bits;
  constexpr std::uint64_t kMostMegabytes = std::uint64_t{1} << 40;
  QALOF_CHECK(teacher_cache_mb <= kMostMegabytes, ErrorKind::kUsage,
              "--teacher_cache_mb: found {}, expected at most {}", teacher_cache_mb,
              kMostMegabytes);
  train.teacher_cache_bytes = teacher_cache_mb << 20;
  if (separator >= 0) options.features.separator = separator;
  const StopSignals signals;
  options.should_stop = [] { return StopSignals::received() != 0; };
  const app::TrainRunResult result = app::run_train(options, line.observer());
  line.print(app::to_json(result), fmt::format("{}{}{}\n", phases_text(result.train),
                                               scores_text(result.scores), result.output_dir));
  if (result.train.interrupted)
    fail(ErrorKind::kInterrupted,
         "stopped after step {}; what was learned is in {}, and the same command goes on",
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
                                  const std::string& expectation, Observer& observer,
                                  const std::vector<std::string>& /*arguments*/) {
  options.device = train::parse_device(device);
  options.attack.expectation = train::parse_expectation(expectation);
  return app::run_attack(options, observer);
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
  line.option("--model_name_or_path", options.model.model, "model directory")->required();
  line.option("--precision,--sp_config", options.model.precision,
              "8, w4a8kv8, ... or a plan file; default 32");
  line.option("--batch", options.batch, "windows of a step");
  line.option("--seq", options.tokens, "tokens of a window; at most, with --train_file");
  line.option("--train_file", options.train_file, "SQuAD JSON whose windows are used; else random");
  line.option("--repeats,--steps", options.repeats, "steps measured, after one warm-up");
  line.option("--lora_r", options.train.lora_r, "rank of the adapters");
  line.option("--gradient_bits", options.train.gradient_bits,
              "products of gradients with integer weights: 32, 16 or 8");
  line.option("--threads", options.model.threads, "threads; 0 = QALOF_THREADS, else all");
  line.parse();
  const app::TrainBenchResult result = app::run_train_bench(options, line.observer());
  Json steps = Json::array();
  train::StepTimes sum;
  for (const train::StepRecord& step : result.steps) {
    steps.push_back({{"tokens", step.tokens},
                     {"forward", step.times.forward},
                     {"backward", step.times.backward},
                     {"optimizer", step.times.optimizer}});
    sum.forward += step.times.forward;
    sum.backward += step.times.backward;
    sum.optimizer += step.times.optimizer;
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
       {"isa", result.isa},
       {"precision", result.precision}},
      fmt::format("train {:.1f} tokens/s   median {:.4f} s of {} (forward {:.0f} %, backward "
                  "{:.0f} %, optimizer {:.1f} %)   {} threads   {}   {}\n",
                  result.tokens_per_second, result.seconds, options.repeats, percent * sum.forward,
                  percent * sum.backward, percent * sum.optimizer, result.threads, result.isa,
                  result.precision));
}

}  // namespace qalof::cli
