// Sums stored bytes and nominal bits over an execution's linears, adapters and caches.
#include "runtime/footprint.h"

#include "kernels/codebook.h"
#include "weights/packed_layout.h"

namespace qalof::runtime {

namespace {

// Bytes of scales and, where there are any, zero points, as stored in packed files.
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

// Bits per number of a row of activations; each range adds an f32 scale.
double activation_bits(const model::LinearSpec& spec, quant::BitWidth width, std::size_t group) {
  if (!width.is_integer()) return width.bits;
  const std::size_t ranges = group == 0 ? 1 : kernels::num_groups(spec.in, group);
  return width.bits + 32.0 * static_cast<double>(ranges) / static_cast<double>(spec.in);
}

// Bits per number of K and V, mean over layers and heads; a cache has an f32 scale per token and
// head.
double kv_bits(const Execution& execution) {
  const double scale = 32.0 / static_cast<double>(execution.base().config().head_dim());
  double sum = 0, count = 0;
  for (const auto* layers : {&execution.kv().k_bits, &execution.kv().v_bits}) {
    for (const std::vector<int>& heads : *layers) {
      for (const int bits : heads) sum += bits + (quant::BitWidth{bits}.is_integer() ? scale : 0);
      count += static_cast<double>(heads.size());
    }
  }
  return sum / count;
}

}  // namespace

std::uint64_t stored_bytes(const model::LinearSpec& spec, quant::BitWidth width,
                           const quant::QuantScheme& scheme) {
  const std::size_t count = spec.in * spec.out;
  if (!width.is_integer()) return count * static_cast<std::size_t>(width.bits) / 8;
  return count * static_cast<std::size_t>(weights::container_bits(width.bits)) / 8 +
         bytes_of_scales(spec, scheme);
}

Footprint measure_footprint(const Execution& execution) {
  const weights::BaseModel& base = execution.base();
  const model::ModelConfig& config = base.config();
  Footprint footprint;
  double bits = 0, weights = 0, row_bits = 0, row_numbers = 0;
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    const model::LinearSpec& spec = base.linears()[i];
    const weights::LinearCall& call = execution.linear(i);
    const auto count = static_cast<double>(spec.in * spec.out);
    const int width = call.precision.weight.bits;
    const bool quantized = call.precision.weight.is_integer();
    weights += count;
    row_numbers += static_cast<double>(spec.in);
    row_bits +=
        static_cast<double>(spec.in) *
        activation_bits(spec, call.precision.activation, execution.plan().scheme.activation_group);
    const std::size_t scale_bytes =
        quantized ? bytes_of_scales(spec, execution.plan().scheme) : std::size_t{0};
    bits += width * count + 8.0 * static_cast<double>(scale_bytes);
    footprint.linear_bytes += stored_bytes(spec, call.precision.weight, execution.plan().scheme);
    if (spec.bias) footprint.other_bytes += sizeof(float) * spec.out;
    if (call.lora != nullptr)
      footprint.adapter_bytes += sizeof(float) * call.lora->a.n * (spec.in + spec.out);
  }
  for (const weights::HeadKind kind : {weights::HeadKind::kSpan, weights::HeadKind::kClass}) {
    if (const weights::Head* head = execution.head(kind))
      footprint.adapter_bytes += sizeof(float) * (head->weight.size() + head->bias.size());
  }
  const std::size_t embedding_bytes =
      static_cast<std::size_t>(execution.embedding_width().bits) / 8;
  for (const model::TensorSpec& spec : model::embedding_tensors(config))
    footprint.other_bytes += spec.shape[0] * spec.shape[1] * embedding_bytes;
  if (config.lm_head == model::LmHead::kOwn) {
    model::LinearSpec head;
    head.in = config.hidden;
    head.out = config.vocab_size;
    footprint.other_bytes += stored_bytes(head, execution.lm_head_width(), {});
  }
  for (const model::TensorSpec& spec : model::norm_tensors(config))
    footprint.other_bytes += sizeof(float) * spec.shape.front();
  footprint.total_bytes = footprint.linear_bytes + footprint.adapter_bytes + footprint.other_bytes;
  footprint.bits_per_weight = bits / weights;
  footprint.bits_per_activation = row_bits / row_numbers;
  footprint.bits_per_kv = kv_bits(execution);
  return footprint;
}

}  // namespace qalof::runtime
