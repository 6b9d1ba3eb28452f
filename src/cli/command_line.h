// The command line of one command: flags declared once, HF spellings (underscores, hyphens
// accepted), --config files, nearest-name errors, help with examples. Built on CLI11, whose own
// exceptions and exit codes do not leave this file.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"

namespace qalof::cli {

/// Thrown by CommandLine::parse when help was asked for and printed.
struct HelpShown {};

class CommandLine {
 public:
  /// arguments are those after the command's name.
  CommandLine(const std::string& name, const std::string& summary, const std::string& examples,
              std::vector<std::string> arguments);
  ~CommandLine();

  /// --name VALUE; several spellings separated by commas ("--precision,--sp_config"). A vector
  /// takes several values.
  template <typename T>
  CLI::Option* option(const std::string& names, T& value, const std::string& help) {
    CLI::Option* added = app_.add_option(names, value, help);
    constexpr bool kIsList = requires { typename T::allocator_type; }
    &&!std::is_same_v<T, std::string>;
    if constexpr (!kIsList) added->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    // Conversion would take -1, and a number of too many digits, for the largest number.
    if constexpr (std::is_unsigned_v<T>) {
      added->check(
          [](const std::string& text) {
            const bool fits = !text.starts_with('-') && text.size() <= 19;
            return fits ? std::string() : "found " + text + ", expected 0 or more, to 19 digits";
          },
          "");
    }
    return added->capture_default_str();
  }
  /// --name without a value.
  CLI::Option* flag(const std::string& names, bool& value, const std::string& help);
  /// A value without a flag; required.
  CLI::Option* positional(const std::string& name, std::string& value, const std::string& help);

  /// Parses what the constructor was given, with --config FILE (TOML or JSON) below it.
  /// Error{kUsage} for anything unknown, with the nearest name; Error{kNotFound}, {kCorruptFile}
  /// for the config file.
  void parse();

  bool json() const { return json_; }
  Observer& observer();
  /// Prints the result: the object alone with --json, else the text.
  void print(const Json& result, const std::string& text) const;
  /// Every flag with its value, given or default; numbers as numbers. For after parse().
  Json values() const;
  /// True where the flag stood on the command line or in the config file.
  bool given(const std::string& name) const;

 private:
  std::vector<std::string> config_arguments(const std::string& path) const;
  std::vector<std::string> known_flags() const;

  CLI::App app_;
  std::vector<std::string> arguments_;
  bool json_ = false;
  bool quiet_ = false;
  std::unique_ptr<Observer> observer_;
};

}  // namespace qalof::cli
