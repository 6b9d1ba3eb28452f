// `qalof eval`: options, and scores as text and JSON.
#include <algorithm>
#include <memory>

#include "app/eval.h"
#include "app/run_journal.h"
#include "cli/commands.h"
#include "cli/config_file.h"
#include "cli/format.h"
#include "core/error.h"
#include "core/file.h"

namespace qalof::cli {

namespace eval_command_file {

// What a run of eval found, and how it is printed.
struct Scored {
  Json json;            // null: another process has it
  std::string text;     // with precision and speed
  std::string metrics;  // alone
};

Scored score(std::unique_ptr<CommandLine>& shown, std::vector<std::string> arguments) {
  const std::vector<std::string> given = arguments;
  app::EvalOptions options;
  app::ProcessOptions process_options;
  std::string suite;
  shown = std::make_unique<CommandLine>(
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
      "  qalof eval --task lm --model_name_or_path gpt2 --validation_file text.txt --json\n"
      "  qalof eval --task chat --model_name_or_path model --validation_file chats.jsonl "
      "--generate\n"
      "  qalof eval --suite suite.toml --output_dir out\n",
      std::move(arguments));
  CommandLine& line = *shown;
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
  line.option(
      "--suite", suite,
      "alone or with --output_dir: a TOML file of data sets and precisions to score in turn");
  line.group("output");
  line.option(
      "--output_dir", options.data.output_dir,
      "writes eval_results.json, and qa: eval_predictions.json, eval_scores.json and the "
      "like; classification: eval_predictions.json; multiple_choice: eval_choices.jsonl; chat: "
      "eval_answers.jsonl");
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
  if (!processes.lead()) return {};
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
  const std::string metrics = tasks::to_text(result.scores, "   ", /*with_counts=*/true);
  std::string text = fmt::format("{}   {:.0f} tokens/s   {}\n", metrics,
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
  return {std::move(json), std::move(text), metrics};
}

// Flags of a table of the suite.
void add_flags(const Json& table, const std::string& where, std::vector<std::string>* arguments) {
  for (const auto& [key, value] : table.items()) {
    if (key == "data" || key == "precisions" || key == "name") continue;
    const std::vector<std::string> texts = config_texts(value, where + ": " + key);
    if (!value.is_array()) {
      arguments->push_back("--" + key + "=" + texts[0]);
      continue;
    }
    arguments->push_back("--" + key);
    arguments->insert(arguments->end(), texts.begin(), texts.end());
  }
}

// A name for a directory.
std::string directory_name(std::string text) {
  for (char& c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain && c != '.' && c != '-') c = '_';
  }
  return text;
}

// Scores every data set at every precision.
void run_suite(std::vector<std::string> arguments) {
  std::string file, output_dir;
  CommandLine line("eval", "Scores the data sets of a suite, each at several precisions.",
                   "  qalof eval --suite suite.toml --output_dir out\n", std::move(arguments));
  line.option("--suite", file, "TOML file of data sets and precisions")->required();
  line.option("--output_dir", output_dir,
              "writes results.json, which `qalof report` shows, and what each run writes");
  line.parse();
  const std::size_t processes = launch_of_environment().size;
  QALOF_CHECK(processes == 1, ErrorKind::kUsage,
              "--suite: runs in one process, and the launcher started {}", processes);
  const Json suite = read_config_tree(file);
  QALOF_CHECK(suite.contains("data") && suite["data"].is_array() && !suite["data"].empty(),
              ErrorKind::kBadInput, "{}: expected at least one [[data]]", file);
  std::vector<std::string> precisions = {""};
  if (suite.contains("precisions"))
    precisions = config_texts(suite["precisions"], file + ": precisions");
  Json rows = Json::array();
  std::string text;
  for (std::size_t i = 0; i < suite["data"].size(); ++i) {
    const Json& data = suite["data"][i];
    const std::string where = fmt::format("{}: data {}", file, i + 1);
    QALOF_CHECK(data.is_object(), ErrorKind::kBadInput, "{}: found {}, expected a table", where,
                data.type_name());
    const std::string name =
        data.contains("name") ? json_string(data, "name", where) : fmt::format("data {}", i + 1);
    for (const std::string& precision : precisions) {
      // What a data set says stands in for what the suite says.
      Json flags = suite;
      flags.update(data);
      if (!precision.empty()) flags["precision"] = precision;
      if (!output_dir.empty()) {
        flags["output_dir"] = fmt::format("{}/{}{}{}", output_dir, directory_name(name),
                                          precision.empty() ? "" : "_", directory_name(precision));
      }
      flags["quiet"] = true;
      std::vector<std::string> run = {};
      add_flags(flags, where, &run);
      line.observer().status(fmt::format("{} {}", name, precision));
      std::unique_ptr<CommandLine> inner;
      Scored scored = score(inner, std::move(run));
      line.observer().status("");
      scored.json["name"] = name;
      text += fmt::format("{:<20} {:<28} {}\n", name, scored.json["precision"].get<std::string>(),
                          scored.metrics);
      rows.push_back(std::move(scored.json));
    }
  }
  const Json results = {{"rows", rows}};
  if (!output_dir.empty()) {
    make_directories(output_dir);
    write_file_atomic(output_dir + "/results.json", results.dump(2) + "\n");
  }
  line.print(results, text);
}

}  // namespace eval_command_file

void run_eval(std::vector<std::string> arguments) {
  const bool is_suite = std::ranges::any_of(arguments, [](const std::string& argument) {
    return argument == "--suite" || argument.starts_with("--suite=");
  });
  if (is_suite) return eval_command_file::run_suite(std::move(arguments));
  std::unique_ptr<CommandLine> line;
  const eval_command_file::Scored scored = eval_command_file::score(line, std::move(arguments));
  if (!scored.json.is_null()) line->print(scored.json, scored.text);
}

}  // namespace qalof::cli
