// `qalof report`: options, and the name of the page that was written.
#include "report/report.h"

#include "cli/commands.h"
#include "cli/format.h"

namespace qalof::cli {

void run_report(std::vector<std::string> arguments) {
  report::ReportOptions options;
  CommandLine line("report",
                   "One HTML file of what a directory and those directly below it hold: results, "
                   "training curves, sensitivity, scores against bits, commands. It needs no "
                   "network and no script.",
                   "  qalof report out/demo\n  qalof report out --output out.html --json\n",
                   std::move(arguments));
  line.positional("directory", options.directory,
                  "output directory of train, eval, sensitivity or demo, or one of several");
  line.option("--output", options.output, "file to write; report.html in the directory otherwise");
  line.parse();
  const report::ReportResult result = report::run_report(options);
  line.print({{"file", result.file}, {"sources", result.sources}},
             fmt::format("{} (from {} files)\n", result.file, result.sources.size()));
}

}  // namespace qalof::cli
