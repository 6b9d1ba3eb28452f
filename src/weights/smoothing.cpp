// SmoothQuant's factors per norm, applied to norms, weights and the adapters that read them.
#include "weights/smoothing.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace qalof::weights {

namespace {

constexpr float kSmallestRange = 1e-5F;

// A copy of an adapter whose A reads smoothed rows: A diag(s).
std::shared_ptr<const Adapter> smooth_adapter(
    const Adapter& adapter, const std::vector<model::LinearSpec>& specs,
    const std::map<std::size_t, std::vector<float>>& factors) {
  auto smoothed = std::make_shared<Adapter>();
  smoothed->qa_head = adapter.qa_head;
  smoothed->class_head = adapter.class_head;
  smoothed->rank = adapter.rank;
  smoothed->alpha = adapter.alpha;
  for (std::size_t i = 0; i < adapter.linears.size(); ++i) {
    std::unique_ptr<LoraLinear>& copy = smoothed->linears.emplace_back();
    const LoraLinear* lora = adapter.linears[i].get();
    if (lora == nullptr) continue;
    std::vector<float> a = lora->a();
    if (const auto found = factors.find(i); found != factors.end()) {
      for (std::size_t at = 0; at < a.size(); ++at) a[at] *= found->second[at % specs[i].in];
    }
    copy = std::make_unique<LoraLinear>(lora->rank(), lora->view().scaling, std::move(a), lora->b(),
                                        specs[i].in, specs[i].out);
  }
  return smoothed;
}

}  // namespace

std::vector<NormReaders> norm_readers(const model::ModelConfig& config) {
  using model::LinearRole;
  const model::TensorNames names = model::tensor_names(config);
  std::vector<NormReaders> readers(2 * config.num_layers);
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    readers[2 * layer].norm = names.attention_norms[layer];
    readers[2 * layer + 1].norm = names.mlp_norms[layer];
  }
  const std::vector<model::LinearSpec> specs = model::linears(config);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const LinearRole role = specs[i].role;
    if (role == LinearRole::kAttentionOut || role == LinearRole::kDown) continue;
    readers[2 * specs[i].layer + (model::reads_mlp_norm(role) ? 1 : 0)].linears.push_back(i);
  }
  return readers;
}

Smoothed smooth(const std::shared_ptr<const BaseModel>& base,
                const std::shared_ptr<const AdapterSet>& adapters, const InputRanges& ranges,
                float alpha) {
  QALOF_CHECK(alpha >= 0 && alpha <= 1, ErrorKind::kUsage,
              "--smooth_alpha: found {}, expected 0..1", alpha);
  QALOF_CHECK(ranges.size() == base->linears().size(), ErrorKind::kInternal,
              "smooth: ranges of {} linears, the model has {}", ranges.size(),
              base->linears().size());
  DerivedWeights derived;
  std::map<std::size_t, std::vector<float>> factors;  // by linear
  for (const NormReaders& readers : norm_readers(base->config())) {
    const std::size_t in = base->linears()[readers.linears.front()].in;
    std::vector<float> weight_ranges(in, 0.0F), s(in);
    for (const std::size_t linear : readers.linears) {
      const std::vector<float>& weights =
          derived.linears.emplace(linear, base->source().linear_f32(linear)).first->second;
      for (std::size_t i = 0; i < weights.size(); ++i)
        weight_ranges[i % in] = std::max(weight_ranges[i % in], std::fabs(weights[i]));
    }
    const std::vector<float>& inputs = ranges[readers.linears.front()];
    QALOF_CHECK(inputs.size() == in, ErrorKind::kInternal, "smooth: {} has no ranges",
                readers.norm);
    for (std::size_t j = 0; j < in; ++j) {
      s[j] = std::pow(std::max(inputs[j], kSmallestRange), alpha) /
             std::pow(std::max(weight_ranges[j], kSmallestRange), 1.0F - alpha);
    }
    for (const std::size_t linear : readers.linears) {
      std::vector<float>& weights = derived.linears[linear];
      for (std::size_t i = 0; i < weights.size(); ++i) weights[i] *= s[i % in];
      factors[linear] = s;
    }
    static constexpr std::string_view kWeight = ".weight";
    for (const std::string_view part : {kWeight, std::string_view(".bias")}) {
      std::optional<std::vector<float>> values =
          base->source().tensor_f32(readers.norm + std::string(part));
      if (!values) continue;  // a norm without bias
      // A stored weight is the gain less the config's offset.
      const float offset = part == kWeight ? base->config().norm_offset : 0.0F;
      for (std::size_t j = 0; j < in; ++j)
        (*values)[j] = offset != 0 ? ((*values)[j] + offset) / s[j] - offset : (*values)[j] / s[j];
      derived.vectors[readers.norm + std::string(part)] = std::move(*values);
    }
  }
  Smoothed smoothed;
  smoothed.base = derive_model(base, std::move(derived));
  if (adapters != nullptr) {
    auto set = std::make_shared<AdapterSet>(*adapters);
    for (auto& [width, adapter] : set->by_width)
      adapter = smooth_adapter(*adapter, base->linears(), factors);
    smoothed.adapters = std::move(set);
  }
  return smoothed;
}

}  // namespace qalof::weights
