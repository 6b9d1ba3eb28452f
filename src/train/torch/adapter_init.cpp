// Initial adapter values: random A with zero B, existing adapters, or a truncated SVD of the
// quantization residual.
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "train/adapter_form.h"
#include "train/torch/adapter_init.h"
#include "weights/weight_packing.h"

namespace qalof::train {

namespace {

constexpr std::int64_t kOversampling = 8;
constexpr int kRounds = 8;
// A singular value below this share of the largest is treated as rounding noise.
constexpr float kNothing = 1e-6F;

at::Tensor orthonormal(const at::Tensor& x) { return std::get<0>(at::linalg_qr(x)); }

at::Tensor matrix_of(const std::vector<float>& values, std::size_t rows) {
  const auto first = static_cast<std::int64_t>(rows);
  return to_tensor(values, {first, static_cast<std::int64_t>(values.size()) / first});
}

}  // namespace

PairValues fresh_pair(const model::LinearSpec& spec, RankRange ranks, std::uint64_t seed,
                      const std::string& stream) {
  const RandomStream random(seed, fmt::format("lora_A.{}.{}", stream, spec.name));
  const float bound = 1.0F / std::sqrt(static_cast<float>(spec.in));
  PairValues values{std::vector<float>(ranks.count * spec.in),
                    std::vector<float>(spec.out * ranks.count)};
  for (std::size_t i = 0; i < values.a.size(); ++i) {
    values.a[i] = bound * (2.0F * random.uniform(0, ranks.first * spec.in + i) - 1.0F);
  }
  return values;
}

LowRank truncated_svd(const at::Tensor& x, std::int64_t rank, const RandomStream& stream) {
  const at::NoGradGuard no_grad;
  const std::int64_t most = std::min(x.size(0), x.size(1));
  const std::int64_t columns = std::min(rank + kOversampling, most);
  at::Tensor right = at::empty({x.size(1), columns});
  float* start = right.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < right.numel(); ++i)
    start[i] = 2.0F * stream.uniform(0, static_cast<std::uint64_t>(i)) - 1.0F;
  const at::Tensor transposed = x.t();
  for (int round = 0; round < kRounds; ++round)
    right = orthonormal(transposed.mm(orthonormal(x.mm(right))));
  const auto [u, s, vh] = at::linalg_svd(x.mm(right), /*full_matrices=*/false);
  const std::int64_t kept = std::min(rank, most);
  return {u.narrow(1, 0, kept), s.narrow(0, 0, kept), right.mm(vh.t()).narrow(1, 0, kept)};
}

at::Tensor AdapterInit::lost(std::size_t linear, int bits) const {
  for (const Network& network : phase_.networks) {
    const quant::Precision precision = network.plan.linears[linear];
    if (precision.weight.bits != bits || bits == 32) continue;
    const kernels::PackedMatrix& packed =
        base_.packed(linear, precision, network.plan.scheme, parallel_);
    const at::Tensor weights = matrix_of(base_.source().linear_f32(linear), packed.n);
    return weights - matrix_of(weights::unpack_reals(packed, parallel_), packed.n);
  }
  return {};
}

std::optional<PairValues> AdapterInit::started(std::size_t linear, int bits) const {
  if (options_.start == nullptr) return std::nullopt;
  const weights::AdapterSet& set = *options_.start;
  const weights::Adapter& adapter = *set.by_width.at(*set.serving_width(bits));
  if (adapter.linears.empty() || !adapter.linears[linear]) return std::nullopt;
  const weights::LoraLinear& pair = *adapter.linears[linear];
  PairValues values{pair.a(), pair.b()};
  const auto factor = static_cast<float>(pair.view().scaling / lora_scaling(options_));
  if (factor != 1.0F) {
    for (float& value : values.b) value *= factor;
  }
  return values;
}

PairValues AdapterInit::values(std::size_t linear, int bits, RankRange ranks,
                               std::span<const PairValues> before) const {
  if (std::optional<PairValues> found = started(linear, bits)) return *std::move(found);
  const model::LinearSpec& spec = base_.linears()[linear];
  const bool shares = options_.adapters.adapter_form == AdapterForm::kCascaded;
  PairValues values =
      fresh_pair(spec, ranks, options_.seed, shares ? "cascaded" : fmt::format("w{}", bits));
  if (options_.adapters.init_lora == InitLora::kDefault) return values;
  at::Tensor missing = lost(linear, bits);
  if (!missing.defined()) return values;
  const double scaling = lora_scaling(options_);
  for (const PairValues& pair : before) {
    const std::size_t rank = pair.a.size() / spec.in;
    missing.addmm_(matrix_of(pair.b, spec.out), matrix_of(pair.a, rank), 1, -scaling);
  }
  const RandomStream stream(options_.seed, fmt::format("residual_svd.w{}.{}", bits, spec.name));
  const LowRank factors = truncated_svd(missing, static_cast<std::int64_t>(ranks.count), stream);
  const std::vector<float> sizes = to_vector(factors.s);
  const at::Tensor roots = at::sqrt(factors.s / scaling);
  const std::vector<float> a = to_vector((factors.v * roots).t()), b = to_vector(factors.u * roots);
  // Ranks without a residual keep the random start: with A and B both zero they could never learn.
  for (std::size_t rank = 0; rank < sizes.size() && sizes[rank] > kNothing * sizes[0]; ++rank) {
    std::copy_n(a.begin() + static_cast<std::ptrdiff_t>(rank * spec.in), spec.in,
                values.a.begin() + static_cast<std::ptrdiff_t>(rank * spec.in));
    for (std::size_t row = 0; row < spec.out; ++row)
      values.b[row * ranks.count + rank] = b[row * sizes.size() + rank];
  }
  return values;
}

}  // namespace qalof::train
