// The command line of one command: flags declared once, HF spellings (underscores, hyphens
// accepted), --config files, nearest-name errors, help with examples. CLI11 writes the help; what
// is given is read here, so that values pass byte for byte.
//
// Names are normalized, values never are. A flag takes the next argument whatever that looks like,
// unless it is a flag of the command, alone or with =VALUE: then the value was forgotten, or is
// written --flag=VALUE. A list takes arguments up to the next flag. -- ends the flags.
#pragma once

#include <CLI/CLI.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/flag_values.h"
#include "core/json.h"
#include "core/progress.h"

namespace qalof::cli {

/// Thrown by CommandLine::parse when help was asked for and printed.
struct HelpShown {};

/// A flag, or a value without one, as a command declares it. Setters return the option itself.
class Option {
 public:
  Option* required();
  /// A list: values may also stand in one, with this character between them.
  Option* delimiter(char separator);
  /// No other value is taken.
  Option* one_of(std::vector<std::string> values);
  /// How many values were given.
  std::size_t count() const { return values_.size(); }

 private:
  friend class CommandLine;
  enum class Kind { kSwitch, kText, kNumber };
  Kind kind_ = Kind::kText;
  bool is_list_ = false;
  char separator_ = '\0';
  std::vector<std::string> choices_, values_;
  CLI::Option* help_ = nullptr;  // what CLI11 knows of it
  /// Stores texts as the value; says why not, or "".
  std::function<std::string(const std::vector<std::string>&)> store_;
};

class CommandLine {
 public:
  /// arguments are those after the command's name.
  CommandLine(const std::string& name, const std::string& summary, const std::string& examples,
              std::vector<std::string> arguments);
  ~CommandLine();

  /// --name VALUE; several spellings separated by commas ("--precision,--sp_config"). A vector
  /// takes several values.
  template <typename T>
  Option* option(const std::string& names, T& value, const std::string& help) {
    Option& added = declare(app_.add_option(names, value, help)->capture_default_str());
    if constexpr (requires { typename T::allocator_type; } && !std::is_same_v<T, std::string>) {
      added.is_list_ = true;
      if constexpr (std::is_arithmetic_v<typename T::value_type>)
        added.kind_ = Option::Kind::kNumber;
    } else if constexpr (std::is_arithmetic_v<T>) {
      added.kind_ = Option::Kind::kNumber;
    }
    added.store_ = [&value](const std::vector<std::string>& texts) {
      return read_values(texts, value);
    };
    return &added;
  }
  /// --name without a value, or --name=false.
  Option* flag(const std::string& names, bool& value, const std::string& help);
  /// A value without a flag; required.
  Option* positional(const std::string& name, std::string& value, const std::string& help);

  /// Parses what the constructor was given, with --config FILE (TOML or JSON) below it.
  /// Error{kUsage} for anything unknown, with the nearest name, and for values that a flag cannot
  /// hold; Error{kNotFound}, {kCorruptFile}, {kBadInput} for the config file.
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
  Option& declare(CLI::Option* help);
  /// The option of that name, which begins with two hyphens; null where there is none.
  const Option* find(const std::string& name) const;
  Option* find(const std::string& name);
  bool is_known_flag(const std::string& argument) const;
  std::vector<std::string> known_flags() const;
  void read_arguments();
  /// Reads the flag at arguments_[at] and its values; returns the index after them.
  std::size_t read_flag(std::size_t at);
  /// Reads the values of a list, which begin at arguments_[at]; returns the index after them.
  std::size_t read_list(Option& option, const std::string& name, std::size_t at);
  void add_positional(const std::string& argument);
  void add_config(const std::string& path);
  void store_values();
  [[noreturn]] void show_help() const;

  CLI::App app_;
  std::vector<std::string> arguments_;
  std::deque<Option> options_;  // pointers to them stay valid
  bool json_ = false;
  bool quiet_ = false;
  std::unique_ptr<Observer> observer_;
};

}  // namespace qalof::cli
