// `qalof eval`: options, and scores as text and JSON.
#include "app/eval.h"
#include "app/run_journal.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "core/file.h"

namespace qalof::cli {

void run_eval(std::vector<std::string> arguments) {
  const std::vector<std::string> given = arguments;
  app::EvalOptions options;
  app::ProcessOptions process_options;
  CommandLine line(
      "eval", "Scores a model, adapter and precision on the packed runtime.",
      "  qalof eval --task qa --model_name_or_path gpt2 --adapter out --validation_file dev.json "
      "--precision 4\n"
      "  qalof eval --task classification --model_name_or_path gpt2 --adapter out "
      "--validation_file dev.tsv\n"
      "  qalof eval --task classification --model_name_or_path gpt2.qalof --validation_file "
      "dev.tsv "
      "--precision random:4,5,6,7,8 --seed 1\n"
      "  qalof eval --task multiple_choice --model_name_or_path gpt2 --validation_file "
      "questions.jsonl\n"
      "  qalof eval --task lm --model_name_or_path gpt2 --validation_file text.txt --json\n",
      std::move(arguments));
  app::list_model_options(line, options.model);
  app::list_run_options(line, options.model);
  app::list_random_options(line, options.model);
  app::list_text_options(line, options.model);
  line.option("--seed", options.model.random_seed,
              "of the widths of --precision random:...; the system draws one unless given", "");
  line.group("data");
  line.option("--validation_file", options.data.file, options.tasks.file_kinds(tasks::Use::kScore))
      ->required();
  line.option("--max_eval_samples", options.data.max_samples,
              "the first N questions or texts; 0 = all");
  line.option("--max_seq_length", options.data.max_seq_length,
              "window in tokens; 384, lm: the model's positions unless given", "");
  options.tasks.list(line, options.task, tasks::Use::kScore);
  line.group("output");
  line.option("--output_dir", options.data.output_dir,
              "writes eval_results.json, and qa: eval_predictions.json, eval_scores.json and the "
              "like; classification: eval_predictions.json; multiple_choice: eval_choices.jsonl");
  line.flag("--profile", options.profile, "time and bytes per operation");
  process_options.list(line);
  line.parse();

  const app::Processes processes =
      command_processes("eval", given, process_options, options.model.threads, line.observer());
  app::EvalResult result;
  run_together(processes, [&] {
    processes.check_same({{"arguments", given}}, app::member_difference);
    result = app::run_eval(options, processes);
  });
  if (!processes.lead()) return;
  Json json = {{"task", options.task},
               {"precision", result.precision},
               {"special_tokens", result.special_tokens},
               {"tokens_per_second", result.scores.tokens_per_second()},
               {"effective_bits",
                {{"weights", result.footprint.bits_per_weight},
                 {"activations", result.footprint.bits_per_activation},
                 {"kv", result.footprint.bits_per_kv}}},
               {"bytes",
                {{"linears", result.footprint.linear_bytes},
                 {"adapters", result.footprint.adapter_bytes},
                 {"other", result.footprint.other_bytes}}}};
  if (result.draws) {
    json["precision_seed"] = result.draws->seed;
    json["draws"] = result.draws->requests;
  }
  json.update(tasks::to_json(result.scores));
  std::string text = fmt::format("{}   {:.0f} tokens/s   {}\n",
                                 tasks::to_text(result.scores, "   ", /*with_counts=*/true),
                                 result.scores.tokens_per_second(), result.precision);
  const std::string& directory = options.data.output_dir;
  if (!directory.empty()) {
    make_directories(directory);
    write_file_atomic(directory + "/eval_results.json", json.dump(2) + "\n");
  }
  if (options.profile) {
    json["profile"] = profile_json(result.profile);
    text += profile_text(result.profile);
  }
  line.print(json, text);
}

}  // namespace qalof::cli
