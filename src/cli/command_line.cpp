// Reads arguments and config files into options, and prints help and resolved options.
#include "cli/command_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "cli/config_file.h"
#include "cli/reference.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "quant/plan.h"

namespace qalof::cli {

namespace {

// Of the options that every command has.
constexpr const char* kGeneral = "general";

// "--max-steps=3" -> "--max_steps"
std::string flag_name(const std::string& argument) {
  std::string name = argument.substr(0, argument.find('='));
  std::replace(name.begin() + 2, name.end(), '-', '_');
  return name;
}

// "--" and a letter: a flag, known or not, where a flag may stand.
bool begins_as_flag(const std::string& argument) {
  return argument.size() > 2 && argument.starts_with("--") &&
         std::isalpha(static_cast<unsigned char>(argument[2])) != 0;
}

// Nothing but a flag's name, and perhaps a value after it.
bool is_spelled_as_flag(const std::string& argument) {
  if (!begins_as_flag(argument)) return false;
  const std::string name = flag_name(argument);
  return std::all_of(name.begin() + 2, name.end(), [](char c) {
    return c == '_' || std::isalnum(static_cast<unsigned char>(c)) != 0;
  });
}

}  // namespace

CommandLine::CommandLine(const std::string& name, const std::string& summary,
                         const std::string& examples, std::vector<std::string> arguments)
    : name_("qalof " + name),
      summary_(summary),
      examples_(examples),
      arguments_(std::move(arguments)) {
  group(kGeneral);
  flag("--json", json_, "print one JSON object on standard output")->incidental();
  flag("--quiet", quiet_, "no progress on standard error")->incidental();
  group("");
}

std::vector<std::string> CommandLine::known_flags() const {
  std::vector<std::string> names = {"--help"};
  for (const Option& option : options()) {
    if (!option.is_positional())
      names.insert(names.end(), option.names().begin(), option.names().end());
  }
  return names;
}

bool CommandLine::is_known_flag(const std::string& argument) const {
  if (!begins_as_flag(argument)) return false;
  const std::string name = flag_name(argument);
  return name == "--help" || find(name) != nullptr;
}

void CommandLine::show_help() const {
  constexpr std::size_t kWidest = 100;
  const std::size_t columns = terminal_columns(STDOUT_FILENO);
  const std::string text =
      help_text(description(), columns == 0 ? kWidest : std::min(columns, kWidest));
  std::fputs(text.c_str(), stdout);
  throw HelpShown{};
}

CommandDescription CommandLine::description() const {
  CommandDescription all{name_, summary_, examples_, {}};
  for (const Option& option : options()) {
    all.options.push_back({option.names(), option.choices(), option.group(), option.help(),
                           option.default_text(), option.kind() != Option::Kind::kSwitch,
                           option.kind() == Option::Kind::kNumber, option.is_list(),
                           option.is_required()});
  }
  return all;
}

// A TOML file that --config reads back. Strings, numbers, booleans and lists of JSON are TOML's.
void CommandLine::show_config() const {
  std::string text = fmt::format("# {}\n", name_), group;
  for (const Option& option : options()) {
    if (option.is_positional() || option.group() == kGeneral) continue;
    if (option.group() != group) text += fmt::format("\n# {}\n", group = option.group());
    const Json value = option.value();
    const bool is_unset = option.count() == 0 && (value == "" || value == "[]");
    text += fmt::format("{}{} = {}\n", is_unset ? "# " : "", option.name().substr(2),
                        is_unset && option.is_list() ? "[]" : value.dump());
  }
  std::fputs(text.c_str(), stdout);
  throw HelpShown{};
}

void CommandLine::add_positional(const std::string& argument) {
  for (Option& option : options_) {
    if (!option.is_positional() || option.count() > 0) continue;
    option.give(argument);
    return;
  }
  fail(ErrorKind::kUsage, "{}: a value without a flag, which {} does not take (see {} -h)",
       argument, name_, name_);
}

std::size_t CommandLine::read_list(Option& option, const std::string& name, std::size_t at) {
  const std::size_t begin = at;
  for (; at < arguments_.size(); ++at) {
    const std::string& argument = arguments_[at];
    if (is_known_flag(argument) || (argument == "-h" && at > begin)) break;
    QALOF_CHECK(!is_spelled_as_flag(argument), ErrorKind::kUsage,
                "unknown flag {}, nearest known flag {}; write {}={} for a value of that spelling "
                "(see {} -h)",
                flag_name(argument), quant::nearest_name(flag_name(argument), known_flags()), name,
                argument, name_);
    option.give(argument);
  }
  return at;
}

std::size_t CommandLine::read_flag(std::size_t at) {
  const std::string& argument = arguments_[at];
  const std::string name = flag_name(argument);
  if (name == "--help") show_help();
  Option* option = find(name);
  QALOF_CHECK(option != nullptr, ErrorKind::kUsage,
              "unknown flag {}, nearest known flag {} (see {} -h)", name,
              quant::nearest_name(name, known_flags()), name_);
  if (const std::size_t equals = argument.find('='); equals != std::string::npos) {
    option->give(argument.substr(equals + 1));
    return at + 1;
  }
  if (option->kind() == Option::Kind::kSwitch) {
    option->give("true");
    return at + 1;
  }
  QALOF_CHECK(at + 1 < arguments_.size(), ErrorKind::kUsage, "{}: needs a value (see {} -h)", name,
              name_);
  const std::string& value = arguments_[at + 1];
  QALOF_CHECK(!is_known_flag(value), ErrorKind::kUsage,
              "{}: needs a value, and {} is a flag; write {}={} where it is the value (see {} -h)",
              name, value, name, value, name_);
  if (option->is_list()) return read_list(*option, name, at + 1);
  option->give(value);
  return at + 2;
}

void CommandLine::read_arguments() {
  for (std::size_t at = 0; at < arguments_.size();) {
    const std::string& argument = arguments_[at];
    if (argument == "-h") show_help();
    if (argument == "--") {
      for (++at; at < arguments_.size(); ++at) add_positional(arguments_[at]);
    } else if (begins_as_flag(argument)) {
      at = read_flag(at);
    } else {
      QALOF_CHECK(argument.size() < 2 || argument[0] != '-', ErrorKind::kUsage,
                  "unknown flag {}; flags begin with two hyphens (see {} -h)", argument, name_);
      add_positional(argument);
      ++at;
    }
  }
}

void CommandLine::add_config(const std::string& path) {
  std::vector<std::pair<Option*, std::string>> seen;
  for (const ConfigEntry& entry : read_config_file(path)) {
    const std::string name = flag_name("--" + entry.key);
    Option* option = entry.key.find('=') == std::string::npos ? find(name) : nullptr;
    QALOF_CHECK(option != nullptr, ErrorKind::kUsage, "{}: unknown key {}, nearest known flag {}",
                path, entry.key, quant::nearest_name(name, known_flags()));
    QALOF_CHECK(name != "--config", ErrorKind::kUsage,
                "{}: config names another file, which is not read", path);
    for (const auto& [other, key] : seen) {
      QALOF_CHECK(other != option, ErrorKind::kUsage, "{}: {} and {} are one flag, given twice",
                  path, key, entry.key);
    }
    seen.emplace_back(option, entry.key);
    QALOF_CHECK(!entry.is_list || option->is_list(), ErrorKind::kBadInput,
                "{}: {}: found a list, expected one value", path, entry.key);
    if (option->count() == 0) option->give(entry.values);
  }
}

void CommandLine::store_values() {
  const bool runs = !given("--print_config");
  for (Option& option : options_) {
    QALOF_CHECK(option.count() > 0 || !option.is_required() || !runs, ErrorKind::kUsage,
                "{} is required (see {} -h)", option.name(), name_);
    if (option.count() == 0) continue;
    const std::string reason = option.store();
    QALOF_CHECK(reason.empty(), ErrorKind::kUsage, "{}: {} (see {} -h)", option.name(), reason,
                name_);
  }
}

void CommandLine::parse() {
  group(kGeneral);
  const Option* file = option("--config", config_,
                              "TOML or JSON file holding flags of this command; the command line "
                              "wins")
                           ->incidental();
  flag("--print_config", print_config_,
       "print the resolved flags as a TOML file for --config, and do nothing else")
      ->incidental();
  if (arguments_.size() == 1 && arguments_[0] == kDescribe) throw description();
  read_arguments();
  if (file->count() > 0) add_config(file->values().back());
  store_values();
  if (print_config_) show_config();
}

Observer& CommandLine::observer() {
  if (!observer_) observer_ = make_terminal_observer(quiet_);
  return *observer_;
}

void CommandLine::print(const Json& result, const std::string& text) const {
  if (observer_) observer_->status("");
  // One write after all progress is done, so that --json output is exactly one object. Bytes of
  // paths and texts that are not UTF-8 cannot stand in JSON.
  const std::string line =
      json_ ? result.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n" : text;
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

}  // namespace qalof::cli
