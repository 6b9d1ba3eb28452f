// The command line of one command: its options (core/options.h), Hugging Face's spellings
// (underscores, hyphens accepted), --config files, nearest-name errors, help with examples.
// Values pass byte for byte.
//
// Names are normalized, values never are. A flag takes the next argument whatever that looks like,
// unless it is a flag of the command, alone or with =VALUE: then the value was forgotten, or is
// written --flag=VALUE. A list takes arguments up to the next flag. -- ends the flags.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/options.h"
#include "core/progress.h"

namespace qalof::cli {

/// Thrown by CommandLine::parse when what was asked for instead of a run is printed.
struct HelpShown {};

/// The single argument for which CommandLine::parse throws a CommandDescription.
inline constexpr const char* kDescribe = "--describe";
/// What a command takes, for shell completion, the manual page and the reference of options.
struct CommandDescription {
  std::string name, summary, examples;
  struct OptionText {
    std::vector<std::string> names, choices;
    std::string group, help, default_text;
    bool takes_value = true, is_number = false, is_list = false, is_required = false;
  };
  std::vector<OptionText> options;
};

class CommandLine : public OptionList {
 public:
  /// arguments are those after the command's name.
  CommandLine(const std::string& name, const std::string& summary, const std::string& examples,
              std::vector<std::string> arguments);

  /// Parses what the constructor was given, with --config FILE (TOML or JSON) below it.
  /// Error{kUsage} for anything unknown, with the nearest name, and for values that a flag cannot
  /// hold; Error{kNotFound}, {kCorruptFile}, {kBadInput} for the config file.
  void parse();

  bool json() const { return json_; }
  Observer& observer();
  /// Prints the result: the object alone with --json, else the text.
  void print(const Json& result, const std::string& text) const;

 private:
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
  CommandDescription description() const;
  [[noreturn]] void show_help() const;
  [[noreturn]] void show_config() const;

  std::string name_, summary_, examples_;  // name_: "qalof train"
  std::vector<std::string> arguments_;
  bool json_ = false, quiet_ = false, print_config_ = false;
  std::string config_;
  std::unique_ptr<Observer> observer_;
};

}  // namespace qalof::cli
