// A weight source that answers with replaced vectors, linears or codes and forwards the rest.
#include "weights/derived_model.h"

#include "core/error.h"

namespace qalof::weights {

namespace {

class DerivedSource final : public ForwardingSource {
 public:
  DerivedSource(const BaseModel& base, DerivedWeights weights)
      : ForwardingSource(base.shared_source()), weights_(std::move(weights)) {
    for (const auto& [name, values] : weights_.vectors) {
      const auto replaced = base.source().tensor_f32(name);
      QALOF_CHECK(replaced && replaced->size() == values.size(), ErrorKind::kInternal,
                  "derived model: {} of {} values replaces nothing of that size", name,
                  values.size());
    }
    for (const auto& [index, values] : weights_.linears) check_size(base, index, values.size());
    for (const auto& [key, codes] : weights_.codes) check_size(base, key.first, codes.codes.size());
  }

  std::vector<float> linear_f32(std::size_t linear) const override {
    const auto found = weights_.linears.find(linear);
    return found == weights_.linears.end() ? ForwardingSource::linear_f32(linear) : found->second;
  }
  std::unique_ptr<OwnedMatrix> linear_packed(std::size_t linear, quant::Precision precision,
                                             quant::QuantScheme scheme,
                                             ParallelFor& parallel) const override {
    const auto codes = weights_.codes.find({linear, precision.weight.bits});
    if (codes != weights_.codes.end() && scheme.weights() == weights_.scheme.weights())
      return pack_codes(codes->second, precision, parallel);
    if (weights_.linears.contains(linear)) return nullptr;
    return ForwardingSource::linear_packed(linear, precision, scheme, parallel);
  }
  std::optional<std::vector<float>> tensor_f32(const std::string& name) const override {
    const auto found = weights_.vectors.find(name);
    return found == weights_.vectors.end() ? ForwardingSource::tensor_f32(name) : found->second;
  }

 private:
  static void check_size(const BaseModel& base, std::size_t linear, std::size_t size) {
    const model::LinearSpec& spec = base.linears().at(linear);
    QALOF_CHECK(size == spec.in * spec.out, ErrorKind::kInternal,
                "derived model: {} values for {} of [{}, {}]", size, spec.name, spec.out, spec.in);
  }

  DerivedWeights weights_;
};

}  // namespace

std::vector<float> ForwardingSource::linear_f32(std::size_t linear) const {
  return source_->linear_f32(linear);
}
std::unique_ptr<OwnedMatrix> ForwardingSource::linear_packed(std::size_t linear,
                                                             quant::Precision precision,
                                                             quant::QuantScheme scheme,
                                                             ParallelFor& parallel) const {
  return source_->linear_packed(linear, precision, scheme, parallel);
}
std::unique_ptr<OwnedMatrix> ForwardingSource::lm_head_packed(quant::BitWidth width,
                                                              ParallelFor& parallel) const {
  return source_->lm_head_packed(width, parallel);
}
int ForwardingSource::embedding_bits() const { return source_->embedding_bits(); }
std::optional<std::vector<float>> ForwardingSource::tensor_f32(const std::string& name) const {
  return source_->tensor_f32(name);
}
void ForwardingSource::copy_rows(const std::string& name, std::size_t first,
                                 std::span<float> dst) const {
  source_->copy_rows(name, first, dst);
}
void ForwardingSource::check(const std::string& name) const { source_->check(name); }
std::vector<int> ForwardingSource::widths() const { return source_->widths(); }
std::string ForwardingSource::sha256() const { return source_->sha256(); }
std::uint64_t ForwardingSource::stored_bytes() const { return source_->stored_bytes(); }

std::shared_ptr<const BaseModel> derive_model(const std::shared_ptr<const BaseModel>& base,
                                              DerivedWeights weights) {
  auto source = std::make_shared<DerivedSource>(*base, std::move(weights));
  auto derived = std::make_shared<BaseModel>(base->config(), base->path(), std::move(source),
                                             base->rotation());
  derived->set_heads(base->qa_head(), base->class_head());
  return derived;
}

}  // namespace qalof::weights
