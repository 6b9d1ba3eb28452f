// A base rotated by Hadamard transforms: the same function up to rounding, with outliers of
// activations and weights spread out, so that they quantize better (docs/numerics.md, "Rotation";
// QuaRot, Ashkboos et al. 2024).
//
// Adapters, heads and embeddings stay in the unrotated basis; adapters are mapped where they are
// used, forward and, for training, backward. Immutable: threads may share a Rotation.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/hadamard.h"
#include "model/config.h"
#include "quant/scheme.h"
#include "weights/base_model.h"

namespace qalof::weights {

/// An adapter's pair of one linear in the rotated basis.
struct RotatedPair {
  std::vector<float> a, b;  // [r, in], [out, r]
  std::vector<float> bias;  // [out], linear's plus adapter's; empty where neither has one
};

/// Rotation of one model: transforms, folded biases, and the maps between both bases.
class Rotation {
 public:
  /// plain: the unrotated numbers; parts: at least one. Error{kUnsupported} names a size that is no
  /// multiple of 8 and, where the residual stream is rotated, a model with norms of what attention
  /// and MLP add.
  Rotation(const model::ModelConfig& config, std::shared_ptr<const WeightSource> plain,
           quant::Rotations parts);
  Rotation(const Rotation&) = delete;
  Rotation& operator=(const Rotation&) = delete;

  /// Maps embeddings [count, hidden] into the rotated basis of the residual stream, in place.
  void enter_residual(float* rows, std::size_t count) const;
  /// Maps rows [count, hidden] of the residual stream back into the unrotated basis, in place;
  /// centered (mean 0) in models whose final norm centers them anyway.
  void leave_residual(float* rows, std::size_t count, ParallelFor& parallel) const;
  const quant::Rotations& parts() const { return parts_; }
  /// Rotates the residual stream; null where that stays. Otherwise gains and offsets of the norms
  /// inside layers are folded into weights and biases.
  const kernels::Hadamard* residual() const { return pointer_to(residual_); }
  /// Rotates the input of mlp_out; null where that stays.
  const kernels::Hadamard* inner() const { return pointer_to(inner_); }
  /// Rotates heads of q and k after rotary positions; null where heads stay, and in models without
  /// such positions, where the weights of q and k are rotated instead.
  const kernels::Hadamard* after_positions() const {
    return turns_positions_ ? pointer_to(head_) : nullptr;
  }

  /// Rotated weights [out, in] of a linear.
  std::vector<float> weights(std::size_t linear) const;
  /// The values of folded_tensors, in their order.
  std::vector<const std::vector<float>*> folded_values() const;
  /// Rotated bias [out], including what folding the norms and constant values adds; empty where
  /// there is none.
  const std::vector<float>& bias(std::size_t linear) const { return linears_[linear].bias; }

  /// Rotates a pair; a [r, in] and b [out, r] are in the unrotated basis.
  RotatedPair rotate_pair(std::size_t linear, const float* a, const float* b, std::size_t rank,
                          float scaling) const;
  /// Gradients of rotate_pair. rotated_b is the rotated pair's b; da and db hold the gradients of
  /// the rotated pair and are overwritten with those of the unrotated one. dbias [out] is read only
  /// where the linear has an offset.
  void rotate_pair_backward(std::size_t linear, const float* a, const float* rotated_b,
                            std::size_t rank, float scaling, const float* dbias, float* da,
                            float* db) const;

 private:
  using OptionalHadamard = std::optional<kernels::Hadamard>;
  static const kernels::Hadamard* pointer_to(const OptionalHadamard& hadamard) {
    return hadamard ? &*hadamard : nullptr;
  }
  struct Span {
    std::size_t first = 0, blocks = 1;
    const kernels::Hadamard* hadamard = nullptr;  // null: these stay
  };
  struct Linear {
    std::size_t in = 0, out = 0;
    bool reads_values = false;  // the linear that reads attention's result
    std::vector<float> gain;    // [in] of the norm before it, or empty where it is not folded
    Span input;
    bool centered = false;                       // outputs are centered (mean 0)
    std::vector<Span> outputs;                   // rotated outputs; empty: none
    std::size_t dropped_first = 0, dropped = 0;  // outputs whose constants change no attention
    std::vector<float> offset;  // [in] or empty: constant part of the input, removed by folding
    std::vector<float> bias;
  };

  void set_sides(const model::ModelConfig& config, const model::LinearSpec& spec, Linear& linear);
  void set_biases(const model::ModelConfig& config, const std::vector<model::LinearSpec>& specs);
  static void turn_inputs(const Linear& linear, float* rows, std::size_t count);
  static void turn_outputs(const Linear& linear, float* rows, std::size_t count);
  static void turn_outputs_back(const Linear& linear, float* rows, std::size_t count);

  std::shared_ptr<const WeightSource> plain_;
  std::size_t hidden_;
  quant::Rotations parts_;
  bool is_centered_;
  bool turns_positions_;
  OptionalHadamard residual_, head_, inner_;
  std::vector<Linear> linears_;
};

/// Rotates a base, which must not be rotated. Keeps base's source alive, not base.
std::shared_ptr<const BaseModel> rotate_model(const BaseModel& base, quant::Rotations parts);

/// The model that runs a scheme: base, or base rotated where the scheme is.
std::shared_ptr<const BaseModel> model_for(const std::shared_ptr<const BaseModel>& base,
                                           const quant::QuantScheme& scheme);

/// Extra tensors of a packed file with rotated weights, which cannot be recomputed from codes:
/// rotated biases, and input offsets of the linears that read attention's result. None where no
/// norm with an offset is folded.
std::vector<model::TensorSpec> folded_tensors(const model::ModelConfig& config,
                                              quant::Rotations parts);

}  // namespace qalof::weights
