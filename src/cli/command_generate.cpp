// `qalof generate`: options, and text as it is generated.
#include <cstdio>

#include "app/generate.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/line_input.h"
#include "cli/signals.h"
#include "core/byte_order_mark.h"
#include "core/error.h"
#include "text/unicode.h"

namespace qalof::cli {

namespace {

// Standard input without a byte order mark and the line end that closes it.
std::string read_prompt() {
  std::string text = read_standard_input();
  text::check_utf8(text, "standard input");
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text.substr(byte_order_mark(text, "--prompt -: standard input"));
}

Json draft_counts_json(const runtime::DraftCounts& counts) {
  return {{"drafts", counts.drafts},
          {"compared", counts.tokens},
          {"accepted", counts.accepted},
          {"acceptance", counts.acceptance()}};
}
std::string draft_counts_text(const char* source, const runtime::DraftCounts& counts) {
  return fmt::format("; {} drafts {}: {} of {} tokens accepted ({:.0f} %)", counts.drafts, source,
                     counts.accepted, counts.tokens, 100 * counts.acceptance());
}

}  // namespace

void run_generate(std::vector<std::string> arguments) {
  app::GenerateOptions options;
  runtime::GenerateOptions& generation = options.generation;
  CommandLine line(
      "generate", "Text from a prompt, written as it comes.",
      "  qalof generate --model_name_or_path gpt2 --prompt 'Once upon a time' --precision 4\n"
      "  echo 'Q: Why?' | qalof generate --model_name_or_path gpt2 --prompt - --temperature 0.8 "
      "--top_p 0.95 --stop 'Q:' --json\n",
      std::move(arguments));
  app::list_model_options(line, options.model);
  app::list_run_options(line, options.model);
  app::list_random_options(line, options.model);
  app::list_text_options(line, options.model);
  line.group("data");
  line.option("--prompt", options.prompt,
              "text to continue; - reads standard input, less the line end that closes it")
      ->required();
  line.group("method");
  line.option("--request", options.request,
              "--precision random:...: the width drawn is a function of seed and this number");
  app::list_generation_options(line, generation);
  line.option("--seed", generation.sampling.seed,
              "of the choices, and of --precision random:..., for which the system draws one "
              "unless given");
  line.option("--prefill_chunk", generation.prefill_chunk,
              "prompt tokens per pass: bounds memory, not results");
  line.option("--draft_precision", options.draft_precision,
              "the model drafts tokens at this precision and checks several in one pass: the same "
              "text, sooner where drafts are right; 4 = w4a8, or another precision");
  line.flag("--draft_lookup", generation.drafts.lookup,
            "drafts what followed the same tokens earlier in the text");
  line.option("--draft_tokens", generation.drafts.longest, "most tokens of a draft");
  line.flag("--ignore_eos", options.ignore_eos, "do not stop where the model ends its text");
  line.group("output");
  line.flag("--profile", options.profile, "time and bytes per operation");
  line.parse();
  if (line.given("--seed")) options.model.random_seed = generation.sampling.seed;
  QALOF_CHECK(
      !line.given("--draft_tokens") || !options.draft_precision.empty() || generation.drafts.lookup,
      ErrorKind::kUsage,
      "--draft_tokens: nothing is drafted, expected --draft_precision or --draft_lookup");
  if (options.prompt == "-") options.prompt = read_prompt();

  const StopSignals signals;
  const app::GenerateResult result = app::run_generate(
      options,
      [&](std::string_view piece) {
        if (!line.json()) {
          std::fwrite(piece.data(), 1, piece.size(), stdout);
          std::fflush(stdout);
        }
        return StopSignals::received() == 0;
      },
      line.observer());
  const runtime::Generation& found = result.generation;
  Json json = {{"text", found.text},
               {"ids", found.ids},
               {"stop_reason", runtime::to_string(found.reason)},
               {"prompt_tokens", found.prompt_tokens},
               {"special_tokens", result.special_tokens},
               {"tokens_per_second", found.tokens_per_second()},
               {"prefill_tokens_per_second", found.prefill_tokens_per_second()},
               {"prefill_seconds", found.prefill_seconds},
               {"decode_seconds", found.decode_seconds},
               {"kv_bytes", found.kv_bytes},
               {"lm_head_bits", result.lm_head_bits},
               {"precision", result.precision}};
  std::string drafts;
  if (!options.draft_precision.empty() || generation.drafts.lookup) {
    json["passes"] = found.passes;
    if (!options.draft_precision.empty()) {
      json["drafts"]["network"] = draft_counts_json(found.network_drafts);
      drafts += draft_counts_text("of the model", found.network_drafts);
    }
    if (generation.drafts.lookup) {
      json["drafts"]["lookup"] = draft_counts_json(found.lookup_drafts);
      drafts += draft_counts_text("looked up", found.lookup_drafts);
    }
    drafts = fmt::format("{} passes{}", found.passes, drafts);
  }
  if (result.random_seed) json["precision_seed"] = *result.random_seed;
  std::string text = "\n";
  if (options.profile) {
    json["profile"] = profile_json(result.profile);
    if (!line.json()) line.observer().info(profile_text(result.profile));
  }
  line.print(json, text);
  line.observer().info(fmt::format(
      "{} tokens ({}), {:.1f} tokens/s; prompt {} tokens, {:.1f} tokens/s; KV cache {}",
      found.ids.size(), runtime::to_string(found.reason), found.tokens_per_second(),
      found.prompt_tokens, found.prefill_tokens_per_second(), bytes_text(found.kv_bytes)));
  if (!drafts.empty()) line.observer().info(drafts);
  QALOF_CHECK(StopSignals::received() == 0, ErrorKind::kInterrupted, "interrupted");
}

}  // namespace qalof::cli
