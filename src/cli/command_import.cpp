// `qalof import`: options, and what was converted.
#include "app/import/import.h"
#include "cli/commands.h"
#include "cli/format.h"

namespace qalof::cli {

void run_import(std::vector<std::string> arguments) {
  app::ImportOptions options;
  CommandLine line("import", "Turns another program's checkpoint into directories of ours.",
                   "  qalof import model.gguf --output_dir model\n"
                   "  qalof import checkpoint-1000 --output_dir imported\n"
                   "  qalof eval --model_name_or_path imported/base --adapter imported "
                   "--validation_file dev.json\n",
                   std::move(arguments));
  line.positional(
      "source", options.source,
      "a GGUF file (also org/name/FILE.gguf on the hub), or the original's checkpoint: its "
      "directory or its model.safetensors");
  line.option("--output_dir", options.output_dir, "directory to make")->required();
  line.flag("--bf16", options.bf16, "of a GGUF file: store bfloat16");
  line.flag("--overwrite_output_dir", options.overwrite, "replace a model that is there");
  line.parse();
  const app::ImportResult result = app::run_import(options, line.observer());
  line.print({{"format", result.format},
              {"tensors", result.tensors},
              {"directories", result.directories},
              {"output_dir", result.output_dir}},
             fmt::format("{}: {} tensors, written {}\n", result.format, result.tensors,
                         fmt::join(result.directories, ", ")));
}

}  // namespace qalof::cli
