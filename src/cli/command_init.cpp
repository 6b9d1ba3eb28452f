// `qalof init`: options, and the size of the model that was made.
#include "app/init.h"
#include "cli/commands.h"
#include "cli/format.h"

namespace qalof::cli {

void run_init(std::vector<std::string> arguments) {
  app::InitOptions options;
  CommandLine line("init", "Makes a model directory with random weights N(0, initializer_range).",
                   "  qalof init --size 124M --tokenizer_name gpt2-bpe --output_dir gpt2-random\n"
                   "  qalof init --config_name config.json --output_dir tiny --seed 7\n",
                   std::move(arguments));
  line.option("--model_type", options.model_type,
              fmt::format("model family of --size: {}", fmt::join(app::init_families(), ", ")));
  line.option("--size", options.size, app::init_sizes());
  line.option("--config_name", options.config_name,
              "config.json, or a directory, or org/name on the hub, that holds one");
  line.option("--tokenizer_name", options.tokenizer_name,
              "directory, or org/name on the hub, whose tokenizer files are copied");
  line.option("--output_dir", options.output_dir, "directory to make")->required();
  line.option("--seed", options.seed, "seed of the weights");
  line.flag("--bf16", options.bf16, "store bfloat16");
  line.flag("--overwrite_output_dir", options.overwrite, "replace a model that is there");
  line.parse();
  const app::InitResult result = app::run_init(options, line.observer());
  line.print({{"parameters", result.parameters}, {"output_dir", result.output_dir}},
             fmt::format("{} parameters in {}\n", result.parameters, result.output_dir));
}

}  // namespace qalof::cli
