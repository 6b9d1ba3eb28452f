// A base with some of its numbers replaced, for post-training methods to evaluate and pack.
//
// The result is an ordinary BaseModel, so that evaluating, calibrating and packing it uses the same
// code as any other model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quant/scheme.h"
#include "weights/base_model.h"
#include "weights/weight_packing.h"

namespace qalof::weights {

/// Forwards every call to another source; subclasses override some.
class ForwardingSource : public WeightSource {
 public:
  explicit ForwardingSource(std::shared_ptr<const WeightSource> source)
      : source_(std::move(source)) {}
  std::vector<float> linear_f32(std::size_t linear) const override;
  std::unique_ptr<OwnedMatrix> linear_packed(std::size_t linear, quant::Precision precision,
                                             quant::QuantScheme scheme,
                                             ParallelFor& parallel) const override;
  std::unique_ptr<OwnedMatrix> lm_head_packed(quant::BitWidth width,
                                              ParallelFor& parallel) const override;
  int embedding_bits() const override;
  std::optional<std::vector<float>> tensor_f32(const std::string& name) const override;
  void copy_rows(const std::string& name, std::size_t first, std::span<float> dst) const override;
  void check(const std::string& name) const override;
  std::vector<int> widths() const override;
  std::string sha256() const override;
  std::uint64_t stored_bytes() const override;

 private:
  std::shared_ptr<const WeightSource> source_;
};

/// Replacements; what is not named stays the base's.
struct DerivedWeights {
  std::map<std::string, std::vector<float>> vectors;  // norms and biases, by name without prefix
  std::map<std::size_t, std::vector<float>> linears;  // [out, in] by index
  /// Finished codes by linear and weight bits, all in `scheme`; preferred over `linears`.
  std::map<std::pair<std::size_t, int>, RowCodes> codes;
  quant::QuantScheme scheme = {};
};

/// Keeps base's numbers alive; a rotated base gives a rotated model. Error{kInternal} where a
/// replacement has another size than what it replaces.
std::shared_ptr<const BaseModel> derive_model(const std::shared_ptr<const BaseModel>& base,
                                              DerivedWeights weights);

}  // namespace qalof::weights
