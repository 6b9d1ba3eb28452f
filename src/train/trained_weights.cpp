// Serves a fully trained model's tensors from memory as a base, with its heads.
#include "train/trained_weights.h"

#include <algorithm>

#include "core/error.h"
#include "weights/transpose.h"

namespace qalof::train {

namespace {

class MemorySource final : public weights::WeightSource {
 public:
  MemorySource(std::map<std::string, NamedTensor> tensors, std::vector<model::LinearSpec> linears)
      : tensors_(std::move(tensors)), linears_(std::move(linears)) {}

  std::vector<float> linear_f32(std::size_t linear) const override {
    const model::LinearSpec& spec = linears_[linear];
    const std::vector<float>& stored = tensors_.at(spec.name + ".weight").values;
    return spec.conv1d ? weights::transposed(stored, spec.in, spec.out) : stored;
  }
  std::unique_ptr<weights::OwnedMatrix> linear_packed(std::size_t, quant::Precision,
                                                      quant::QuantScheme,
                                                      ParallelFor&) const override {
    return nullptr;
  }
  std::unique_ptr<weights::OwnedMatrix> lm_head_packed(quant::BitWidth,
                                                       ParallelFor&) const override {
    return nullptr;
  }
  int embedding_bits() const override { return 32; }
  std::optional<std::vector<float>> tensor_f32(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return std::nullopt;
    return found->second.values;
  }
  void copy_rows(const std::string& name, std::size_t first, std::span<float> dst) const override {
    const NamedTensor& tensor = tensors_.at(name);
    const auto begin =
        tensor.values.begin() +
        static_cast<std::ptrdiff_t>(first * (tensor.values.size() / tensor.shape[0]));
    std::copy(begin, begin + static_cast<std::ptrdiff_t>(dst.size()), dst.begin());
  }
  std::vector<int> widths() const override { return {}; }
  std::string sha256() const override { return ""; }
  std::uint64_t stored_bytes() const override {
    std::uint64_t bytes = 0;
    for (const auto& [name, tensor] : tensors_) bytes += tensor.values.size() * sizeof(float);
    return bytes;
  }

 private:
  std::map<std::string, NamedTensor> tensors_;
  std::vector<model::LinearSpec> linears_;
};

}  // namespace

std::shared_ptr<const weights::BaseModel> make_base(
    const weights::BaseModel& like, const std::map<std::string, NamedTensor>& tensors) {
  for (const model::TensorSpec& spec : model::expected_tensors(like.config())) {
    const auto found = tensors.find(spec.name);
    QALOF_CHECK(found != tensors.end() && found->second.shape == spec.shape, ErrorKind::kInternal,
                "trained weights: tensor {} is missing or has another shape", spec.name);
  }
  std::optional<weights::Head> qa_head, class_head = like.class_head();
  if (const auto weight = tensors.find("qa_outputs.weight"); weight != tensors.end()) {
    qa_head = weights::Head{weight->second.shape[0], weight->second.values,
                            tensors.at("qa_outputs.bias").values};
  }
  if (const auto weight = tensors.find("score.weight"); weight != tensors.end())
    class_head = weights::Head{weight->second.shape[0], weight->second.values, {}};
  model::ModelConfig config = like.config();
  // Training for another task returns no separate LM head.
  if (config.lm_head == model::LmHead::kOwn && !tensors.contains(model::kLmHeadTensor))
    model::set_lm_head(config, model::LmHead::kNone);
  auto source = std::make_unique<MemorySource>(tensors, model::linears(config));
  auto base =
      std::make_shared<weights::BaseModel>(std::move(config), like.path(), std::move(source));
  base->set_heads(std::move(qa_head), std::move(class_head));
  return base;
}

std::shared_ptr<const weights::AdapterSet> make_adapter_set(const TrainedWeights& weights) {
  auto set = std::make_shared<weights::AdapterSet>();
  set->by_width = weights.adapters;
  return set;
}

}  // namespace qalof::train
