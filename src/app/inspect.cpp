#include "app/inspect.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "io/adapter_dir.h"
#include "io/model_dir.h"
#include "io/peft.h"
#include "io/safetensors.h"

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

// In a packed file a tensor named LINEAR.wB.panels holds codes of B bits in a container of 4 or 8.
void mark_code_tensors(InspectResult& result) {
  for (InspectedTensor& tensor : result.tensors) {
    constexpr std::string_view kSuffix = ".panels";
    if (!tensor.name.ends_with(kSuffix)) continue;
    const std::size_t digit = tensor.name.size() - kSuffix.size() - 1;
    tensor.bits = tensor.name[digit] - '0';
    tensor.stored_bits = tensor.bits <= 4 ? 4 : 8;
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
  const auto packed = file.metadata().find("qalof.packed");
  if (packed == file.metadata().end()) {
    result.kind = "safetensors file";
    result.details["metadata"] = file.metadata();
    return result;
  }
  result.kind = "packed file";
  mark_code_tensors(result);
  result.details = parse_json(packed->second, path + ": qalof.packed");
  result.details.erase("crc32c");
  return result;
}

}  // namespace qalof::app
