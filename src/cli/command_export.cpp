// `qalof export`: options, and what was written.
#include "app/export/export.h"
#include "cli/commands.h"
#include "cli/format.h"

namespace qalof::cli {

void run_export(std::vector<std::string> arguments) {
  app::ExportOptions options;
  CommandLine line(
      "export",
      "Writes a model for other programs: a Hugging Face directory, a GGUF file, or an adapter.",
      "  qalof export --model_name_or_path base --adapter out --format hf --output merged\n"
      "  qalof export --model_name_or_path base --adapter out --format gguf --type q8_0 --output "
      "model.gguf\n"
      "  qalof export --model_name_or_path base --adapter out --bits 4 --format gguf-lora --output "
      "adapter.gguf\n",
      std::move(arguments));
  app::list_export_options(line, options);
  line.parse();
  const app::ExportResult result = app::run_export(options, line.observer());
  Json json = {{"tensors", result.tensors},
               {"bytes", result.bytes},
               {"type", result.type},
               {"output", result.output}};
  if (result.bits) json["bits"] = *result.bits == 0 ? Json() : Json(*result.bits);
  line.print(json, fmt::format("{}: {} tensors, {}, {}\n", result.output, result.tensors,
                               result.type, bytes_text(result.bytes)));
}

}  // namespace qalof::cli
