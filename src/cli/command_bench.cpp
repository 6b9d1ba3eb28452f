#include <algorithm>

#include "app/bench.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "core/error.h"

namespace qalof::cli {

void run_bench(std::vector<std::string> arguments) {
  if (!arguments.empty() && arguments.front() == "train") {
    arguments.erase(arguments.begin());
    run_bench_train(std::move(arguments));
    return;
  }
  app::BenchOptions options;
  std::string what, logits = "last";
  CommandLine line(
      "bench",
      "Speed on this machine: one warm-up, then the median of the repeats. `bench train -h` shows "
      "the trainer's flags.",
      "  qalof bench prefill --model_name_or_path gpt2 --precision 4 --prompt_tokens 512\n"
      "  qalof bench decode --model_name_or_path gpt2 --precision 4 --lm_head_bits 8 --batch 4\n",
      std::move(arguments));
  line.positional("WHAT", what, "prefill, decode or train");
  add_model_flags(line, options.model);
  add_run_flags(line, options.model);
  line.option("--prompt_tokens,--seq", options.prompt_tokens, "tokens of a prompt");
  line.option("--new_tokens", options.new_tokens, "decode: tokens added to each sequence");
  line.option("--batch", options.batch, "sequences at once");
  line.option("--repeats", options.repeats, "measurements, after one warm-up");
  line.option("--logits", logits, "prefill: LM head on the last token of a prompt or on all");
  line.flag("--profile", options.profile, "time and bytes per operation");
  line.parse();
  QALOF_CHECK(what == "prefill" || what == "decode", ErrorKind::kUsage,
              "bench: found {}, expected prefill, decode or train", what);
  QALOF_CHECK(logits == "last" || logits == "all", ErrorKind::kUsage,
              "--logits: found {}, expected last or all", logits);
  options.kind = what == "decode" ? app::BenchKind::kDecode : app::BenchKind::kPrefill;
  options.all_logits = logits == "all";

  const app::BenchResult result = app::run_bench(options, line.observer());
  Json json = {{"bench", what},
               {"tokens_per_second", result.tokens_per_second},
               {"seconds", result.seconds},
               {"all_seconds", result.all_seconds},
               {"tokens", result.tokens},
               {"batch", options.batch},
               {"prompt_tokens", options.prompt_tokens},
               {"kv_bytes", result.kv_bytes},
               {"lm_head_bits", result.lm_head_bits},
               {"threads", result.threads},
               {"isa", result.isa},
               {"precision", result.precision}};
  if (options.kind == app::BenchKind::kDecode) {
    json["new_tokens"] = options.new_tokens;
  } else {
    json["logits"] = logits;
  }
  std::string text = fmt::format(
      "{} {:.1f} tokens/s   median {:.4f} s of {} ({:.4f}..{:.4f})   {} threads   {}   {}\n", what,
      result.tokens_per_second, result.seconds, options.repeats,
      *std::min_element(result.all_seconds.begin(), result.all_seconds.end()),
      *std::max_element(result.all_seconds.begin(), result.all_seconds.end()), result.threads,
      result.isa, result.precision);
  if (options.profile) {
    json["profile"] = profile_json(result.profile);
    text += profile_text(result.profile);
  }
  line.print(json, text);
}

}  // namespace qalof::cli
