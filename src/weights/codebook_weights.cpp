// Quantizes a linear with a codebook, dequantizes it, and packs the values as float panels.
#include "weights/codebook_weights.h"

#include "core/error.h"

namespace qalof::weights {

std::size_t CodebookWeights::bytes() const {
  const std::size_t floats = scales.size() + block_scales.size() + (double_quant() ? 1 : 0);
  return codes.size() + scale_codes.size() + sizeof(float) * floats;
}

kernels::Codebook choose_codebook(const quant::QuantScheme& scheme) {
  QALOF_CHECK(scheme.is_codebook(), ErrorKind::kInternal, "scheme {} is no codebook",
              quant::to_string(scheme));
  return scheme.kind == quant::CodeKind::kNf4 ? kernels::Codebook::kNf4 : kernels::Codebook::kFp4;
}

CodebookWeights quantize_with_codebook(const std::vector<float>& weights, std::size_t out,
                                       std::size_t in, const quant::QuantScheme& scheme,
                                       ParallelFor& parallel) {
  CodebookWeights result;
  result.n = out;
  result.k = in;
  result.codebook = choose_codebook(scheme);
  result.codes.resize(kernels::codebook_bytes(weights.size()));
  result.scales.resize(kernels::codebook_blocks(weights.size()));
  kernels::quantize_codebook(weights.data(), weights.size(), result.codebook, result.codes.data(),
                             result.scales.data(), parallel);
  if (!scheme.double_quant) return result;
  const std::size_t blocks = result.scales.size();
  result.scale_codes.resize(blocks);
  result.block_scales.resize(kernels::scale_blocks(blocks));
  result.scale_mean = kernels::quantize_scales(
      result.scales.data(), blocks, result.scale_codes.data(), result.block_scales.data());
  result.scales.clear();
  return result;
}

std::vector<float> dequantize_codes(const CodebookWeights& weights, ParallelFor& parallel) {
  std::vector<float> scales = weights.scales;
  if (weights.double_quant()) {
    scales.resize(weights.scale_codes.size());
    kernels::dequantize_scales(weights.scale_codes.data(), weights.block_scales.data(),
                               weights.scale_mean, scales.size(), scales.data());
  }
  std::vector<float> reals(weights.n * weights.k);
  kernels::dequantize_codebook(weights.codes.data(), scales.data(), reals.size(), weights.codebook,
                               reals.data(), parallel);
  return reals;
}

std::unique_ptr<OwnedMatrix> pack_codebook(const CodebookWeights& weights,
                                           quant::BitWidth activation, ParallelFor& parallel) {
  return pack_floats(
      dequantize_codes(weights, parallel), weights.n, weights.k,
      activation.bits == 16 ? kernels::WeightFormat::kBf16 : kernels::WeightFormat::kF32, parallel);
}

}  // namespace qalof::weights
