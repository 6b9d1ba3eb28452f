// Writes completion scripts, the manual page and docs/commands.md. See reference.h.
#include "cli/reference.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cli/commands.h"
#include "cli/version.h"
#include "core/error.h"

namespace qalof::cli {

namespace {

using OptionText = CommandDescription::OptionText;

constexpr std::size_t kColumns = 100;

CommandDescription describe(void (*run)(std::vector<std::string>),
                            const std::vector<std::string>& before) {
  std::vector<std::string> arguments = before;
  arguments.emplace_back(kDescribe);
  try {
    run(std::move(arguments));
  } catch (const CommandDescription& description) {
    return description;
  }
  fail(ErrorKind::kInternal, "a command ran instead of describing itself");
}

// "train" of "qalof train".
std::string short_name(const CommandDescription& command) {
  return command.name.substr(command.name.find(' ') + 1);
}

bool is_flag(const OptionText& option) { return option.names.front().starts_with("--"); }

std::vector<std::string> flags_of(const CommandDescription& command) {
  std::vector<std::string> flags = {"--help"};
  for (const OptionText& option : command.options) {
    if (is_flag(option)) flags.insert(flags.end(), option.names.begin(), option.names.end());
  }
  return flags;
}

// Commands of one word: those that complete the first argument.
std::vector<std::string> first_words(const std::vector<CommandDescription>& commands) {
  std::vector<std::string> words;
  for (const CommandDescription& command : commands) {
    if (short_name(command).find(' ') == std::string::npos) words.push_back(short_name(command));
  }
  return words;
}

std::string joined(const std::vector<std::string>& words, const char* between = " ") {
  return fmt::format("{}", fmt::join(words, between));
}

// text with every character of special written as before and the character.
std::string escaped(const std::string& text, std::string_view special, std::string_view before) {
  std::string result;
  for (const char c : text) {
    if (special.find(c) != std::string_view::npos) result += before;
    result += c;
  }
  return result;
}

// For single quotes of shells.
std::string shell_quoted(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\'') {
      result += "'\\''";
    } else {
      result += c;
    }
  }
  return result;
}

std::string bash_script(const std::vector<CommandDescription>& commands) {
  std::string values, flags;
  for (const CommandDescription& command : commands) {
    const std::string name = short_name(command);
    for (const OptionText& option : command.options) {
      if (option.choices.empty()) continue;
      for (const std::string& flag : option.names)
        values += fmt::format("    \"{} {}\") words='{}' ;;\n", name, flag, joined(option.choices));
    }
    flags += fmt::format("      \"{}\") words='{}' ;;\n", name, joined(flags_of(command)));
  }
  return fmt::format(R"(# Completion of qalof for bash, written by `qalof completion bash`.
_qalof() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD - 1]}}"
  local command="${{COMP_WORDS[1]}}" words=''
  [ "$command ${{COMP_WORDS[2]}}" = 'bench train' ] && command='bench train'
  if [ "$COMP_CWORD" = 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W '{}' -- "$current")
    return
  fi
  case "$command $previous" in
{}  esac
  if [ -z "$words" ] && [[ "$current" == -* ]]; then
    case "$command" in
{}    esac
  fi
  if [ -n "$words" ]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
    compopt -o filenames
  fi
}}
complete -F _qalof qalof
)",
                     joined(first_words(commands)), values, flags);
}

std::string zsh_script(const std::vector<CommandDescription>& commands) {
  std::string cases;
  for (const CommandDescription& command : commands) {
    const std::string name = short_name(command);
    if (name.find(' ') != std::string::npos) continue;
    cases += fmt::format("    {})\n      _arguments '*:file:_files'", name);
    for (const OptionText& option : command.options) {
      if (!is_flag(option)) continue;
      const std::string help = shell_quoted(escaped(escaped(option.help, "\\", "\\"), "[]:", "\\"));
      for (const std::string& flag : option.names) {
        cases += fmt::format(" \\\n        '*{}[{}]", flag, help);
        if (option.takes_value)
          cases += option.choices.empty() ? ":value:_files"
                                          : fmt::format(":value:({})", joined(option.choices));
        cases += "'";
      }
    }
    cases += "\n      ;;\n";
  }
  return fmt::format(R"(#compdef qalof
# Completion of qalof for zsh, written by `qalof completion zsh`.
_qalof() {{
  if (( CURRENT == 2 )); then
    compadd {}
    return
  fi
  local command="$words[2]"
  shift words
  (( CURRENT-- ))
  case "$command" in
{}  esac
}}
_qalof "$@"
)",
                     joined(first_words(commands)), cases);
}

std::string fish_script(const std::vector<CommandDescription>& commands) {
  std::string text = fmt::format(
      "# Completion of qalof for fish, written by `qalof completion fish`.\n"
      "complete -c qalof -n '__fish_use_subcommand' -f -a '{}'\n",
      joined(first_words(commands)));
  for (const CommandDescription& command : commands) {
    const std::string name = short_name(command);
    if (name.find(' ') != std::string::npos) continue;
    for (const OptionText& option : command.options) {
      if (!is_flag(option)) continue;
      for (const std::string& flag : option.names) {
        text += fmt::format("complete -c qalof -n '__fish_seen_subcommand_from {}' -l {} -d '{}'",
                            name, flag.substr(2), escaped(option.help, "'\\", "\\"));
        if (!option.choices.empty())
          text += fmt::format(" -x -a '{}'", joined(option.choices));
        else if (option.takes_value)
          text += " -r";
        text += "\n";
      }
    }
  }
  return text;
}

// Lines of at most columns characters, but for longer words; later ones begin with indent.
std::string wrapped(const std::string& text, const std::string& indent,
                    std::size_t columns = kColumns) {
  std::string result, line;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (!line.empty() && line.size() + 1 + word.size() > columns) {
      result += line + "\n";
      line = indent + word;
    } else {
      line += (line.empty() ? "" : " ") + word;
    }
    at = end + 1;
  }
  return result + line;
}

// Default and values of an option in words; "" where there is nothing to say.
std::string values_text(const OptionText& option) {
  std::string text;
  if (!option.choices.empty()) text += alternatives(option.choices) + "; ";
  if (option.is_required) text += "required; ";
  if (option.takes_value && !option.default_text.empty() && option.default_text != "[]")
    text += "default " + option.default_text + "; ";
  if (!text.empty()) text.resize(text.size() - 2);
  return text;
}

// Options by group, in the order in which groups are declared first.
std::vector<std::pair<std::string, std::vector<const OptionText*>>> by_group(
    const CommandDescription& command) {
  std::vector<std::pair<std::string, std::vector<const OptionText*>>> groups;
  for (const OptionText& option : command.options) {
    if (!is_flag(option)) continue;
    const auto found = std::find_if(groups.begin(), groups.end(),
                                    [&](const auto& group) { return group.first == option.group; });
    auto& group = found == groups.end()
                      ? groups.emplace_back(option.group, std::vector<const OptionText*>())
                      : *found;
    group.second.push_back(&option);
  }
  // What every command has comes last.
  std::rotate(groups.begin(), groups.begin() + 1, groups.end());
  return groups;
}

std::string positionals(const CommandDescription& command) {
  std::string text;
  for (const OptionText& option : command.options) {
    if (!is_flag(option)) text += " " + option.names.front();
  }
  return text;
}

// "--max_steps NUMBER", as help shows it.
std::string name_and_value(const OptionText& option) {
  std::string text = joined(option.names, ", ");
  if (option.takes_value && is_flag(option))
    text += std::string(option.is_number ? " NUMBER" : " TEXT") + (option.is_list ? " ..." : "");
  return text;
}

// Names on the left and words on the right of a common column; a long name has a line of its own.
std::string help_row(const std::string& name, const std::string& words, std::size_t columns) {
  constexpr std::size_t kNameColumns = 32;
  std::string left = "  " + name;
  if (words.empty()) return left + "\n";
  if (left.size() + 2 > kNameColumns)
    left += "\n" + std::string(kNameColumns, ' ');
  else
    left.resize(kNameColumns, ' ');
  const std::string indent(kNameColumns, ' ');
  // The words are wrapped after a stand-in without blanks, which the name then replaces.
  const std::string lines =
      wrapped(std::string(kNameColumns - 1, '.') + " " + words, indent, columns);
  return left + lines.substr(kNameColumns) + "\n";
}

std::string roff(const std::string& text) {
  std::string result = escaped(text, "\\", "\\");
  std::string dashes;
  for (const char c : result) {
    if (c == '-') dashes += '\\';
    dashes += c;
  }
  if (dashes.starts_with('.') || dashes.starts_with('\'')) dashes.insert(0, "\\&");
  return dashes;
}

}  // namespace

std::vector<CommandDescription> describe_commands() {
  std::vector<CommandDescription> all;
  for (const Command& command : commands()) {
    if (command.needs_training && !has_training()) continue;
    all.push_back(describe(command.run, {}));
    if (has_training() && std::string_view(command.name) == "bench")
      all.push_back(describe(command.run, {"train"}));
  }
  return all;
}

std::string help_text(const CommandDescription& command, std::size_t columns) {
  std::string text =
      fmt::format("{}\n\nUsage: {}{} [flags]\n", wrapped(command.summary, "", columns),
                  command.name, positionals(command));
  const auto row = [&](const OptionText& option) {
    const std::string values = values_text(option);
    text += help_row(name_and_value(option),
                     option.help + (values.empty() ? "" : " (" + values + ")"), columns);
  };
  if (!positionals(command).empty()) text += "\n";
  for (const OptionText& option : command.options) {
    if (!is_flag(option)) row(option);
  }
  for (const auto& [group, options] : by_group(command)) {
    text += fmt::format("\n{}:\n", group.empty() ? "flags" : group);
    for (const OptionText* option : options) row(*option);
  }
  return text + "\nExamples:\n" + command.examples;
}

std::string completion_script(const std::vector<CommandDescription>& commands,
                              const std::string& shell) {
  if (shell == "bash") return bash_script(commands);
  if (shell == "zsh") return zsh_script(commands);
  if (shell == "fish") return fish_script(commands);
  fail(ErrorKind::kUsage, "completion: found {}, expected bash, zsh or fish", shell);
}

std::string manual_page(const std::vector<CommandDescription>& commands) {
  std::string text = fmt::format(
      ".TH QALOF 1 \"\" \"{}\" \"User Commands\"\n"
      ".SH NAME\n"
      "qalof \\- language models with an adapter per bit width on integer weights\n"
      ".SH SYNOPSIS\n.B qalof\n.I COMMAND\n[\\fIFLAGS\\fR]\n"
      ".SH DESCRIPTION\n"
      "{}\n",
      roff(version_text()),
      roff("Fine-tunes one LoRA adapter per bit width on a frozen, quantized language model, "
           "switches the precision of each layer at run time, measures which layers can bear fewer "
           "bits, and writes packed files. Flags may be written with hyphens or underscores. A "
           "value that is spelled like a flag of the command is written --flag=VALUE."));
  for (const CommandDescription& command : commands) {
    text += fmt::format(".SH {}\n{}\n.PP\n.B {}{}\n", roff(short_name(command)),
                        roff(command.summary), roff(command.name), roff(positionals(command)));
    for (const auto& [group, options] : by_group(command)) {
      if (!group.empty()) text += fmt::format(".SS {}\n", roff(group));
      for (const OptionText* option : options) {
        const std::string values = values_text(*option);
        text += fmt::format(".TP\n.B {}\n{}\n", roff(joined(option->names, ", ")),
                            roff(option->help + (values.empty() ? "" : " (" + values + ")")));
      }
    }
    text += ".SS examples\n.nf\n";
    std::string line;
    for (const char c : command.examples) {
      line += c;
      if (c != '\n') continue;
      text += roff(line);
      line.clear();
    }
    text += ".fi\n";
  }
  text +=
      ".SH ENVIRONMENT\n.TP\n.B QALOF_ISA\nforces an instruction set; \\fBqalof doctor\\fR lists "
      "the names\n.TP\n.B QALOF_THREADS\ndefault of \\-\\-threads\n.TP\n.B NO_COLOR\n"
      "no colours on a terminal\n"
      ".SH EXIT STATUS\n0 success, 1 failure, 2 usage, 3 bad input or corrupt file, 4 diverged, 5 "
      "memory or disk, 6 network, 130 and 143 signals.\n";
  return text;
}

std::string markdown_reference(const std::vector<CommandDescription>& commands) {
  std::string text =
      "# Commands\n\n"
      "Written by `qalof manual markdown` from the commands' own lists of options. Every command "
      "takes\n`-h`. Flags may be written with hyphens or underscores.\n";
  for (const CommandDescription& command : commands) {
    text += fmt::format("\n## {}\n\n{}\n\n```\n{}{} [flags]\n```\n", short_name(command),
                        wrapped(command.summary, ""), command.name, positionals(command));
    for (const auto& [group, options] : by_group(command)) {
      text += fmt::format("\n**{}**\n\n", group.empty() ? "flags" : group);
      for (const OptionText* option : options) {
        const std::string values = values_text(*option);
        std::string names;
        for (const std::string& name : option->names)
          names += fmt::format("{}`{}`", names.empty() ? "" : ", ", name);
        text += wrapped(fmt::format("- {}{}: {}", names, values.empty() ? "" : " (" + values + ")",
                                    escaped(option->help, "*<>|", "\\")),
                        "  ") +
                "\n";
      }
    }
    text += "\nExamples:\n\n```\n" + command.examples + "```\n";
  }
  return text;
}

}  // namespace qalof::cli
