// Files of flags, as --config names them: TOML, or JSON where the name ends in .json.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace qalof::cli {

/// A key of the file with its values as texts: strings byte for byte, numbers and booleans as JSON
/// writes them.
struct ConfigEntry {
  std::string key;
  std::vector<std::string> values;
  bool is_list = false;
};

/// In the order of the file's keys; keys that are null are left out. Error{kNotFound},
/// {kCorruptFile} for the file, {kBadInput} for anything but strings, numbers, booleans and lists
/// of them, named by its key.
std::vector<ConfigEntry> read_config_file(const std::string& path);

}  // namespace qalof::cli
