#include "app/inspect.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "io/adapter_dir.h"
#include "io/model_dir.h"
#include "io/peft.h"
#include "io/safetensors.h"
#include "model/config.h"
#include "runtime/packed_layout.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

InspectedTensor describe(const std::string& name, const io::TensorView& view) {
  const int bits = io::dtype_bits(view.dtype);
  return {name, std::string(io::to_string(view.dtype)), view.shape, view.bytes.size(), bits, bits};
}

void add_tensors(const std::map<std::string, io::TensorView>& tensors, const std::string& prefix,
                 InspectResult& result) {
  for (const auto& [name, view] : tensors) {
    result.tensors.push_back(describe(prefix + name, view));
    result.bytes += view.bytes.size();
  }
}

// In a packed file, tensors of weights have nominal bits, and those of a width belong together.
void add_widths(InspectResult& result, const std::string& path) {
  struct Sum {
    std::uint64_t bytes = 0;
    std::set<std::string_view> matrices;
  };
  const model::ModelConfig config =
      model::parse_model_config(result.details.at("config"), path + ": config");
  std::map<std::string, std::size_t, std::less<>> weights = {
      {runtime::kLmHead, config.vocab_size * config.hidden}};
  for (const model::LinearSpec& spec : model::linears(config))
    weights[spec.name] = spec.in * spec.out;
  std::map<std::pair<bool, int>, Sum> sums;  // LM head or linears, bits
  for (InspectedTensor& tensor : result.tensors) {
    const auto parts = runtime::parse_width_tensor(tensor.name);
    if (!parts || !weights.contains(parts->matrix)) continue;
    Sum& sum = sums[{parts->matrix == runtime::kLmHead, parts->bits}];
    sum.bytes += tensor.bytes;
    sum.matrices.insert(parts->matrix);
    if (parts->part != "panels" && parts->part != "codes") continue;
    tensor.bits = parts->bits;
    tensor.stored_bits = runtime::container_bits(parts->bits);
  }
  for (const auto& [key, sum] : sums) {
    std::size_t count = 0;
    for (const std::string_view matrix : sum.matrices) count += weights.find(matrix)->second;
    (key.first ? result.lm_head : result.widths)
        .push_back({key.second, runtime::container_bits(key.second), sum.bytes,
                    8.0 * static_cast<double>(sum.bytes) / static_cast<double>(count)});
  }
}

void inspect_peft(const std::string& path, const std::string& prefix, InspectResult& result) {
  const io::PeftAdapter adapter = io::read_peft(path);
  add_tensors(adapter.tensors(), prefix, result);
  result.details[prefix.empty() ? "adapter_config" : prefix + "adapter_config"] =
      adapter.config().raw;
}

}  // namespace

InspectResult run_inspect(const std::string& path) {
  QALOF_CHECK(path_exists(path), ErrorKind::kNotFound, "{}: no such file or directory", path);
  InspectResult result;
  result.details = Json::object();
  if (is_directory(path)) {
    if (io::is_adapter_dir(path)) {
      result.kind = "adapter directory";
      const io::AdapterDir dir = io::read_adapter_dir(path);
      result.details["qalof"] = dir.raw;
      for (const auto& [width, sub] : dir.adapters)
        inspect_peft((fs::path(path) / sub).string(), sub + "/", result);
    } else if (path_exists(path + "/adapter_config.json")) {
      result.kind = "peft adapter";
      inspect_peft(path, "", result);
    } else {
      result.kind = "model directory";
      const io::ModelDir dir = io::ModelDir::open(path);
      for (const std::string& name : dir.names()) {
        result.tensors.push_back(describe(name, *dir.find(name)));
        result.bytes += dir.find(name)->bytes.size();
      }
      result.details["config"] = dir.config();
    }
    return result;
  }
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  add_tensors(file.tensors(), "", result);
  const auto packed = file.metadata().find(runtime::kPackedMetadataKey);
  if (packed == file.metadata().end()) {
    result.kind = "safetensors file";
    result.details["metadata"] = file.metadata();
    return result;
  }
  result.kind = "packed file";
  result.details = parse_json(packed->second, path + ": " + runtime::kPackedMetadataKey);
  QALOF_CHECK(result.details.is_object() && result.details.contains("config"),
              ErrorKind::kCorruptFile, "{}: config is missing", path);
  result.scheme = json_string(result.details, "scheme", path);
  add_widths(result, path);
  result.details.erase("crc32c");
  return result;
}

}  // namespace qalof::app
