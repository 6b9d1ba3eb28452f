// `qalof doctor`: prints what the machine offers.
#include "app/doctor.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/version.h"

namespace qalof::cli {

std::string version_text() {
  return fmt::format("qalof {} ({})", QALOF_VERSION, app::active_isa());
}

void run_doctor(std::vector<std::string> arguments) {
  CommandLine line("doctor", "Shows what this machine offers and what was rejected.",
                   "  qalof doctor\n  qalof doctor --json\n", std::move(arguments));
  line.parse();
  const app::DoctorResult result = app::run_doctor();
  const std::string cpu = result.cpu.empty() ? "unknown" : result.cpu;
  std::string text = fmt::format(
      "version     {}\nprocessor   {}\nthreads     {}\nisa         {} (usable: {})\nmemory      {} "
      "free of {}\nlibraries   {}\ntrainer     {}\n",
      version_text(), cpu, result.threads, result.isa, fmt::join(result.isas, ", "),
      bytes_text(result.available_bytes), bytes_text(result.memory_bytes),
      fmt::join(result.libraries, ", "), result.trainer);
  for (const std::string& line_text : result.rejected) text += "rejected    " + line_text + "\n";
  line.print({{"version", QALOF_VERSION},
              {"processor", result.cpu},
              {"threads", result.threads},
              {"isa", result.isa},
              {"isas", result.isas},
              {"rejected", result.rejected},
              {"libraries", result.libraries},
              {"trainer", result.trainer},
              {"memory_bytes", result.memory_bytes},
              {"available_bytes", result.available_bytes}},
             text);
}

}  // namespace qalof::cli
