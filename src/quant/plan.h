// Precision plans: PlanSpec is what a user writes, PrecisionPlan what runs. A plan is chosen per
// call and is never a global.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "quant/precision.h"
#include "quant/scheme.h"

namespace qalof::quant {

/// Names and sizes that a plan is resolved against; made from a ModelConfig (model/config.h).
struct PlanTarget {
  std::vector<std::string> linear_names;    // "h.0.attn.c_attn", in forward order
  std::vector<std::size_t> linear_weights;  // elements of each, for average bits
  std::size_t num_layers = 0;
  std::size_t num_kv_heads = 0;
};

/// A plan as written: a text form or a file.
struct PlanSpec {
  struct Rule {
    std::string match;  // regular expression, full match
    Precision set;
  };
  struct LayerKv {
    std::vector<BitWidth> k, v;  // one entry = all heads
  };
  std::string source;                 // text form or path, for messages
  std::optional<QuantScheme> scheme;  // as written; none: seed
  UniformPrecision default_precision;
  std::optional<int> head;                   // width whose head is used
  std::vector<Rule> rules;                   // in order, the last match wins
  std::map<std::string, Precision> modules;  // exact names beat rules
  std::map<std::size_t, LayerKv> kv;
  bool is_file = false;
  bool covers_every_module = false;  // a flat plan: a module without a width is an error
};

/// Parses a text form ("8", "w4a8kv8"), or else the path of a plan file or of a flat map in the
/// original project's form {"transformer.h.0.attn.c_attn": 8} (then K and V have 16 bits).
/// Error{kUsage} where text is neither a form nor a file, {kNotFound} where it can only be a path
/// (it contains / or ends in .json), {kUnsupported} for forms, schemes and format versions that are
/// not implemented, {kCorruptFile} / {kBadInput} for an invalid file.
PlanSpec parse_plan(const std::string& text_or_path);
/// A plan embedded in another document, e.g. qalof.json; where names its place.
PlanSpec plan_from_json(const Json& json, const std::string& where);
/// Always in the form of a plan file; a flat map is written out as modules and a default.
Json to_json(const PlanSpec& spec);

/// A resolved plan: one entry per linear and per layer and head.
struct PrecisionPlan {
  std::vector<Precision> linears;           // [linear]
  std::vector<std::vector<BitWidth>> k, v;  // [layer][kv head]
  BitWidth default_width;                   // the default's weight width
  std::optional<int> head;                  // explicit head width
  QuantScheme scheme;                       // of all integer weights
  friend bool operator==(const PrecisionPlan&, const PrecisionPlan&) = default;

  /// The width whose head this plan uses: the explicit head, else the default's width if a linear
  /// has it, else the width that carries most weights.
  BitWidth head_width(const PlanTarget& target) const;
  /// Mean weight bits over the linears, scales not counted.
  double mean_weight_bits(const PlanTarget& target) const;
  double mean_activation_bits(const PlanTarget& target) const;
};

/// Resolves names to linears; names with and without "transformer." or "model." are equal.
/// Error{kBadInput} for a rule or module that matches nothing (naming the nearest module), a layer
/// that the model lacks, or a list without exactly one width per key/value head.
PrecisionPlan resolve(const PlanSpec& spec, const PlanTarget& target);

/// Effective precision in words: "w8a8kv8" when uniform, else e.g. "mixed (w4a4 x14, w8a8 x34;
/// kv8), 7.00 weight bits"; schemes other than seed are appended: "w4a8kv8, scheme g64".
std::string describe(const PrecisionPlan& plan, const PlanTarget& target);

/// name without a leading "transformer." or "model.".
std::string_view without_model_prefix(std::string_view name);

/// The width with the largest amount, on ties the higher width; 32 where amounts is empty. Keys are
/// bits.
BitWidth most_frequent_width(const std::map<int, std::size_t>& amounts);

/// The known name nearest to name by edit distance, or "" where known is empty.
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);

}  // namespace qalof::quant
