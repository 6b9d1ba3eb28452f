#include "cli/command_line.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "cli/config_file.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "quant/plan.h"

namespace qalof::cli {

namespace {

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

// Nothing but a flag's name, and perhaps a value behind it.
bool is_spelled_as_flag(const std::string& argument) {
  if (!begins_as_flag(argument)) return false;
  const std::string name = flag_name(argument);
  return std::all_of(name.begin() + 2, name.end(), [](char c) {
    return c == '_' || std::isalnum(static_cast<unsigned char>(c)) != 0;
  });
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

}  // namespace

Option* Option::required() {
  help_->required();
  return this;
}

Option* Option::delimiter(char separator) {
  separator_ = separator;
  return this;
}

Option* Option::one_of(std::vector<std::string> values) {
  help_->check(CLI::IsMember(values));
  choices_ = std::move(values);
  return this;
}

CommandLine::CommandLine(const std::string& name, const std::string& summary,
                         const std::string& examples, std::vector<std::string> arguments)
    : app_(summary, "qalof " + name), arguments_(std::move(arguments)) {
  app_.footer("Examples:\n" + examples);
  app_.get_formatter()->column_width(38);
  flag("--json", json_, "print one JSON object on standard output");
  flag("--quiet", quiet_, "no progress on standard error");
}

CommandLine::~CommandLine() = default;

Option& CommandLine::declare(CLI::Option* help) {
  Option& added = options_.emplace_back();
  added.help_ = help;
  return added;
}

Option* CommandLine::flag(const std::string& names, bool& value, const std::string& help) {
  Option& added = declare(app_.add_flag(names, value, help));
  added.kind_ = Option::Kind::kSwitch;
  added.store_ = [&value](const std::vector<std::string>& texts) {
    return read_values(texts, value);
  };
  return &added;
}

Option* CommandLine::positional(const std::string& name, std::string& value,
                                const std::string& help) {
  return option(name, value, help)->required();
}

std::vector<std::string> CommandLine::known_flags() const {
  std::vector<std::string> names = {"--help"};
  for (const Option& option : options_) {
    for (const std::string& name : option.help_->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

const Option* CommandLine::find(const std::string& name) const {
  const auto found = std::find_if(options_.begin(), options_.end(), [&](const Option& option) {
    const std::vector<std::string>& names = option.help_->get_lnames();
    return std::find(names.begin(), names.end(), name.substr(2)) != names.end();
  });
  return found == options_.end() ? nullptr : &*found;
}

Option* CommandLine::find(const std::string& name) {
  return const_cast<Option*>(std::as_const(*this).find(name));
}

bool CommandLine::is_known_flag(const std::string& argument) const {
  if (!begins_as_flag(argument)) return false;
  const std::string name = flag_name(argument);
  return name == "--help" || find(name) != nullptr;
}

void CommandLine::show_help() const {
  std::fputs(app_.help().c_str(), stdout);
  throw HelpShown{};
}

void CommandLine::add_positional(const std::string& argument) {
  for (Option& option : options_) {
    if (!option.help_->get_positional() || option.count() > 0) continue;
    option.values_.push_back(argument);
    return;
  }
  fail(ErrorKind::kUsage, "{}: a value without a flag, which {} does not take (see {} -h)",
       argument, app_.get_name(), app_.get_name());
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
                argument, app_.get_name());
    option.values_.push_back(argument);
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
              quant::nearest_name(name, known_flags()), app_.get_name());
  if (const std::size_t equals = argument.find('='); equals != std::string::npos) {
    option->values_.push_back(argument.substr(equals + 1));
    return at + 1;
  }
  if (option->kind_ == Option::Kind::kSwitch) {
    option->values_.emplace_back("true");
    return at + 1;
  }
  QALOF_CHECK(at + 1 < arguments_.size(), ErrorKind::kUsage, "{}: needs a value (see {} -h)", name,
              app_.get_name());
  const std::string& value = arguments_[at + 1];
  QALOF_CHECK(!is_known_flag(value), ErrorKind::kUsage,
              "{}: needs a value, and {} is a flag; write {}={} where it is the value (see {} -h)",
              name, value, name, value, app_.get_name());
  if (option->is_list_) return read_list(*option, name, at + 1);
  option->values_.push_back(value);
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
                  "unknown flag {}; flags begin with two hyphens (see {} -h)", argument,
                  app_.get_name());
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
    QALOF_CHECK(!entry.is_list || option->is_list_, ErrorKind::kBadInput,
                "{}: {}: found a list, expected one value", path, entry.key);
    if (option->count() == 0) option->values_ = entry.values;
  }
}

void CommandLine::store_values() {
  for (Option& option : options_) {
    const std::string name = option.help_->get_name();
    QALOF_CHECK(option.count() > 0 || !option.help_->get_required(), ErrorKind::kUsage,
                "{} is required (see {} -h)", name, app_.get_name());
    if (option.count() == 0) continue;
    if (option.separator_ != '\0') {
      std::vector<std::string> parts;
      for (const std::string& value : option.values_) {
        for (std::string& part : split(value, option.separator_)) parts.push_back(std::move(part));
      }
      option.values_ = std::move(parts);
    }
    const std::string reason = option.store_(option.values_);
    QALOF_CHECK(reason.empty(), ErrorKind::kUsage, "{}: {} (see {} -h)", name, reason,
                app_.get_name());
    const std::vector<std::string>& choices = option.choices_;
    QALOF_CHECK(choices.empty() || std::find(choices.begin(), choices.end(),
                                             option.values_.back()) != choices.end(),
                ErrorKind::kUsage, "{}: found {}, expected one of {} (see {} -h)", name,
                option.values_.back(), fmt::join(choices, ", "), app_.get_name());
  }
}

void CommandLine::parse() {
  std::string config;
  const Option* file = option(
      "--config", config, "TOML or JSON file holding flags of this command; the command line wins");
  read_arguments();
  if (file->count() > 0) add_config(file->values_.back());
  store_values();
}

Json CommandLine::values() const {
  Json values = Json::object();
  for (const Option& option : options_) {
    const std::vector<std::string>& names = option.help_->get_lnames();
    if (names.empty()) continue;
    auto value_of = [&](const std::string& text) {
      if (option.kind_ != Option::Kind::kNumber) return Json(text);
      // As it is written: 0.1 of a 32-bit float stays 0.1.
      if (Json number = Json::parse(text, nullptr, /*allow_exceptions=*/false); number.is_number())
        return number;
      double number = 0;
      return read_value(text, number).empty() ? Json(number) : Json(text);
    };
    Json& value = values["--" + names.front()];
    if (option.kind_ == Option::Kind::kSwitch) {
      bool is_set = false;
      if (option.count() > 0) read_values(option.values_, is_set);
      value = is_set;
    } else if (option.is_list_ && option.count() > 0) {
      value = Json::array();
      for (const std::string& item : option.values_) value.push_back(value_of(item));
    } else if (option.is_list_) {
      value = option.help_->get_default_str();
    } else {
      value =
          value_of(option.count() > 0 ? option.values_.back() : option.help_->get_default_str());
    }
  }
  return values;
}

bool CommandLine::given(const std::string& name) const { return find(name)->count() > 0; }

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
