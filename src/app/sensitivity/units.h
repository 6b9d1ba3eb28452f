// The units that a sensitivity analysis lowers one at a time: linears, blocks, kinds of linears, K
// and V.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "weights/base_model.h"

namespace qalof::app {

enum class Granularity {
  kSublayer,  // every linear
  kLayer,     // attention or MLP of a block
  kBlock,
  kKind  // a linear type over all blocks; all attention; all MLP; everything
};
/// "sublayer", "layer", "block" or "kind"; Error{kUsage} for others.
Granularity parse_granularity(const std::string& text);
std::string to_string(Granularity granularity);

/// The part of a unit that is lowered.
enum class Part { kBoth, kWeights, kActivations, kKv };
std::string to_string(Part part);

struct SensitivityUnit {
  std::string name;                  // "h.0.attn.c_attn", "h.0.attn", "h.0", "attn.c_attn", "h.0.k"
  std::vector<std::size_t> linears;  // none for K and V
  std::optional<std::size_t> block;  // none: over all blocks
  std::string kind;                  // "attn.c_attn", "attn", "block", "k"
  std::size_t parameters = 0;        // weights of the linears
  Part part = Part::kBoth;
  std::vector<std::size_t> kv_layers;  // whose K or V is lowered
  bool is_value = false;               // V instead of K
  std::optional<std::size_t> kv_head;  // of one key/value head only; none: of all
  std::size_t first_layer = 0;         // nothing changes before this layer
};

struct UnitOptions {
  Granularity granularity = Granularity::kSublayer;
  bool split = false;     // separate units for weights and activations
  bool kv = false;        // also K and V of each layer (kKind: of all layers)
  bool kv_heads = false;  // separate units for key/value heads; not with kKind
};
/// The units of a model in forward order; with split, a unit's weights come before its activations.
std::vector<SensitivityUnit> sensitivity_units(const weights::BaseModel& base,
                                               const UnitOptions& options);

}  // namespace qalof::app
