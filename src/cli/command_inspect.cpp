#include "app/inspect.h"
#include "cli/commands.h"
#include "cli/format.h"

namespace qalof::cli {

void run_inspect(std::vector<std::string> arguments) {
  std::string path;
  CommandLine line("inspect", "Shows the tensors, adapters and plan of a directory or file.",
                   "  qalof inspect gpt2.qalof\n  qalof inspect out/w4 --json\n",
                   std::move(arguments));
  line.positional("path", path,
                  "model directory, packed file, adapter directory or safetensors file");
  line.parse();
  const app::InspectResult result = app::run_inspect(path);
  Json tensors = Json::array();
  std::vector<std::vector<std::string>> rows = {
      {"tensor", "dtype", "bits", "stored", "shape", "bytes"}};
  for (const app::InspectedTensor& tensor : result.tensors) {
    tensors.push_back({{"name", tensor.name},
                       {"dtype", tensor.dtype},
                       {"shape", tensor.shape},
                       {"bytes", tensor.bytes},
                       {"bits", tensor.bits},
                       {"stored_bits", tensor.stored_bits}});
    rows.push_back({tensor.name, tensor.dtype, std::to_string(tensor.bits),
                    std::to_string(tensor.stored_bits),
                    fmt::format("[{}]", fmt::join(tensor.shape, ", ")), bytes_text(tensor.bytes)});
  }
  line.print(
      {{"path", path},
       {"kind", result.kind},
       {"tensors", tensors},
       {"bytes", result.bytes},
       {"details", result.details}},
      fmt::format("{}: {}, {} tensors, {}\n{}{}\n", path, result.kind, result.tensors.size(),
                  bytes_text(result.bytes), table_text(rows, {2, 3, 5}), result.details.dump(2)));
}

}  // namespace qalof::cli
