// `qalof inspect`: tables of tensors, adapters and plans.
#include <algorithm>

#include "app/hub.h"
#include "app/inspect.h"
#include "cli/commands.h"
#include "cli/format.h"

namespace qalof::cli {

namespace {

Json widths_json(const std::vector<app::InspectResult::Width>& widths) {
  Json list = Json::array();
  for (const auto& width : widths) {
    list.push_back({{"bits", width.bits},
                    {"stored_bits", width.stored_bits},
                    {"bytes", width.bytes},
                    {"bits_per_weight", width.bits_per_weight}});
  }
  return list;
}

bool holds_objects(const Json& list) {
  return std::any_of(list.begin(), list.end(), [](const Json& item) {
    return item.is_object() || (item.is_array() && holds_objects(item));
  });
}

// Indented, with lists of plain values in one line.
std::string details_text(const Json& json, std::size_t indent = 0) {
  if (json.empty() || !json.is_structured() || (json.is_array() && !holds_objects(json)))
    return json.dump();
  std::string text;
  for (const auto& [key, value] : json.items()) {
    text += fmt::format("{}\n{:{}}{}{}", text.empty() ? "" : ",", "", indent + 2,
                        json.is_object() ? Json(key).dump() + ": " : "",
                        details_text(value, indent + 2));
  }
  return fmt::format("{}{}\n{:{}}{}", json.is_object() ? "{" : "[", text, "", indent,
                     json.is_object() ? "}" : "]");
}

std::string widths_text(const app::InspectResult& result) {
  std::vector<std::vector<std::string>> rows = {
      {"weights", "bits", "stored", "bits a weight, scales included", "bytes"}};
  for (const auto* widths : {&result.widths, &result.lm_head}) {
    for (const auto& width : *widths) {
      rows.push_back({widths == &result.widths ? "linears" : "LM head", std::to_string(width.bits),
                      std::to_string(width.stored_bits),
                      fmt::format("{:.3f}", width.bits_per_weight), bytes_text(width.bytes)});
    }
  }
  return table_text(rows, {1, 2, 3, 4});
}

}  // namespace

void run_inspect(std::vector<std::string> arguments) {
  std::string path;
  CommandLine line("inspect", "Shows the tensors, adapters and plan of a directory or file.",
                   "  qalof inspect gpt2.qalof\n  qalof inspect out/w4 --json\n",
                   std::move(arguments));
  line.positional(
      "path", path,
      "model directory, packed file, adapter directory or safetensors file, or org/name on the "
      "hub");
  line.parse();
  path = app::local_path(path, io::HubUse::kAny, line.observer());
  const app::InspectResult result = app::run_inspect(path);
  Json tensors = Json::array();
  std::vector<std::vector<std::string>> rows = {
      {"tensor", "dtype", "bits", "stored", "shape", "bytes"}};
  for (const app::InspectedTensor& tensor : result.tensors) {
    tensors.push_back({{"name", tensor.name},
                       {"dtype", tensor.dtype},
                       {"shape", tensor.shape},
                       {"bytes", tensor.bytes},
                       {"bits", tensor.bits},
                       {"stored_bits", tensor.stored_bits}});
    rows.push_back({tensor.name, tensor.dtype, std::to_string(tensor.bits),
                    std::to_string(tensor.stored_bits),
                    fmt::format("[{}]", fmt::join(tensor.shape, ", ")), bytes_text(tensor.bytes)});
  }
  Json json = {{"path", path},
               {"kind", result.kind},
               {"tensors", tensors},
               {"bytes", result.bytes},
               {"details", result.details}};
  std::string widths;
  if (!result.scheme.empty()) {
    json["scheme"] = result.scheme;
    json["widths"] = widths_json(result.widths);
    json["lm_head"] = widths_json(result.lm_head);
    widths = fmt::format("scheme {}\n{}", result.scheme, widths_text(result));
  }
  line.print(json, fmt::format("{}: {}, {} tensors, {}\n{}{}{}\n", path, result.kind,
                               result.tensors.size(), bytes_text(result.bytes),
                               table_text(rows, {2, 3, 5}), widths, details_text(result.details)));
}

}  // namespace qalof::cli
