#include "cli/command_line.h"

#include <toml++/toml.h>
#include <algorithm>
#include <cstdio>
#include <set>

#include "cli/terminal.h"
#include "core/error.h"
#include "core/file.h"
#include "quant/plan.h"

namespace qalof::cli {

namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;

// "--max-steps=3" -> "--max_steps=3"; values keep their hyphens.
std::string normalize_flag(std::string argument) {
  if (!argument.starts_with("--")) return argument;
  const std::size_t end = std::min(argument.find('='), argument.size());
  std::replace(argument.begin() + 2, argument.begin() + static_cast<std::ptrdiff_t>(end), '-', '_');
  return argument;
}

std::string flag_name(const std::string& argument) {
  return argument.substr(0, argument.find('='));
}

bool is_flag(const std::string& argument) {
  return argument.size() > 2 && argument.starts_with("--") &&
         std::isalpha(static_cast<unsigned char>(argument[2])) != 0;
}

std::string scalar_text(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return value.dump();
  fail(ErrorKind::kBadInput, "{}: found {}, expected a string, a number or a list of them", where,
       value.dump());
}

Json read_config(const std::string& path) {
  if (path.ends_with(".json")) return read_json_file(path, kMaxConfigBytes);
  const std::string text = read_file(path, kMaxConfigBytes);
  try {
    const toml::table table = toml::parse(text, path);
    std::ostringstream json;
    json << toml::json_formatter{table};
    return parse_json(json.str(), path);
  } catch (const toml::parse_error& error) {
    fail(ErrorKind::kCorruptFile, "{}:{}: {}", path, error.source().begin.line,
         error.description());
  }
}

}  // namespace

CommandLine::CommandLine(const std::string& name, const std::string& summary,
                         const std::string& examples, std::vector<std::string> arguments)
    : app_(summary, "qalof " + name), arguments_(std::move(arguments)) {
  app_.footer("Examples:\n" + examples);
  app_.get_formatter()->column_width(38);
  flag("--json", json_, "print one JSON object on standard output");
  flag("--quiet", quiet_, "no progress on standard error");
}

CommandLine::~CommandLine() = default;

CLI::Option* CommandLine::flag(const std::string& names, bool& value, const std::string& help) {
  return app_.add_flag(names, value, help);
}

CLI::Option* CommandLine::positional(const std::string& name, std::string& value,
                                     const std::string& help) {
  return app_.add_option(name, value, help)->required();
}

std::vector<std::string> CommandLine::known_flags() const {
  std::vector<std::string> names;
  for (const CLI::Option* option : app_.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::vector<std::string> CommandLine::config_arguments(const std::string& path) const {
  const Json config = read_config(path);
  QALOF_CHECK(config.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object of flags",
              path, config.type_name());
  const std::vector<std::string> known = known_flags();
  std::set<std::string> on_command_line;
  for (const std::string& argument : arguments_) {
    if (is_flag(argument)) on_command_line.insert(flag_name(argument));
  }
  std::vector<std::string> arguments;
  for (const auto& [key, value] : config.items()) {
    const std::string name = normalize_flag("--" + key);
    QALOF_CHECK(std::find(known.begin(), known.end(), name) != known.end(), ErrorKind::kUsage,
                "{}: unknown key {}, nearest known flag {}", path, key,
                quant::nearest_name(name, known));
    if (on_command_line.contains(name) || value.is_null()) continue;
    const std::string where = fmt::format("{}: {}", path, key);
    if (value.is_boolean()) {
      arguments.push_back(fmt::format("{}={}", name, value.get<bool>()));
    } else if (value.is_array()) {
      arguments.push_back(name);
      for (const Json& item : value) arguments.push_back(scalar_text(item, where));
    } else {
      arguments.push_back(fmt::format("{}={}", name, scalar_text(value, where)));
    }
  }
  return arguments;
}

void CommandLine::parse() {
  std::string config;
  app_.add_option("--config", config,
                  "TOML or JSON file holding flags of this command; the command line wins");
  std::transform(arguments_.begin(), arguments_.end(), arguments_.begin(), normalize_flag);
  const std::vector<std::string> known = known_flags();
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    if (arguments_[i] == "-h" || arguments_[i] == "--help") {
      std::fputs(app_.help().c_str(), stdout);
      throw HelpShown{};
    }
    if (!is_flag(arguments_[i])) continue;
    const std::string name = flag_name(arguments_[i]);
    QALOF_CHECK(std::find(known.begin(), known.end(), name) != known.end(), ErrorKind::kUsage,
                "unknown flag {}, nearest known flag {} (see {} -h)", name,
                quant::nearest_name(name, known), app_.get_name());
    if (name != "--config") continue;
    config = arguments_[i].size() > name.size() ? arguments_[i].substr(name.size() + 1)
             : i + 1 < arguments_.size()        ? arguments_[i + 1]
                                                : "";
  }
  std::vector<std::string> all = arguments_;
  if (!config.empty()) {
    const std::vector<std::string> from_config = config_arguments(config);
    all.insert(all.begin(), from_config.begin(), from_config.end());
  }
  std::reverse(all.begin(), all.end());  // CLI11 takes arguments from the back
  try {
    app_.parse(all);
  } catch (const CLI::ParseError& error) {
    fail(ErrorKind::kUsage, "{} (see {} -h)", error.what(), app_.get_name());
  }
}

Json CommandLine::values() const {
  auto value_of = [](const std::string& text) {
    const Json number = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    return number.is_number() ? number : Json(text);
  };
  Json values = Json::object();
  for (const CLI::Option* option : app_.get_options()) {
    if (option->get_lnames().empty()) continue;
    Json& value = values["--" + option->get_lnames().front()];
    const std::vector<std::string>& given = option->results();
    if (option->get_items_expected_max() == 0) {
      value = !given.empty() && given.back() != "false";  // a flag
    } else if (option->get_items_expected_max() > 1) {
      value = Json::array();
      for (const std::string& item : given) value.push_back(value_of(item));
      if (given.empty()) value = option->get_default_str();
    } else {
      value = value_of(given.empty() ? option->get_default_str() : given.back());
    }
  }
  return values;
}

bool CommandLine::given(const std::string& name) const {
  return app_.get_option(name)->count() > 0;
}

Observer& CommandLine::observer() {
  if (!observer_) observer_ = make_terminal_observer(quiet_);
  return *observer_;
}

void CommandLine::print(const Json& result, const std::string& text) const {
  if (observer_) observer_->status("");
  // One write after all progress is done, so that --json output is exactly one object.
  const std::string line = json_ ? result.dump() + "\n" : text;
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

}  // namespace qalof::cli
