// The parameters of a phase: created from fresh or earlier values, selected per network, exported.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <optional>
#include <span>
#include <vector>

#include "train/phases.h"
#include "train/torch/adapter_init.h"
#include "train/torch/network.h"

namespace qalof::train {

/// The pairs and head that serve a network: those of its widths, else of the nearest trained width
/// above, else below, as at run time. Learned quantizer values serve their own width only.
NetworkView view_of(const std::map<int, AdapterParams>& adapters, const Network& network,
                    const TrainOptions& options);

/// Everything a phase trains. `full` trains the base and one head; other methods train a pair per
/// width and linear, where widths may share ranks, and a head per width or one for all.
class PhaseParameters {
 public:
  /// earlier: adapters of finished phases, for the head a phase starts from. parallel is used by
  /// the constructor only.
  PhaseParameters(const weights::BaseModel& base, const TrainOptions& options, const Phase& phase,
                  const std::map<int, AdapterParams>& earlier, at::Device device,
                  ParallelFor& parallel);

  FlatParameters& flat() { return flat_; }
  const BaseParams& base() const { return base_; }  // full
  /// Adapters by width. A shared head is in each of them; shared ranks are copied.
  std::map<int, AdapterParams> adapters() const;

  NetworkView view(const Network& network) const;
  /// The groups of flat() that a pass through the network trains, ascending.
  std::vector<std::size_t> groups(const Network& network) const;
  /// Clamps learned quantizer values to their allowed range, after a step of the optimizer.
  void project();
  /// Copies the head of one width, and those of its pairs that are not shared, to another width.
  void copy_width(int from, int to);
  /// Adds the trained values to weights.
  void export_to(const weights::BaseModel& base, TrainedWeights& weights) const;

 private:
  struct Pair {
    std::size_t a = 0, b = 0;  // indices into flat_
  };
  struct HeadPair {
    std::size_t weight = 0;
    std::optional<std::size_t> bias;
  };
  // Neighbouring ranks of every linear's pair: those of one width, or those shared by widths.
  struct Block {
    std::size_t rank = 0;
    std::vector<Pair> pairs;          // [linear]
    std::vector<std::size_t> groups;  // [linear]
  };
  struct Quantizer {
    std::optional<std::size_t> steps, clip;  // indices into flat_
    std::shared_ptr<const QuantizerStart> start;
    std::size_t group = 0;
  };
  struct Width {
    std::vector<std::size_t> blocks;  // concatenated, they form its pairs
    HeadPair head;
    std::size_t head_group = 0;
    std::vector<Quantizer> quantizers;  // [linear], or empty
  };
  void add_pairs(const weights::BaseModel& base, const AdapterInit& init, int bits, Width& width,
                 std::size_t& group);
  HeadPair add_head(const weights::Head& head, std::size_t group);
  void add_quantizers(const weights::BaseModel& base, int bits, Width& width, std::size_t& group,
                      ParallelFor& parallel);
  QuantizerParams quantizer_params(const Quantizer& quantizer) const;
  LoraParams pair_of(const Width& width, std::size_t linear) const;
  HeadParams head_of(const HeadPair& pair) const;

  TrainOptions options_;
  FlatParameters flat_;
  BaseParams base_;
  std::optional<HeadPair> shared_head_;  // of all widths, or of `full`
  std::vector<Block> blocks_;
  std::map<int, Width> widths_;
};

/// Copies without gradient; later changes of params do not affect them.
AdapterParams detached(const AdapterParams& params);

}  // namespace qalof::train
