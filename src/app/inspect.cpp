// Recognizes the kind of a path and lists its tensors, widths, bits and stored details.
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
#include "weights/learned_quantizer.h"
#include "weights/packed_layout.h"

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

// Sets the nominal bits of a packed file's weight tensors, and sums bytes and bits per width.
void add_widths(InspectResult& result, const std::string& path) {
  struct Sum {
    std::uint64_t bytes = 0;
    int stored_bits = 0;
    std::set<std::string_view> matrices;
  };
  const model::ModelConfig config =
      model::parse_model_config(result.details.at("config"), path + ": config");
  std::map<std::string, std::size_t, std::less<>> weights = {
      {weights::kLmHead, config.vocab_size * config.hidden}};
  for (const model::LinearSpec& spec : model::linears(config))
    weights[spec.name] = spec.in * spec.out;
  const Json& found = result.details["format_version"];
  const int version = found.is_number_integer() ? found.get<int>() : weights::kPackedVersion;
  std::map<std::pair<bool, int>, Sum> sums;  // LM head or linears, bits
  for (InspectedTensor& tensor : result.tensors) {
    const auto parts = weights::parse_width_tensor(tensor.name);
    if (!parts || !weights.contains(parts->matrix)) continue;
    Sum& sum = sums[{parts->matrix == weights::kLmHead, parts->bits}];
    sum.bytes += tensor.bytes;
    sum.matrices.insert(parts->matrix);
    const bool is_low = parts->part == weights::kLowPanels;
    if (!is_low && parts->part != "panels" && parts->part != "codes") continue;
    sum.stored_bits = is_low ? 4 : weights::container_bits(parts->bits, version);
    tensor.bits = parts->bits;
    tensor.stored_bits = sum.stored_bits;
  }
  for (const auto& [key, sum] : sums) {
    std::size_t count = 0;
    for (const std::string_view matrix : sum.matrices) count += weights.find(matrix)->second;
    (key.first ? result.lm_head : result.widths)
        .push_back({key.second, sum.stored_bits, sum.bytes,
                    8.0 * static_cast<double>(sum.bytes) / static_cast<double>(count)});
  }
}

void inspect_peft(const std::string& path, const std::string& prefix, InspectResult& result) {
  const io::PeftAdapter adapter = io::read_peft(path);
  add_tensors(adapter.tensors(), prefix, result);
  result.details[prefix + "adapter_config"] = adapter.config().raw;
}

// Adds the learned quantizer values stored with an adapter.
void inspect_quantizers(const std::string& path, const std::string& prefix, InspectResult& result) {
  const io::SafetensorsFile file =
      io::SafetensorsFile::open((fs::path(path) / weights::kLearnedFile).string());
  add_tensors(file.tensors(), prefix, result);
  for (const auto& [key, text] : file.metadata()) {
    if (key == weights::kLearnedMetadataKey)
      result.details[prefix + "quantizers"] = parse_json(text, file.path() + ": " + key);
  }
}

// Order by name with numbers compared by value: layer 2 comes before layer 10.
bool comes_before(const InspectedTensor& a, const InspectedTensor& b) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const std::string_view x = a.name, y = b.name;
  std::size_t i = 0, j = 0;
  while (i < x.size() && j < y.size()) {
    if (!is_digit(x[i]) || !is_digit(y[j])) {
      if (x[i] != y[j]) return x[i] < y[j];
      ++i, ++j;
      continue;
    }
    const auto number = [&](std::string_view text, std::size_t& at) {
      const std::size_t begin = std::min(text.find_first_not_of('0', at), text.size());
      const std::size_t end = std::min(text.find_first_not_of("0123456789", begin), text.size());
      at = end;
      return text.substr(begin, end - begin);
    };
    const std::string_view m = number(x, i), n = number(y, j);
    if (m != n) return m.size() != n.size() ? m.size() < n.size() : m < n;
  }
  return x.size() - i < y.size() - j;
}

void inspect_directory(const std::string& path, InspectResult& result) {
  if (io::is_adapter_dir(path)) {
    result.kind = "adapter directory";
    const io::AdapterDir dir = io::read_adapter_dir(path);
    result.details["qalof"] = dir.raw;
    for (const auto& [width, sub] : dir.adapters)
      inspect_peft((fs::path(path) / sub).string(), sub + "/", result);
    for (const auto& [width, sub] : dir.quantizers)
      inspect_quantizers((fs::path(path) / sub).string(), sub + "/", result);
    return;
  }
  if (path_exists(path + "/adapter_config.json")) {
    result.kind = "peft adapter";
    inspect_peft(path, "", result);
    if (path_exists((fs::path(path) / weights::kLearnedFile).string()))
      inspect_quantizers(path, "", result);
    return;
  }
  QALOF_CHECK(path_exists(path + "/config.json"), ErrorKind::kBadInput,
              "{}: holds none of config.json (a model), qalof.json (adapters) and "
              "adapter_config.json (an adapter)",
              path);
  result.kind = "model directory";
  const io::ModelDir dir = io::ModelDir::open(path);
  for (const std::string& name : dir.names()) {
    result.tensors.push_back(describe(name, *dir.find(name)));
    result.bytes += dir.find(name)->bytes.size();
  }
  result.details["config"] = dir.config();
}

void inspect_file(const std::string& path, InspectResult& result) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  add_tensors(file.tensors(), "", result);
  const auto packed = file.metadata().find(weights::kPackedMetadataKey);
  if (packed == file.metadata().end()) {
    result.kind = "safetensors file";
    result.details["metadata"] = file.metadata();
    return;
  }
  result.kind = "packed file";
  result.details = parse_json(packed->second, path + ": " + weights::kPackedMetadataKey);
  QALOF_CHECK(result.details.is_object() && result.details.contains("config"),
              ErrorKind::kCorruptFile, "{}: config is missing", path);
  result.scheme = json_string(result.details, "scheme", path);
  add_widths(result, path);
  result.details.erase("crc32c");
}

}  // namespace

InspectResult run_inspect(const std::string& path) {
  QALOF_CHECK(path_exists(path), ErrorKind::kNotFound, "{}: no such file or directory", path);
  InspectResult result;
  result.details = Json::object();
  if (is_directory(path)) {
    inspect_directory(path, result);
  } else {
    inspect_file(path, result);
  }
  std::sort(result.tensors.begin(), result.tensors.end(), comes_before);
  return result;
}

}  // namespace qalof::app
