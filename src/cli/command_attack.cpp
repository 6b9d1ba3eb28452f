// `qalof attack`: options of the search and of scoring, and the table it prints.
#include "app/attack/search.h"
#include "app/run_journal.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/signals.h"
#include "core/error.h"

namespace qalof::cli {

namespace {

std::string interval_text(const Interval& interval) {
  return fmt::format("{:.1f} .. {:.1f}", interval.low, interval.high);
}

std::string scores_text(const app::AttackScores& scores, bool is_random) {
  std::vector<std::vector<std::string>> rows = {
      {"precision", "clean", "95 %", "adversarial", "95 %"}};
  auto add = [&](const app::AttackScore& score) {
    rows.push_back({score.precision, fmt::format("{:.2f}", score.clean_accuracy),
                    interval_text(score.clean_interval),
                    fmt::format("{:.2f}", score.adversarial_accuracy),
                    interval_text(score.adversarial_interval)});
  };
  if (is_random) add(scores.defended);
  for (const app::AttackScore& score : scores.per_precision) add(score);
  std::string text = table_text(rows, {1, 2, 3, 4});
  text += fmt::format("{} samples, {} attacked, {} fooled; {:.1f} queries on average",
                      scores.samples, scores.attacked, scores.fooled, scores.mean_queries);
  if (scores.seconds_per_sample > 0)
    text += fmt::format("; {:.2f} s a sample", scores.seconds_per_sample);
  return text + "\n";
}

void add_score_flags(CommandLine& line, app::AttackScoreOptions& score, std::string& defence) {
  app::list_model_options(line, score.model);
  app::list_text_options(line, score.model);
  line.group("method");
  line.option("--precisions", score.precisions,
              "precisions to score beside --precision; those that --defence rpi draws from and "
              "that --adaptive attacks")
      ->delimiter(',');
  line.option("--defence", defence,
              "who answers: none (the model at --precision), or rpi (at one of --precisions, drawn "
              "for every query)");
  line.option("--draws", score.draws, "rpi: how often every text is asked when it is scored");
  line.group("data");
  line.option("--max_seq_length", score.max_seq_length, "longer texts are cut");
  line.option("--rescore", score.rescore,
              "a directory of an earlier attack, or its attack.jsonl: scores those texts; nothing "
              "is searched");
  line.group("output");
  line.option("--output_dir", score.output_dir,
              "directory to write; the same command resumes where it was stopped");
}

void add_search_flags(CommandLine& line, app::AttackRunOptions& options, std::string& device,
                      std::string& expectation) {
  train::AttackOptions& attack = options.attack;
  line.group("data");
  line.option("--reference_model", options.reference_model,
              "language model (a directory) that keeps texts fluent and near the original; same "
              "tokenizer");
  line.option("--validation_file", options.validation_file, "SST-2 TSV or AG News CSV");
  line.option("--num_samples", options.num_samples, "the first N texts; 0 = all");
  line.group("method");
  line.flag("--adaptive", options.adaptive,
            "attack the mean over --precisions, and ask all of them about every hard sample");
  line.option("--expectation", expectation,
              "adaptive: all precisions in every iteration, or one that is drawn");
  line.option("--iterations", attack.iterations, "steps of Adam");
  line.option("--gumbel_samples", attack.gumbel_samples, "soft samples of an iteration");
  line.option("--queries", options.queries, "hard samples that are asked about, at most");
  line.option("--learning_rate", attack.learning_rate, "of Adam");
  line.option("--initial", attack.initial, "theta of the original's tokens");
  line.option("--temperature", attack.temperature, "of the Gumbel softmax");
  line.option("--kappa", attack.kappa, "margin by which the class must be missed");
  line.option("--lambda_similarity", attack.lambda_similarity, "weight of the similarity");
  line.option("--lambda_fluency", attack.lambda_fluency, "weight of the fluency");
  line.option(
      "--idf", options.idf_file,
      "labelled texts whose token frequencies weigh the similarity; default: equal weights");
  line.option("--batch_size", options.batch_size, "texts attacked together; changes no text");
  line.flag("--overwrite_output_dir", options.overwrite_output_dir,
            "begin anew, whatever the directory holds");
  line.option("--seed", attack.seed, "seed of samples, and of the precisions drawn");
  line.option("--device", device, "cpu or cuda");
}

}  // namespace

void run_attack(std::vector<std::string> arguments) {
  const std::vector<std::string> given = arguments;
  app::AttackRunOptions options;
  app::ProcessOptions process_options;
  std::string defence = "none", device = "cpu", expectation = "all";
  CommandLine line(
      "attack",
      "Gradient-based attack on a classifier at any precision (GBDA), and its accuracy on the "
      "texts "
      "found, at fixed and random precision.",
      "  qalof attack --model_name_or_path base --adapter sst2 --precision 8 --reference_model lm "
      "\\\n"
      "    --validation_file dev.tsv --num_samples 200 --output_dir attack-8\n"
      "  qalof attack --adaptive --defence rpi --precisions 4,5,6,7,8 --model_name_or_path base "
      "\\\n"
      "    --adapter sst2 --reference_model lm --validation_file dev.tsv --output_dir attack-rpi\n"
      "  qalof attack --rescore attack-8 --model_name_or_path base --adapter sst2 --precision 4 "
      "--json\n",
      std::move(arguments));
  add_score_flags(line, options.score, defence);
  add_search_flags(line, options, device, expectation);
  process_options.list(line);
  line.parse();
  for (const char* search : {"--reference_model", "--validation_file", "--adaptive"}) {
    QALOF_CHECK(options.score.rescore.empty() || !line.given(search), ErrorKind::kUsage,
                "{}: is for a search, which --rescore leaves out", search);
  }
  options.score.defence = app::parse_defence(defence);
  options.score.seed = options.attack.seed;
  const StopSignals signals;
  options.should_stop = [] { return StopSignals::received() != 0; };
  const bool is_random = options.score.defence == app::Defence::kRandom;
  const app::Processes processes = command_processes("attack", given, process_options,
                                                     options.score.model.threads, line.observer());
  run_together(processes, [&] {
    processes.check_same({{"arguments", given}}, app::member_difference);
    app::AttackScores scores;
    if (options.score.rescore.empty())
      scores = searched_attack(options, device, expectation, processes, given);
    else if (processes.lead())
      scores = app::rescore_attack(options.score, line.observer());
    if (processes.lead()) line.print(app::to_json(scores), scores_text(scores, is_random));
  });
}

}  // namespace qalof::cli
