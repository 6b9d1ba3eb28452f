// `qalof completion` and `qalof manual`: what every command takes, for shells and readers.
#include <cstdio>

#include "cli/commands.h"
#include "cli/reference.h"
#include "core/error.h"

namespace qalof::cli {

namespace {

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

}  // namespace

void run_completion(std::vector<std::string> arguments) {
  hand_over_where_built("completion", arguments);
  std::string shell;
  CommandLine line("completion", "Prints a script that completes commands and flags in a shell.",
                   "  qalof completion bash > ~/.local/share/bash-completion/completions/qalof\n"
                   "  qalof completion zsh > ~/.zfunc/_qalof\n"
                   "  qalof completion fish > ~/.config/fish/completions/qalof.fish\n",
                   std::move(arguments));
  line.positional("SHELL", shell, "bash, zsh or fish");
  line.parse();
  print(completion_script(describe_commands(), shell));
}

void run_manual(std::vector<std::string> arguments) {
  hand_over_where_built("manual", arguments);
  std::string format;
  CommandLine line("manual", "Prints what every command takes, as a manual page or as Markdown.",
                   "  qalof manual man | man -l -\n  qalof manual markdown > commands.md\n",
                   std::move(arguments));
  line.positional("FORMAT", format, "man or markdown");
  line.parse();
  QALOF_CHECK(format == "man" || format == "markdown", ErrorKind::kUsage,
              "manual: found {}, expected man or markdown", format);
  const std::vector<CommandDescription> commands = describe_commands();
  print(format == "man" ? manual_page(commands) : markdown_reference(commands));
}

}  // namespace qalof::cli
