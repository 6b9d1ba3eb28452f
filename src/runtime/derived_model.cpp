#include "runtime/derived_model.h"

#include "core/error.h"

namespace qalof::runtime {

namespace {

class DerivedSource final : public WeightSource {
 public:
  DerivedSource(std::shared_ptr<const BaseModel> base, DerivedWeights weights)
      : base_(std::move(base)), weights_(std::move(weights)) {
    for (const auto& [name, values] : weights_.vectors) {
      const auto replaced = base_->source().tensor_f32(name);
      QALOF_CHECK(replaced && replaced->size() == values.size(), ErrorKind::kInternal,
                  "derived model: {} of {} values replaces nothing of that size", name,
                  values.size());
    }
    for (const auto& [index, values] : weights_.linears) check_size(index, values.size());
    for (const auto& [key, codes] : weights_.codes) check_size(key.first, codes.codes.size());
  }

  std::vector<float> linear_f32(std::size_t linear) const override {
    const auto found = weights_.linears.find(linear);
    return found == weights_.linears.end() ? base_->source().linear_f32(linear) : found->second;
  }
  std::unique_ptr<OwnedMatrix> linear_packed(std::size_t linear, quant::Precision precision,
                                             quant::QuantScheme scheme,
                                             ParallelFor& parallel) const override {
    const auto codes = weights_.codes.find({linear, precision.weight.bits});
    if (codes != weights_.codes.end() && scheme.weights() == weights_.scheme.weights())
      return pack_codes(codes->second, precision, parallel);
    if (weights_.linears.contains(linear)) return nullptr;
    return base_->source().linear_packed(linear, precision, scheme, parallel);
  }
  std::unique_ptr<OwnedMatrix> lm_head_packed(quant::BitWidth width,
                                              ParallelFor& parallel) const override {
    return base_->source().lm_head_packed(width, parallel);
  }
  int embedding_bits() const override { return base_->source().embedding_bits(); }
  std::optional<std::vector<float>> tensor_f32(const std::string& name) const override {
    const auto found = weights_.vectors.find(name);
    if (found != weights_.vectors.end()) return found->second;
    return base_->source().tensor_f32(name);
  }
  void copy_row(const std::string& name, std::size_t row, std::span<float> dst) const override {
    base_->source().copy_row(name, row, dst);
  }
  std::vector<int> widths() const override { return base_->source().widths(); }
  std::string sha256() const override { return base_->source().sha256(); }
  std::uint64_t stored_bytes() const override { return base_->source().stored_bytes(); }

 private:
  void check_size(std::size_t linear, std::size_t size) const {
    const model::LinearSpec& spec = base_->linears().at(linear);
    QALOF_CHECK(size == spec.in * spec.out, ErrorKind::kInternal,
                "derived model: {} values for {} of [{}, {}]", size, spec.name, spec.out, spec.in);
  }

  std::shared_ptr<const BaseModel> base_;
  DerivedWeights weights_;
};

}  // namespace

std::shared_ptr<const BaseModel> derive_model(std::shared_ptr<const BaseModel> base,
                                              DerivedWeights weights) {
  auto source = std::make_unique<DerivedSource>(base, std::move(weights));
  auto derived = std::make_shared<BaseModel>(base->config(), base->path(), std::move(source));
  derived->set_heads(base->qa_head(), base->class_head());
  return derived;
}

}  // namespace qalof::runtime
