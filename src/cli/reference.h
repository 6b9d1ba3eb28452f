// What every command takes, as help, completion scripts, a manual page and Markdown: all of it from
// the commands' own lists of options.
#pragma once

#include <string>
#include <vector>

#include "cli/command_line.h"

namespace qalof::cli {

/// Every command of this program with its options, `bench train` among them.
std::vector<CommandDescription> describe_commands();

/// What `qalof COMMAND -h` prints: flags by group, in lines of at most columns characters where
/// words allow.
std::string help_text(const CommandDescription& command, std::size_t columns);
/// A script that completes commands, flags and the values that a flag takes. shell: "bash", "zsh"
/// or "fish"; Error{kUsage} for others.
std::string completion_script(const std::vector<CommandDescription>& commands,
                              const std::string& shell);
/// A manual page (roff, section 1).
std::string manual_page(const std::vector<CommandDescription>& commands);
/// docs/commands.md.
std::string markdown_reference(const std::vector<CommandDescription>& commands);

}  // namespace qalof::cli
