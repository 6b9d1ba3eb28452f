// Initial values of adapters: a product of zero, existing adapters (TrainOptions::start), or the
// residual that quantization loses (LoftQ: Li et al., ICLR 2024, algorithm 1, with one round: the
// base keeps its codes q(W), because every width and every other adapter uses them too).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/random.h"
#include "train/phases.h"
#include "train/torch/network.h"

namespace qalof::train {

/// Values of a pair: a [r, in], b [out, r].
struct PairValues {
  std::vector<float> a, b;
};
/// Neighbouring ranks of a pair.
struct RankRange {
  std::size_t first = 0, count = 0;
};

/// A pair with A uniform in +-1 / sqrt(in) (Kaiming with a = sqrt 5), a function of (seed, stream,
/// linear, rank), and B zero.
PairValues fresh_pair(const model::LinearSpec& spec, RankRange ranks, std::uint64_t seed,
                      const std::string& stream);

/// A low-rank approximation u diag(s) v^T of x [m, n]: u [m, r] and v [n, r] orthonormal, s
/// falling.
struct LowRank {
  at::Tensor u, s, v;
};
/// The largest r = min(rank, m, n) singular values and vectors of x in f32, by eight rounds of
/// subspace iteration on r + 8 vectors from a random start: 32 products of x with r + 8 columns.
/// The same x and stream give the same bytes.
LowRank truncated_svd(const at::Tensor& x, std::int64_t rank, const RandomStream& stream);

/// Initial values of a phase's adapters. References must outlive it.
class AdapterInit {
 public:
  AdapterInit(const weights::BaseModel& base, const TrainOptions& options, const Phase& phase,
              ParallelFor& parallel)
      : base_(base), options_(options), phase_(phase), parallel_(parallel) {}

  /// Initial values of a range of ranks of a linear's pair. bits: the first width that uses them.
  /// before: the pair's lower ranks, in parts.
  PairValues values(std::size_t linear, int bits, RankRange ranks,
                    std::span<const PairValues> before) const;

 private:
  // The pair of options.start that serves the width, if there is one.
  std::optional<PairValues> started(std::size_t linear, int bits) const;
  // W - q(W) at the width; undefined where no network of the phase has the width, and at 32 bits.
  at::Tensor lost(std::size_t linear, int bits) const;

  const weights::BaseModel& base_;
  const TrainOptions& options_;
  const Phase& phase_;
  ParallelFor& parallel_;
};

}  // namespace qalof::train
