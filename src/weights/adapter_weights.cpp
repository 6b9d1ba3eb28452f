// Packs the weights an adapter brings along: learned steps, and base + product of a merged adapter.
#include "weights/adapter_weights.h"

#include "core/error.h"
#include "weights/adapter.h"
#include "weights/base_model.h"

namespace qalof::weights {

namespace {

const LoraLinear* pair_of(const Adapter& adapter, std::size_t linear) {
  return adapter.linears.empty() ? nullptr : adapter.linears[linear].get();
}

bool is_merged(const Adapter& adapter, std::size_t linear) {
  return adapter.merged && pair_of(adapter, linear) != nullptr;
}

// The learned values that serve a linear, or null.
const LearnedLinear* learned_for(const Adapter& adapter, std::size_t linear,
                                 quant::Precision precision, const quant::QuantScheme& scheme) {
  if (!adapter.learned || adapter.learned->bits != precision.weight.bits) return nullptr;
  QALOF_CHECK(adapter.learned->scheme == scheme, ErrorKind::kUnsupported,
              "the adapter's quantizer values for {} bits were learned in scheme {} and serve no "
              "other, found scheme {}",
              adapter.learned->bits, quant::to_string(adapter.learned->scheme),
              quant::to_string(scheme));
  return &adapter.learned->linears[linear];
}

}  // namespace

void add_low_rank(const float* a, const float* b, std::size_t rank, float scaling, std::size_t out,
                  std::size_t in, float* weights, ParallelFor& parallel) {
  std::vector<float> panels(kernels::packed_matrix_bytes(kernels::WeightFormat::kF32, in, rank) /
                            sizeof(float));
  kernels::pack_f32(a, in, rank, in, /*transposed=*/true, panels.data(), parallel);
  const kernels::PackedMatrix packed{kernels::WeightFormat::kF32, in, rank, panels.data()};
  kernels::gemm_f32(b, out, rank, packed, scaling, nullptr, kernels::Accumulate::kAdd, weights,
                    parallel);
}

std::vector<float> adapted_floats(const BaseModel& base, const Adapter& adapter, std::size_t linear,
                                  ParallelFor& parallel) {
  return is_merged(adapter, linear) ? merged_floats(base, adapter, linear, parallel)
                                    : base.source().linear_f32(linear);
}

std::vector<float> merged_floats(const BaseModel& base, const Adapter& adapter, std::size_t linear,
                                 ParallelFor& parallel) {
  std::vector<float> weights = base.source().linear_f32(linear);
  const LoraLinear* pair = pair_of(adapter, linear);
  if (pair == nullptr) return weights;
  const model::LinearSpec& spec = base.linears()[linear];
  add_low_rank(pair->a().data(), pair->b().data(), pair->rank(), pair->view().scaling, spec.out,
               spec.in, weights.data(), parallel);
  return weights;
}

std::unique_ptr<OwnedMatrix> pack_own_weights(const std::vector<float>& weights, std::size_t out,
                                              std::size_t in, quant::Precision precision,
                                              const quant::QuantScheme& scheme,
                                              const LearnedLinear* learned, ParallelFor& parallel) {
  if (learned == nullptr || learned->steps.empty())
    return pack_weights(weights, out, in, precision, scheme.weights(), parallel);
  return pack_codes(
      quantize_with_steps(weights, out, in, precision.weight.bits, scheme, *learned, parallel),
      precision, parallel);
}

bool owns_weights(const Adapter& adapter) { return adapter.merged || adapter.learned; }

AdaptedLinear adapt_linear(const std::shared_ptr<const BaseModel>& base, const Adapter& adapter,
                           std::size_t linear, quant::Precision precision,
                           const quant::QuantScheme& scheme, ParallelFor& parallel) {
  AdaptedLinear result;
  const bool merged = is_merged(adapter, linear);
  const LoraLinear* pair = pair_of(adapter, linear);
  if (pair != nullptr && !merged) result.lora = &pair->view();
  QALOF_CHECK(!merged || !scheme.is_rotated(), ErrorKind::kUnsupported,
              "scheme {}: a merged adapter has weights that rot does not turn, expected a scheme "
              "without rot",
              quant::to_string(scheme));
  const LearnedLinear* learned = learned_for(adapter, linear, precision, scheme);
  const bool has_steps = learned != nullptr && !learned->steps.empty();
  if (learned != nullptr && precision.activation == precision.weight) result.clip = learned->clip;
  if (!merged && !has_steps) return result;
  const quant::QuantScheme weight_scheme =
      precision.weight.is_integer() ? scheme.weights() : quant::QuantScheme{};
  result.weight = adapter.weights.get(
      base, linear, precision, weight_scheme, [&]() -> std::shared_ptr<const OwnedMatrix> {
        const model::LinearSpec& spec = base->linears()[linear];
        const std::vector<float> floats = adapted_floats(*base, adapter, linear, parallel);
        return pack_own_weights(floats, spec.out, spec.in, precision, scheme, learned, parallel);
      });
  return result;
}

}  // namespace qalof::weights
