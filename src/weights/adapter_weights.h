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
  /// What make gives, at the first call with these arguments; it is kept as long as the adapter.
  template <typename Make>
  std::shared_ptr<const OwnedMatrix> get(const std::shared_ptr<const BaseModel>& base,
                                         std::size_t linear, quant::Precision precision,
                                         const quant::QuantScheme& scheme, const Make& make) const {
    const std::lock_guard lock(state_->mutex);
    Entry& entry = state_->entries[{base.get(), linear, precision.weight.bits, scheme,
                                    weight_format(precision, scheme)}];
    // Another base may have come to the same address.
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

/// What a linear computes with where an adapter serves it.
struct AdaptedLinear {
  std::shared_ptr<const OwnedMatrix> weight;  // null: the base's
  const LoraView* lora = nullptr;             // null: no branch of low rank
  float clip = 1.0F;                          // of integer activations
};
/// Error{kUnsupported} where learned values are of another scheme, or weights are to be made of a
/// base that holds no floats.
AdaptedLinear adapt_linear(const std::shared_ptr<const BaseModel>& base, const Adapter& adapter,
                           std::size_t linear, quant::Precision precision,
                           const quant::QuantScheme& scheme, ParallelFor& parallel);

/// Packed weights of floats [out, in]: with learned steps where there are any, else as the scheme
/// has it.
std::unique_ptr<OwnedMatrix> pack_own_weights(const std::vector<float>& weights, std::size_t out,
                                              std::size_t in, quant::Precision precision,
                                              const quant::QuantScheme& scheme,
                                              const LearnedLinear* learned, ParallelFor& parallel);

/// Whether an adapter has more than pairs beside the base: merged weights or learned values.
bool owns_weights(const Adapter& adapter);

/// The float weights [out, in] behind a linear that an adapter serves: the base's, or the sum.
std::vector<float> adapted_floats(const BaseModel& base, const Adapter& adapter, std::size_t linear,
                                  ParallelFor& parallel);

/// weights [out, in] += scaling * b a for a [r, in] and b [out, r]; sums as in "Linear".
void add_low_rank(const float* a, const float* b, std::size_t rank, float scaling, std::size_t out,
                  std::size_t in, float* weights, ParallelFor& parallel);

}  // namespace qalof::weights
