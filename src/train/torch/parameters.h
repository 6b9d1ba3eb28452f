// The parameters of a phase: made from fresh or earlier values, chosen per network, handed back.
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

/// Which pair and head serve a network: those of its widths, else the nearest trained width above,
/// else below, as at run time. Learned quantizer values serve their own width alone.
NetworkView view_of(const std::map<int, AdapterParams>& adapters, const Network& network,
                    const TrainOptions& options);

/// Everything a phase trains. `full` trains the base and one head; other methods a pair per width
/// and linear, of which widths may share ranks, and a head per width or one for all.
class PhaseParameters {
 public:
  /// earlier: adapters of finished phases, for the head a phase starts from. parallel is used here
  /// alone.
  PhaseParameters(const weights::BaseModel& base, const TrainOptions& options, const Phase& phase,
                  const std::map<int, AdapterParams>& earlier, at::Device device,
                  ParallelFor& parallel);

  FlatParameters& flat() { return flat_; }
  const BaseParams& base() const { return base_; }  // full
  /// Values by width; a head that widths share stands in each. Ranks that widths share are copied.
  std::map<int, AdapterParams> adapters() const;

  NetworkView view(const Network& network) const;
  /// The groups of flat() that a pass over the network trains, ascending.
  std::vector<std::size_t> groups(const Network& network) const;
  /// Moves learned quantizer values to where they are allowed, after a step of the optimizer.
  void project();
  /// Gives a width the values of another's head and of the pairs that it does not share with it.
  void copy_width(int from, int to);
  /// Adds what was learned to weights.
  void export_to(const weights::BaseModel& base, TrainedWeights& weights) const;

 private:
  struct Pair {
    std::size_t a = 0, b = 0;  // indices into flat_
  };
  struct HeadPair {
    std::size_t weight = 0;
    std::optional<std::size_t> bias;
  };
  // Neighbouring ranks of every linear's pair: those of one width, or those that widths share.
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
    std::vector<std::size_t> blocks;  // one after the other they are its pairs
    HeadPair head;
    std::size_t head_group = 0;
    std::vector<Quantizer> quantizers;  // [linear], or empty
  };
  void add_pairs(const weights::BaseModel& base, const AdapterInit& init, int bits, Width& width,
                 std::size_t& group);
  HeadPair add_head(const weights::Head& head, std::size_t group);
  void add_quantizers(const weights::BaseModel& base, int bits, Width& width, std::size_t& group,
                      ParallelFor& parallel);
  QuantizerParams params_of(const Quantizer& quantizer) const;
  LoraParams pair_of(const Width& width, std::size_t linear) const;
  HeadParams head_of(const HeadPair& pair) const;

  TrainOptions options_;
  FlatParameters flat_;
  BaseParams base_;
  std::optional<HeadPair> shared_head_;  // one for all widths, or beside the base
  std::vector<Block> blocks_;
  std::map<int, Width> widths_;
};

/// Copies without gradient, which later changes of params do not reach.
AdapterParams detached(const AdapterParams& params);

}  // namespace qalof::train
