// A training output directory: qalof.json beside one PEFT adapter per weight width
// (docs/file_formats.md, "Adapter directory").
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"

namespace qalof::io {

struct AdapterDir {
  std::string base_id;
  std::string base_sha256;
  std::string scheme = "seed";
  Json plan;                              // plan file contents, or null
  std::map<int, std::string> adapters;    // weight width -> sub-directory
  std::map<int, std::string> heads;       // weight width -> sub-directory whose head is used
  std::map<int, std::string> quantizers;  // weight width -> sub-directory with learned values
  bool merged = false;                    // adapters are added to weights before quantization
  std::optional<std::int32_t> separator;  // token between question and context
  std::vector<std::string> label_names;   // of the classes; empty: not written
  Json raw;                               // the JSON as read
};

/// A list of class names. Error{kBadInput} unless it holds 2 to 1000 names of at most 255 bytes.
std::vector<std::string> read_label_names(const Json& json, const std::string& where);
/// True where the directory holds qalof.json.
bool is_adapter_dir(const std::string& path);
/// True where the directory holds adapters: qalof.json for several widths, or one PEFT adapter.
bool holds_adapters(const std::string& path);
/// Error{kCorruptFile}, {kBadInput}; {kUnsupported} for an unknown format_version.
AdapterDir read_adapter_dir(const std::string& path);
void write_adapter_dir(const std::string& path, const AdapterDir& dir);

}  // namespace qalof::io
