// `qalof metric squad`: scores of a predictions file.
#include "cli/commands.h"
#include "cli/format.h"
#include "core/error.h"
#include "text/squad_metric.h"

namespace qalof::cli {

void run_metric(std::vector<std::string> arguments) {
  std::string kind, references, predictions;
  bool version_2 = false;
  CommandLine line(
      "metric", "Official SQuAD scores of a predictions file.",
      "  qalof metric squad --references dev.json --predictions eval_predictions.json\n",
      std::move(arguments));
  line.positional("metric", kind, "squad");
  line.option("--references", references, "SQuAD JSON or JSONL with the right answers")->required();
  line.option("--predictions", predictions, "JSON object of question ids to texts")->required();
  line.flag("--version_2_with_negative", version_2,
            "v2.0 rules; on by itself where a question has is_impossible");
  line.parse();
  QALOF_CHECK(kind == "squad", ErrorKind::kUsage, "metric: found {}, expected squad", kind);
  const text::SquadScores scores = text::score_predictions(references, predictions, version_2);
  if (scores.missing > 0)
    line.observer().warn(fmt::format("{} questions have no prediction", scores.missing));
  if (scores.repeated > 0)
    line.observer().warn(
        fmt::format("{} questions have the id of one before them: as in the official scripts v1.1 "
                    "counts each, v2.0 the last",
                    scores.repeated));
  line.print({{"exact_match", scores.exact_match},
              {"f1", scores.f1},
              {"total", scores.total},
              {"missing", scores.missing}},
             fmt::format("exact match {:.4f}   F1 {:.4f}   {} questions\n", scores.exact_match,
                         scores.f1, scores.total));
}

}  // namespace qalof::cli
