#include "runtime/footprint.h"

#include "kernels/codebook.h"

namespace qalof::runtime {

namespace {

// Scales, and zero points where there are any, as packed files hold them.
std::size_t bytes_of_scales(const model::LinearSpec& spec, const quant::QuantScheme& scheme) {
  if (scheme.is_codebook()) {
    const std::size_t blocks = kernels::codebook_blocks(spec.in * spec.out);
    if (!scheme.double_quant) return sizeof(float) * blocks;
    return blocks + sizeof(float) * (kernels::scale_blocks(blocks) + 1);
  }
  if (scheme.group == 0) return sizeof(float) * spec.out;
  const std::size_t groups = kernels::num_groups(spec.in, scheme.group);
  return spec.out * groups * (2 + (scheme.asymmetric ? 1 : 0));
}

}  // namespace

Footprint measure_footprint(const Execution& execution) {
  const BaseModel& base = execution.base();
  const model::ModelConfig& config = base.config();
  Footprint footprint;
  double bits = 0, weights = 0;
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    const model::LinearSpec& spec = base.linears()[i];
    const LinearCall& call = execution.linear(i);
    const auto count = static_cast<double>(spec.in * spec.out);
    const int width = call.precision.weight.bits;
    const bool quantized = call.precision.weight.is_integer();
    weights += count;
    const std::size_t scale_bytes =
        quantized ? bytes_of_scales(spec, execution.plan().scheme) : std::size_t{0};
    bits += width * count + 8.0 * static_cast<double>(scale_bytes);
    const std::size_t stored_bits = !quantized   ? static_cast<std::size_t>(width)
                                    : width <= 4 ? 4
                                                 : 8;
    footprint.linear_bytes += spec.in * spec.out * stored_bits / 8 + scale_bytes;
    if (spec.bias) footprint.other_bytes += sizeof(float) * spec.out;
    if (call.lora != nullptr)
      footprint.adapter_bytes += sizeof(float) * call.lora->a.n * (spec.in + spec.out);
  }
  if (const Head* head = execution.head(Task::kQa))
    footprint.adapter_bytes += sizeof(float) * (head->weight.size() + head->bias.size());
  const std::size_t embedding_bytes =
      static_cast<std::size_t>(execution.embedding_width().bits) / 8;
  for (const model::TensorSpec& spec : model::embedding_tensors(config))
    footprint.other_bytes += spec.shape[0] * spec.shape[1] * embedding_bytes;
  const std::size_t norm_vectors = config.norm == model::NormKind::kLayer ? 2 : 1;
  footprint.other_bytes +=
      sizeof(float) * norm_vectors * config.hidden * (2 * config.num_layers + 1);
  footprint.total_bytes = footprint.linear_bytes + footprint.adapter_bytes + footprint.other_bytes;
  footprint.bits_per_weight = bits / weights;
  return footprint;
}

}  // namespace qalof::runtime
