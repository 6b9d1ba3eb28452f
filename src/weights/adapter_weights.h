// Weights that belong to an adapter instead of the base: quantized with its own steps, or the sum
// of base and adapter where the form is merged (docs/numerics.md, "Adapter forms").
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/threads.h"
#include "weights/linear_op.h"
#include "weights/weight_packing.h"

namespace qalof::weights {

class BaseModel;
struct Adapter;
struct LearnedLinear;

/// Packed weights made once per linear and precision. Thread-safe.
class AdapterWeights {
 public:
  /// The weights for these arguments. Calls make() at the first request and keeps the result as
  /// long as the adapter lives.
  template <typename Make>
  std::shared_ptr<const OwnedMatrix> get(const std::shared_ptr<const BaseModel>& base,
                                         std::size_t linear, quant::Precision precision,
                                         const quant::QuantScheme& scheme, const Make& make) const {
    const std::lock_guard lock(state_->mutex);
    Entry& entry = state_->entries[{base.get(), linear, precision.weight.bits, scheme,
                                    weight_format(precision, scheme)}];
    // A later base may reuse the address of one that is gone.
    if (!entry.weights || entry.base.expired()) entry = {base, make()};
    return entry.weights;
  }

 private:
  struct Key {
    const BaseModel* base;
    std::size_t linear;
    int weight_bits;
    quant::QuantScheme scheme;
    kernels::WeightFormat format;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Entry {
    std::weak_ptr<const BaseModel> base;
    std::shared_ptr<const OwnedMatrix> weights;
  };
  struct State {
    std::mutex mutex;
    std::map<Key, Entry> entries;
  };
  std::unique_ptr<State> state_ = std::make_unique<State>();
};

/// What a linear computes with when an adapter is active.
struct AdaptedLinear {
  std::shared_ptr<const OwnedMatrix> weight;  // null: the base's
  const LoraView* lora = nullptr;             // null: no low-rank branch
  float clip = 1.0F;                          // clip factor of integer activations
};
/// Error{kUnsupported} where the learned values are of another scheme, or where weights must be
/// made from a base that holds no floats.
AdaptedLinear adapt_linear(const std::shared_ptr<const BaseModel>& base, const Adapter& adapter,
                           std::size_t linear, quant::Precision precision,
                           const quant::QuantScheme& scheme, ParallelFor& parallel);

/// Packs float weights [out, in]: with the learned steps where learned has any (null: none), else
/// with the scheme's own scales.
std::unique_ptr<OwnedMatrix> pack_own_weights(const std::vector<float>& weights, std::size_t out,
                                              std::size_t in, quant::Precision precision,
                                              const quant::QuantScheme& scheme,
                                              const LearnedLinear* learned, ParallelFor& parallel);

/// True where an adapter needs weights other than the base's: it is merged or has learned values.
bool owns_weights(const Adapter& adapter);

/// Float weights [out, in] of a linear before quantization: the base's, or base + product where
/// the adapter is merged.
std::vector<float> adapted_floats(const BaseModel& base, const Adapter& adapter, std::size_t linear,
                                  ParallelFor& parallel);

/// Float weights [out, in] of a linear with the adapter's product added, whatever its form.
std::vector<float> merged_floats(const BaseModel& base, const Adapter& adapter, std::size_t linear,
                                 ParallelFor& parallel);

/// weights [out, in] += scaling * b a for a [r, in] and b [out, r]; sums as in docs/numerics.md,
/// "Linear".
void add_low_rank(const float* a, const float* b, std::size_t rank, float scaling, std::size_t out,
                  std::size_t in, float* weights, ParallelFor& parallel);

}  // namespace qalof::weights
