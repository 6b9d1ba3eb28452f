// Reads TOML and JSON files of flags. See config_file.h.
#include "cli/config_file.h"

#include <toml++/toml.h>

#include <cmath>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace qalof::cli {

namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;

// Not by way of JSON text, which has its own rules for bytes of strings.
Json to_json(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return number->get();
  if (const auto* number = node.as_floating_point()) return number->get();
  if (const auto* value = node.as_boolean()) return value->get();
  if (const auto* list = node.as_array()) {
    Json result = Json::array();
    for (const toml::node& item : *list) result.push_back(to_json(item));
    return result;
  }
  if (const auto* table = node.as_table()) {
    Json result = Json::object();
    for (const auto& [key, value] : *table) result[std::string(key.str())] = to_json(value);
    return result;
  }
  std::ostringstream text;  // a date or a time
  if (const auto* date = node.as_date()) text << date->get();
  if (const auto* time = node.as_time()) text << time->get();
  if (const auto* both = node.as_date_time()) text << both->get();
  return text.str();
}

Json read_toml(const std::string& path) {
  const std::string text = read_file(path, kMaxConfigBytes);
  try {
    return to_json(toml::parse(text, path));
  } catch (const toml::parse_error& error) {
    fail(ErrorKind::kCorruptFile, "{}:{}: {}", path, error.source().begin.line,
         error.description());
  }
}

std::string scalar_text(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  // JSON has no text for these, and no flag takes them.
  if (value.is_number_float() && !std::isfinite(value.get<double>()))
    return fmt::format("{}", value.get<double>());
  if (value.is_number() || value.is_boolean()) return value.dump();
  fail(ErrorKind::kBadInput,
       "{}: found {}, expected a string, a number, true, false or a list of them", where,
       value.is_object()  ? "a table"
       : value.is_array() ? "a list"
                          : "null");
}

}  // namespace

Json read_config_tree(const std::string& path) {
  Json config = path.ends_with(".json") ? read_json_file(path, kMaxConfigBytes) : read_toml(path);
  QALOF_CHECK(config.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object of flags",
              path, config.type_name());
  return config;
}

std::vector<std::string> config_texts(const Json& value, const std::string& where) {
  if (!value.is_array()) return {scalar_text(value, where)};
  QALOF_CHECK(!value.empty(), ErrorKind::kBadInput,
              "{}: found an empty list, expected at least one value", where);
  std::vector<std::string> texts;
  for (const Json& item : value) texts.push_back(scalar_text(item, where));
  return texts;
}

std::vector<ConfigEntry> read_config_file(const std::string& path) {
  const Json config = read_config_tree(path);
  std::vector<ConfigEntry> entries;
  for (const auto& [key, value] : config.items()) {
    if (value.is_null()) continue;
    entries.push_back(
        {key, config_texts(value, fmt::format("{}: {}", path, key)), value.is_array()});
  }
  return entries;
}

}  // namespace qalof::cli
