// `qalof serve`: options, the line at the start, the access log, and the end by a signal.
#include <chrono>
#include <cstdio>
#include <thread>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/signals.h"
#include "core/error.h"
#include "core/file.h"
#include "serve/service.h"

namespace qalof::cli {

namespace {

constexpr std::chrono::milliseconds kSignalCheck{20};

}  // namespace

void run_serve(std::vector<std::string> arguments) {
  serve::ServiceOptions options;
  std::string log_path;
  CommandLine line(
      "serve", "HTTP service: adapter and precision per request, an API as OpenAI's, a page at /.",
      "  qalof serve --model_name_or_path gpt2.qalof --precision 8 --adapter qa=out\n"
      "  curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' -d "
      "'{\"model\": \"qa\", \"prompt\": \"Once\", \"precision\": \"4\"}'\n",
      std::move(arguments));
  serve::list_service_options(line, options);
  line.group("output");
  line.option("--access_log", log_path,
              "file to which a JSON line per request is added, without prompts; - = standard "
              "output; default: none");
  line.parse();
  const StopSignals signals;
  std::unique_ptr<AppendFile> log_file;
  serve::AccessLog log;
  if (log_path == "-") {
    log = [](const std::string& text) {
      std::fwrite((text + "\n").data(), 1, text.size() + 1, stdout);
      std::fflush(stdout);
    };
  } else if (!log_path.empty()) {
    log_file = std::make_unique<AppendFile>(log_path);
    log = [&](const std::string& text) {
      try {
        log_file->append(text + "\n");
      } catch (const Error&) {
        // A full disk must not end the service; the counts in /metrics go on.
      }
    };
  }
  serve::Service service(std::move(options), std::move(log));
  service.load(line.observer());
  const serve::Catalog& catalog = service.catalog();
  Json json = {{"url", service.url()},
               {"model", catalog.name()},
               {"models", catalog.names()},
               {"precision", catalog.default_precision()},
               {"precisions", catalog.precisions()}};
  line.print(json, fmt::format("serving {} at {}\n", catalog.name(), service.url()));
  std::fflush(stdout);
  while (StopSignals::received() == 0) std::this_thread::sleep_for(kSignalCheck);
  line.observer().info("ending: waiting for open requests");
  if (!service.drain()) line.observer().warn("some requests were not finished in time");
}

}  // namespace qalof::cli
