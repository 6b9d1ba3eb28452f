// Files of flags, as --config names them: TOML, or JSON where the name ends in .json.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/json.h"

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

/// The whole file, tables and all. Errors as above.
Json read_config_tree(const std::string& path);
/// A value or list of values as texts, as read_config_file gives them; where names it.
std::vector<std::string> config_texts(const Json& value, const std::string& where);

}  // namespace qalof::cli
