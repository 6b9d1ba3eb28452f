#include "app/eval.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "core/file.h"

namespace qalof::cli {

void run_eval(std::vector<std::string> arguments) {
  app::EvalOptions options;
  app::QaEvaluationOptions& qa = options.qa;
  CommandLine line(
      "eval", "Scores a model, adapter and precision on the packed runtime.",
      "  qalof eval --task qa --model_name_or_path gpt2 --adapter out --validation_file dev.json "
      "--precision 4\n"
      "  qalof eval --task classification --model_name_or_path gpt2 --adapter out "
      "--validation_file dev.tsv\n"
      "  qalof eval --task classification --model_name_or_path gpt2.qalof --validation_file "
      "dev.tsv "
      "--precision random:4,5,6,7,8 --seed 1\n"
      "  qalof eval --task lm --model_name_or_path gpt2 --validation_file text.txt --json\n",
      std::move(arguments));
  add_model_flags(line, options.model);
  add_run_flags(line, options.model);
  add_random_flags(line, options.model);
  add_text_flags(line, options.model);
  std::uint64_t seed = 0;
  line.option("--seed", seed,
              "of the widths of --precision random:...; the system draws one unless given");
  line.option("--task", options.task, "qa, lm or classification");
  line.option("--validation_file", qa.validation_file,
              "qa: SQuAD JSON or JSONL; lm: UTF-8 text; classification: SST-2 TSV or AG News CSV")
      ->required();
  line.option("--max_eval_samples", qa.max_eval_samples, "the first N questions or texts; 0 = all");
  Option* length = line.option("--max_seq_length", qa.features.max_seq_length,
                               "window in tokens; lm: the model's positions unless given");
  line.option("--doc_stride", qa.features.doc_stride,
              "qa: overlap of neighbouring windows in tokens");
  line.option("--stride", options.lm.stride, "lm: how far windows move; 0 = half a window");
  line.flag("--line_by_line", options.lm.line_by_line, "lm: every line is a document of its own");
  line.option("--n_best_size", qa.decode.n_best_size, "qa: candidates kept per question");
  line.option("--max_answer_length", qa.decode.max_answer_length, "qa: longest answer in tokens");
  line.flag("--version_2_with_negative", qa.decode.version_2_with_negative,
            "qa: questions may have no answer");
  line.option("--null_score_diff_threshold", qa.decode.null_score_diff_threshold,
              "qa: no answer where its score exceeds the best by more");
  line.flag("--hf_compat_null", qa.decode.hf_compat_null,
            "qa: the null index as run_qa.py chooses it");
  line.option("--output_dir", qa.output_dir,
              "qa: writes eval_predictions.json, eval_scores.json, eval_results.json and the like; "
              "classification likewise");
  line.flag("--profile", options.profile, "time and bytes per operation");
  line.parse();
  if (line.given("--seed")) options.model.random_seed = seed;
  if (length->count() > 0) options.lm.max_seq_length = qa.features.max_seq_length;

  const app::EvalResult result = app::run_eval(options, line.observer());
  Json json = {{"task", options.task},
               {"precision", result.precision},
               {"special_tokens", result.special_tokens},
               {"tokens_per_second", result.tokens_per_second},
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
  std::string text;
  if (result.qa) {
    json["eval_exact_match"] = result.qa->exact_match;
    json["eval_f1"] = result.qa->f1;
    json["eval_samples"] = result.qa->samples;
    json["eval_features"] = result.qa->windows;
    text = fmt::format("exact match {:.2f}   F1 {:.2f}   {} questions   {:.0f} tokens/s   {}\n",
                       result.qa->exact_match, result.qa->f1, result.qa->samples,
                       result.tokens_per_second, result.precision);
  } else if (result.classification) {
    const app::ClassificationScores& scores = *result.classification;
    json["eval_accuracy"] = scores.accuracy;
    json["eval_loss"] = scores.loss;
    json["eval_samples"] = scores.samples;
    json["cut_samples"] = scores.cut;
    text = fmt::format("accuracy {:.2f}   loss {:.4f}   {} texts   {:.0f} tokens/s   {}\n",
                       scores.accuracy, scores.loss, scores.samples, result.tokens_per_second,
                       result.precision);
  } else {
    json["eval_loss"] = result.lm->loss;
    json["perplexity"] = result.lm->perplexity;
    json["tokens"] = result.lm->tokens;
    text = fmt::format("loss {:.6f}   perplexity {:.4f}   {} tokens   {:.0f} tokens/s   {}\n",
                       result.lm->loss, result.lm->perplexity, result.lm->tokens,
                       result.tokens_per_second, result.precision);
  }
  if (result.qa && !qa.output_dir.empty())
    write_file_atomic(qa.output_dir + "/eval_results.json", json.dump(2) + "\n");
  if (options.profile) {
    json["profile"] = profile_json(result.profile);
    text += profile_text(result.profile);
  }
  line.print(json, text);
}

}  // namespace qalof::cli
