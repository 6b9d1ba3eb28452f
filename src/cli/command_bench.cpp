// `qalof bench prefill` and `bench decode`: options and the line they print.
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
      "  qalof bench decode --model_name_or_path gpt2 --precision 4 --lm_head_bits 8 --batch 4\n"
      "  qalof bench prefill --model_name_or_path gpt2.qalof --precision random:4,5,6,7,8\n",
      std::move(arguments));
  line.positional("WHAT", what, "prefill, decode or train");
  app::list_model_options(line, options.model);
  app::list_run_options(line, options.model);
  options.model.takes_random = true;
  std::uint64_t seed = 0;
  line.group("method");
  line.option("--seed", seed,
              "of the widths of --precision random:...; the system draws one unless given");
  line.option("--requests", options.requests,
              "--precision random:...: requests of a repeat, each with a width of its own; 0 = 8 "
              "batches a width");
  line.option("--prompt_tokens,--seq", options.prompt_tokens, "tokens of a prompt");
  line.option("--new_tokens", options.new_tokens, "decode: tokens added to each sequence");
  line.option("--batch,--sequences", options.batch, "sequences at once");
  line.option("--repeats", options.repeats, "measurements, after one warm-up");
  line.option("--logits", logits, "prefill: LM head on the last token of a prompt or on all");
  line.group("output");
  line.flag("--profile", options.profile, "time and bytes per operation");
  line.parse();
  if (line.given("--seed")) options.model.random_seed = seed;
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
  if (result.random) {
    const app::RandomBench& random = *result.random;
    Json widths = Json::array();
    for (const app::RandomBench::Width& width : random.widths) {
      widths.push_back({{"precision", width.precision},
                        {"draws", width.draws},
                        {"tokens_per_second", width.tokens_per_second}});
      text += fmt::format("  {:<24} {:6} requests   {:.1f} tokens/s alone\n", width.precision,
                          width.draws, width.tokens_per_second);
    }
    json["random"] = {{"seed", random.seed},
                      {"requests", random.requests},
                      {"widths", widths},
                      {"harmonic_mean", random.harmonic_mean},
                      {"ratio", random.ratio}};
    text +=
        fmt::format("  harmonic mean {:.1f} tokens/s, random precision reaches {:.1f} % of it\n",
                    random.harmonic_mean, 100 * random.ratio);
  }
  if (options.profile) {
    json["profile"] = profile_json(result.profile);
    text += profile_text(result.profile);
  }
  line.print(json, text);
}

}  // namespace qalof::cli
