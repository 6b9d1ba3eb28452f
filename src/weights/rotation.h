// A base turned by Hadamard rotations: the same function up to rounding, with activations and
// weights that have no outliers to quantize (docs/numerics.md, "Rotation"; QuaRot, Ashkboos et al.
// 2024).
//
// Adapters, heads and embeddings stay in the base's own basis; adapters are mapped where they are
// used, here forward and, for training, backward. Immutable: threads may share a Rotation.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels/hadamard.h"
#include "model/config.h"
#include "quant/scheme.h"
#include "weights/base_model.h"

namespace qalof::weights {

/// An adapter's pair of one linear as the rotated model reads it.
struct RotatedPair {
  std::vector<float> a, b;  // [r, in], [out, r]
  std::vector<float> bias;  // [out], of linear and adapter together; empty where neither has one
};

class Rotation {
 public:
  /// plain: the model's own numbers. Error{kUnsupported} naming a size that is no multiple of 8.
  Rotation(const model::ModelConfig& config, std::shared_ptr<const WeightSource> plain);
  Rotation(const Rotation&) = delete;
  Rotation& operator=(const Rotation&) = delete;

  /// Rows [count, hidden] of embeddings into the residual stream's basis, in place.
  void enter_residual(float* rows, std::size_t count) const;
  /// Rows [count, hidden] of the residual stream into the base's own basis, centred where its last
  /// norm centres them anyhow, in place.
  void leave_residual(float* rows, std::size_t count, ParallelFor& parallel) const;
  /// Turns the residual stream.
  const kernels::Hadamard& residual() const { return residual_; }
  /// Turns what mlp_out reads.
  const kernels::Hadamard& inner() const { return inner_; }
  /// Turns heads of q and k after rotary positions; null where their linears' rows are turned.
  const kernels::Hadamard* after_positions() const { return turns_positions_ ? &head_ : nullptr; }

  /// Rotated weights [out, in] of a linear.
  std::vector<float> weights(std::size_t linear) const;
  /// The values of folded_tensors, in their order.
  std::vector<const std::vector<float>*> folded_values() const;
  /// Rotated bias [out], with what the fold of norms and values adds; empty where there is none.
  const std::vector<float>& bias(std::size_t linear) const { return linears_[linear].bias; }

  /// a [r, in] and b [out, r] in the base's own basis.
  RotatedPair rotate_pair(std::size_t linear, const float* a, const float* b, std::size_t rank,
                          float scaling) const;
  /// Gradients of rotate_pair. rotated_b is its b; da and db come as the gradients of the rotated
  /// pair and leave as those of the pair. dbias [out] is read where the linear has an offset.
  void rotate_pair_backward(std::size_t linear, const float* a, const float* rotated_b,
                            std::size_t rank, float scaling, const float* dbias, float* da,
                            float* db) const;

 private:
  struct Span {
    std::size_t first = 0, blocks = 1;
    const kernels::Hadamard* hadamard = nullptr;
  };
  struct Linear {
    std::size_t in = 0, out = 0;
    bool reads_values = false;  // attention's output
    std::vector<float> gain;    // [in] of the norm before it, or empty
    Span input;
    bool centered = false;                       // what it writes
    std::vector<Span> outputs;                   // none: as they are
    std::size_t dropped_first = 0, dropped = 0;  // outputs whose constants change no attention
    std::vector<float> offset;  // [in] or empty: what its rows have lost by the fold
    std::vector<float> bias;
  };

  void set_sides(const model::ModelConfig& config, const model::LinearSpec& spec, Linear& linear);
  void set_biases(const model::ModelConfig& config, const std::vector<model::LinearSpec>& specs);
  static void turn_inputs(const Linear& linear, float* rows, std::size_t count);
  static void turn_outputs(const Linear& linear, float* rows, std::size_t count);
  static void turn_outputs_back(const Linear& linear, float* rows, std::size_t count);

  std::shared_ptr<const WeightSource> plain_;
  std::size_t hidden_;
  bool is_centered_;
  bool turns_positions_;
  kernels::Hadamard residual_, head_, inner_;
  std::vector<Linear> linears_;
};

/// base rotated; it must not be rotated. Keeps base's numbers alive, not base.
std::shared_ptr<const BaseModel> rotate_model(const BaseModel& base);

/// The model that computes in a scheme: base, or base rotated.
std::shared_ptr<const BaseModel> model_for(const std::shared_ptr<const BaseModel>& base,
                                           const quant::QuantScheme& scheme);

/// What a packed file with rotated weights holds beside the model's own norms and biases, because
/// it cannot be made from codes: rotated biases, and offsets of the linears that read attention.
std::vector<model::TensorSpec> folded_tensors(const model::ModelConfig& config);

}  // namespace qalof::weights
