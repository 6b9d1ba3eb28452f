// Groups linears, K and V into units by granularity, and splits weights from activations.
#include "app/sensitivity/units.h"

#include <algorithm>

#include "core/error.h"

namespace qalof::app {

namespace {

bool is_attention(model::LinearRole role) {
  switch (role) {
    case model::LinearRole::kQkv:
    case model::LinearRole::kQ:
    case model::LinearRole::kK:
    case model::LinearRole::kV:
    case model::LinearRole::kAttentionOut:
      return true;
    case model::LinearRole::kGateUp:
    case model::LinearRole::kGate:
    case model::LinearRole::kUp:
    case model::LinearRole::kDown:
      break;
  }
  return false;
}

// "attn" for "h.0.attn.c_attn".
std::string half_kind(const model::LinearSpec& spec) {
  const std::string name = spec.name_in_layer();
  return name.substr(0, name.find('.'));
}
// "h.0" for "h.0.attn.c_attn".
std::string block_name(const model::LinearSpec& spec) {
  return spec.name.substr(0, spec.name.find('.', spec.name.find('.') + 1));
}

// The unit with a name; appended where it is new.
SensitivityUnit& unit_named(std::vector<SensitivityUnit>& units, const std::string& name,
                            const std::string& kind, std::optional<std::size_t> block) {
  const auto known = std::find_if(units.begin(), units.end(),
                                  [&](const SensitivityUnit& unit) { return unit.name == name; });
  if (known != units.end()) return *known;
  SensitivityUnit& unit = units.emplace_back();
  unit.name = name;
  unit.kind = kind;
  unit.block = block;
  unit.first_layer = block.value_or(0);
  return unit;
}

void add_kv_head_units(const weights::BaseModel& base, std::vector<SensitivityUnit>& units) {
  for (std::size_t layer = 0; layer < base.config().num_layers; ++layer) {
    const std::string block = block_name(base.linears()[base.layers()[layer].attention_out]);
    for (const bool is_value : {false, true}) {
      for (std::size_t head = 0; head < base.target().num_kv_heads; ++head) {
        const std::string kind = is_value ? "v" : "k";
        SensitivityUnit& unit =
            unit_named(units, fmt::format("{}.{}.{}", block, kind, head), kind, layer);
        unit.part = Part::kKv;
        unit.kv_layers = {layer};
        unit.is_value = is_value;
        unit.kv_head = head;
      }
    }
  }
}

void add_kv_units(const weights::BaseModel& base, bool over_all,
                  std::vector<SensitivityUnit>& units) {
  for (std::size_t layer = 0; layer < base.config().num_layers; ++layer) {
    const std::string block = block_name(base.linears()[base.layers()[layer].attention_out]);
    for (const bool is_value : {false, true}) {
      const std::string kind = is_value ? "v" : "k";
      SensitivityUnit& unit =
          over_all ? unit_named(units, kind, kind, std::nullopt)
                   : unit_named(units, fmt::format("{}.{}", block, kind), kind, layer);
      unit.part = Part::kKv;
      unit.kv_layers.push_back(layer);
      unit.is_value = is_value;
    }
  }
}

}  // namespace

Granularity parse_granularity(const std::string& text) {
  for (const Granularity granularity :
       {Granularity::kSublayer, Granularity::kLayer, Granularity::kBlock, Granularity::kKind}) {
    if (text == to_string(granularity)) return granularity;
  }
  fail(ErrorKind::kUsage, "--granularity: found {}, expected sublayer, layer, block or kind", text);
}

std::string to_string(Granularity granularity) {
  switch (granularity) {
    case Granularity::kSublayer:
      return "sublayer";
    case Granularity::kLayer:
      return "layer";
    case Granularity::kBlock:
      return "block";
    case Granularity::kKind:
      break;
  }
  return "kind";
}

std::string to_string(Part part) {
  switch (part) {
    case Part::kBoth:
      return "both";
    case Part::kWeights:
      return "weights";
    case Part::kActivations:
      return "activations";
    case Part::kKv:
      break;
  }
  return "kv";
}

std::vector<SensitivityUnit> sensitivity_units(const weights::BaseModel& base,
                                               const UnitOptions& options) {
  std::vector<SensitivityUnit> units;
  // kKind: the types come first, then all attention and all MLP, then everything.
  std::vector<SensitivityUnit> halves, whole;
  const auto add = [&](SensitivityUnit& unit, std::size_t linear) {
    const model::LinearSpec& spec = base.linears()[linear];
    unit.linears.push_back(linear);
    unit.parameters += spec.in * spec.out;
  };
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    const model::LinearSpec& spec = base.linears()[i];
    const std::string type = spec.name_in_layer(), half = half_kind(spec);
    const std::string block = block_name(spec);
    switch (options.granularity) {
      case Granularity::kSublayer:
        add(unit_named(units, spec.name, type, spec.layer), i);
        break;
      case Granularity::kLayer:
        add(unit_named(units, block + "." + half, half, spec.layer), i);
        break;
      case Granularity::kBlock:
        add(unit_named(units, block, "block", spec.layer), i);
        break;
      case Granularity::kKind:
        add(unit_named(units, type, type, std::nullopt), i);
        add(unit_named(halves, half, is_attention(spec.role) ? "attention" : "mlp", std::nullopt),
            i);
        add(unit_named(whole, "all", "all", std::nullopt), i);
        break;
    }
  }
  units.insert(units.end(), halves.begin(), halves.end());
  units.insert(units.end(), whole.begin(), whole.end());
  if (options.split) {
    std::vector<SensitivityUnit> parts;
    for (const SensitivityUnit& unit : units) {
      for (const Part part : {Part::kWeights, Part::kActivations})
        parts.emplace_back(unit).part = part;
    }
    units = std::move(parts);
  }
  if (options.kv_heads) {
    QALOF_CHECK(options.granularity != Granularity::kKind, ErrorKind::kUsage,
                "--kv_heads: --granularity kind has no heads of its own, expected --kv");
    add_kv_head_units(base, units);
    return units;
  }
  if (options.kv) add_kv_units(base, options.granularity == Granularity::kKind, units);
  return units;
}

}  // namespace qalof::app
