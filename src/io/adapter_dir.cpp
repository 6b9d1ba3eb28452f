// Reads and writes qalof.json of a training output directory.
#include "io/adapter_dir.h"

#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/format_version.h"

namespace qalof::io {

namespace {

constexpr int kAdapterFormatVersion = 1;
constexpr std::size_t kMaxBytes = std::size_t{4} << 20;

// Reads an object such as {"8": "w8"}: weight widths to names of sub-directories.
std::map<int, std::string> read_widths(const Json& json, const std::string& key,
                                       const std::string& where) {
  QALOF_CHECK(json.contains(key) && json[key].is_object(), ErrorKind::kBadInput,
              "{}: {} is missing or not an object", where, key);
  std::map<int, std::string> widths;
  for (const auto& [text, name] : json[key].items()) {
    static const std::map<std::string, int> known = {{"2", 2}, {"3", 3},   {"4", 4},
                                                     {"5", 5}, {"6", 6},   {"7", 7},
                                                     {"8", 8}, {"16", 16}, {"32", 32}};
    const auto width = known.find(text);
    QALOF_CHECK(width != known.end(), ErrorKind::kBadInput,
                "{}: {}[\"{:.40}\"]: expected a width in 2..8, 16 or 32", where, key, text);
    QALOF_CHECK(name.is_string(), ErrorKind::kBadInput, "{}: {}[\"{}\"] is not a name", where, key,
                text);
    const auto directory = name.get<std::string>();
    QALOF_CHECK(!directory.empty() && directory[0] != '.' && directory.size() <= 255 &&
                    directory.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos,
                ErrorKind::kBadInput,
                "{}: {}[\"{}\"] is \"{:.80}\", expected the bare name of a sub-directory", where,
                key, text, directory);
    widths[width->second] = directory;
  }
  return widths;
}

}  // namespace

std::vector<std::string> read_label_names(const Json& json, const std::string& where) {
  QALOF_CHECK(json.is_array() && json.size() >= 2 && json.size() <= 1000, ErrorKind::kBadInput,
              "{}: expected a list of 2..1000 names", where);
  std::vector<std::string> names;
  for (const Json& name : json) {
    QALOF_CHECK(name.is_string() && name.get_ref<const std::string&>().size() <= 255,
                ErrorKind::kBadInput, "{}: expected names of at most 255 bytes", where);
    names.push_back(name.get<std::string>());
  }
  return names;
}

bool is_adapter_dir(const std::string& path) { return path_exists(path + "/qalof.json"); }

bool holds_adapters(const std::string& path) {
  return is_adapter_dir(path) || path_exists(path + "/adapter_config.json");
}

AdapterDir read_adapter_dir(const std::string& path) {
  const std::string where = path + "/qalof.json";
  AdapterDir dir;
  dir.raw = read_json_file(where, kMaxBytes);
  read_format_version(dir.raw, where, kAdapterFormatVersion);
  static const std::set<std::string> known = {
      "format_version", "base",      "scheme",     "plan",         "adapters",
      "heads",          "separator", "quantizers", "adapter_form", "label_names"};
  for (const auto& [key, value] : dir.raw.items()) {
    QALOF_CHECK(known.contains(key), ErrorKind::kBadInput, "{}: unknown key {:.60}", where, key);
  }
  QALOF_CHECK(dir.raw.contains("base"), ErrorKind::kBadInput, "{}: base is missing", where);
  dir.base_id = json_string(dir.raw["base"], "id", where + ": base");
  dir.base_sha256 = json_string(dir.raw["base"], "sha256", where + ": base");
  dir.scheme = json_string(dir.raw, "scheme", where);
  if (dir.raw.contains("plan")) dir.plan = dir.raw["plan"];
  QALOF_CHECK(dir.plan.is_object() || dir.plan.is_null(), ErrorKind::kBadInput,
              "{}: plan is {}, expected an object or null", where, dir.plan.type_name());
  dir.adapters = read_widths(dir.raw, "adapters", where);
  QALOF_CHECK(!dir.adapters.empty(), ErrorKind::kBadInput, "{}: adapters is empty", where);
  dir.heads = read_widths(dir.raw, "heads", where);
  if (dir.raw.contains("quantizers")) dir.quantizers = read_widths(dir.raw, "quantizers", where);
  if (dir.raw.contains("adapter_form")) {
    const std::string form = json_string(dir.raw, "adapter_form", where);
    QALOF_CHECK(form == "merged", ErrorKind::kUnsupported,
                "{}: adapter_form {:.40}, this program knows merged; a newer qalof wrote it", where,
                form);
    dir.merged = true;
  }
  if (dir.raw.contains("separator") && !dir.raw["separator"].is_null()) {
    dir.separator = static_cast<std::int32_t>(json_int(dir.raw, "separator", where, 0, INT32_MAX));
  }
  if (dir.raw.contains("label_names"))
    dir.label_names = read_label_names(dir.raw["label_names"], where + ": label_names");
  return dir;
}

void write_adapter_dir(const std::string& path, const AdapterDir& dir) {
  Json adapters = Json::object(), heads = Json::object(), quantizers = Json::object();
  for (const auto& [width, name] : dir.adapters) adapters[std::to_string(width)] = name;
  for (const auto& [width, name] : dir.heads) heads[std::to_string(width)] = name;
  for (const auto& [width, name] : dir.quantizers) quantizers[std::to_string(width)] = name;
  Json json = {{"format_version", kAdapterFormatVersion},
               {"base", {{"id", dir.base_id}, {"sha256", dir.base_sha256}}},
               {"scheme", dir.scheme},
               {"plan", dir.plan},
               {"adapters", adapters},
               {"heads", heads},
               {"separator", dir.separator ? Json(*dir.separator) : Json()}};
  // Written only where set, so that a program that does not know these keys can read the rest.
  if (!dir.quantizers.empty()) json["quantizers"] = quantizers;
  if (dir.merged) json["adapter_form"] = "merged";
  if (!dir.label_names.empty()) json["label_names"] = dir.label_names;
  const std::string where = path + "/qalof.json";
  write_file_atomic(where, dump_json(json, where, 2) + "\n");
}

}  // namespace qalof::io
