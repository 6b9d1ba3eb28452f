// Names, exports and imports the tensors of finished adapters: "w8.3.a", "w8.head.weight".
#include <set>

#include "core/error.h"
#include "train/torch/adapter_tensors.h"

namespace qalof::train {

namespace {

std::string pair_name(int width, std::size_t linear, const char* half) {
  return fmt::format("w{}.{}.{}", width, linear, half);
}
std::string head_name(int width, const char* part) {
  return fmt::format("w{}.head.{}", width, part);
}

NamedTensor named(const at::Tensor& tensor) {
  NamedTensor result;
  for (const std::int64_t extent : tensor.sizes()) {
    result.shape.push_back(static_cast<std::size_t>(extent));
  }
  result.values = to_vector(tensor);
  return result;
}

// The widths in the prefixes of the names.
std::set<int> widths_of(const std::map<std::string, NamedTensor>& tensors) {
  std::set<int> widths;
  for (const auto& [name, tensor] : tensors) {
    for (int width = 2; width <= 32; ++width) {
      if (name.starts_with(fmt::format("w{}.", width))) widths.insert(width);
    }
  }
  return widths;
}

}  // namespace

std::map<std::string, NamedTensor> export_adapters(const std::map<int, AdapterParams>& adapters) {
  std::map<std::string, NamedTensor> tensors;
  for (const auto& [width, adapter] : adapters) {
    for (std::size_t i = 0; i < adapter.linears.size(); ++i) {
      if (!adapter.linears[i].a.defined()) continue;
      tensors[pair_name(width, i, "a")] = named(adapter.linears[i].a);
      tensors[pair_name(width, i, "b")] = named(adapter.linears[i].b);
    }
    for (std::size_t i = 0; i < adapter.quantizers.size(); ++i) {
      const QuantizerParams& quantizer = adapter.quantizers[i];
      if (quantizer.steps.defined()) tensors[pair_name(width, i, "steps")] = named(quantizer.steps);
      if (quantizer.clip.defined()) tensors[pair_name(width, i, "clip")] = named(quantizer.clip);
    }
    if (!adapter.head.weight.defined()) continue;
    tensors[head_name(width, "weight")] = named(adapter.head.weight);
    if (adapter.head.bias.defined()) tensors[head_name(width, "bias")] = named(adapter.head.bias);
  }
  return tensors;
}

std::map<int, AdapterParams> import_adapters(const std::map<std::string, NamedTensor>& tensors,
                                             const weights::BaseModel& base,
                                             const TrainOptions& options, at::Device device,
                                             ParallelFor& parallel) {
  auto find = [&](const std::string& name, std::size_t axis, std::size_t extent) {
    const auto found = tensors.find(name);
    QALOF_CHECK(found != tensors.end() && found->second.shape.size() > axis &&
                    found->second.shape[axis] == extent,
                ErrorKind::kBadInput,
                "checkpoint: tensor {} is missing or not of this base's shape", name);
    const std::vector<std::size_t>& shape = found->second.shape;
    return to_tensor(found->second.values, {shape.begin(), shape.end()}).to(device);
  };
  std::map<int, AdapterParams> adapters;
  for (const int width : widths_of(tensors)) {
    AdapterParams& adapter = adapters[width];
    for (std::size_t i = 0; i < base.linears().size(); ++i) {
      const model::LinearSpec& spec = base.linears()[i];
      adapter.linears.push_back({find(pair_name(width, i, "a"), 1, spec.in),
                                 find(pair_name(width, i, "b"), 0, spec.out)});
    }
    const bool steps = learns_steps(options, width), clips = learns_clips(options, width);
    for (std::size_t i = 0; (steps || clips) && i < base.linears().size(); ++i) {
      QuantizerParams& quantizer = adapter.quantizers.emplace_back();
      quantizer.start = quantizer_start(base, i, width, options, parallel);
      if (steps) {
        quantizer.steps =
            find(pair_name(width, i, "steps"), 0, quantizer.start->values.steps.size());
      }
      if (clips) quantizer.clip = find(pair_name(width, i, "clip"), 0, 1);
    }
    if (!tensors.contains(head_name(width, "weight"))) continue;
    adapter.head.weight = find(head_name(width, "weight"), 1, base.config().hidden);
    if (tensors.contains(head_name(width, "bias"))) {
      adapter.head.bias =
          find(head_name(width, "bias"), 0, static_cast<std::size_t>(adapter.head.weight.size(0)));
    }
  }
  return adapters;
}

}  // namespace qalof::train
