// `qalof download`: options, and where the files are.
#include "app/hub.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/signals.h"
#include "core/error.h"

namespace qalof::cli {

void run_download(std::vector<std::string> arguments) {
  app::DownloadOptions options;
  CommandLine line(
      "download",
      "Brings a repository of the Hugging Face Hub into the cache that Python's libraries use, and "
      "prints where it is.",
      "  qalof download HuggingFaceTB/SmolLM2-135M-Instruct\n"
      "  qalof download HuggingFaceTB/SmolLM2-135M-Instruct@main --json\n"
      "  qalof import \"$(qalof download org/name/model-q4_0.gguf)\" --output_dir model\n"
      "\nEnvironment: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE and others "
      "(docs/hub.md).\n",
      std::move(arguments));
  line.positional("name", options.name, "org/name[@revision], or org/name/FILE.gguf[@revision]");
  line.flag("--offline", options.offline, "only look into the cache; as HF_HUB_OFFLINE=1");
  line.parse();
  options.should_stop = [] { return StopSignals::received() != 0; };
  const StopSignals signals;
  try {
    const io::HubResult result = app::run_download(options, line.observer());
    const std::string now = result.downloaded == 0
                                ? "all were there"
                                : fmt::format("{} came now", bytes_text(result.downloaded));
    line.observer().info(fmt::format("{}: {} files, {}; {}", options.name, result.files.size(),
                                     bytes_text(result.bytes), now));
    line.print({{"path", result.path},
                {"commit", result.commit},
                {"files", result.files},
                {"bytes", result.bytes},
                {"downloaded", result.downloaded}},
               result.path + "\n");
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInterrupted) throw;
    fail(ErrorKind::kInterrupted, "{}: stopped; what came is kept, and the same command resumes",
         options.name);
  }
}

}  // namespace qalof::cli
