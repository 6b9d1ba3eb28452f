// What adapters begin as: nothing added to the base, other adapters (TrainOptions::start), or the
// part of its weights that quantization loses (LoftQ: Li et al., ICLR 2024, algorithm 1, with one
// round: the base keeps its codes q(W), because every width and every other adapter uses them too).
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

/// A uniform in +-1 / sqrt(in) (Kaiming with a = sqrt 5), a function of (seed, stream, linear,
/// rank); B zero.
PairValues fresh_pair(const model::LinearSpec& spec, RankRange ranks, std::uint64_t seed,
                      const std::string& stream);

/// x [m, n] in about u diag(s) v^T: u [m, r], v [n, r] orthonormal, s falling.
struct LowRank {
  at::Tensor u, s, v;
};
/// The largest r = min(rank, m, n) singular values and vectors of x in f32, by eight rounds of
/// subspace iteration on eight vectors more than asked for, begun at random: 32 products with x of
/// r + 8 columns. The same x and stream give the same bytes.
LowRank truncated_svd(const at::Tensor& x, std::int64_t rank, const RandomStream& stream);

/// Initial values of a phase's adapters. References must outlive it.
class AdapterInit {
 public:
  AdapterInit(const weights::BaseModel& base, const TrainOptions& options, const Phase& phase,
              ParallelFor& parallel)
      : base_(base), options_(options), phase_(phase), parallel_(parallel) {}

  /// Ranks of a linear's pair, for `bits`, the width that uses them first. before: its ranks before
  /// these, in parts.
  PairValues values(std::size_t linear, int bits, RankRange ranks,
                    std::span<const PairValues> before) const;

 private:
  // The pair of options.start that would serve the width, if there is one.
  std::optional<PairValues> started(std::size_t linear, int bits) const;
  // W - q(W) at the width, undefined where no network of the phase has it or nothing is lost.
  at::Tensor lost(std::size_t linear, int bits) const;

  const weights::BaseModel& base_;
  const TrainOptions& options_;
  const Phase& phase_;
  ParallelFor& parallel_;
};

}  // namespace qalof::train
