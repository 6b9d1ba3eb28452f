// Converts sensitivity.json into budget units, and choices of units into a plan.
#include <algorithm>
#include <set>

#include "core/error.h"
#include "quant/bit_budget.h"

namespace qalof::quant {

namespace {

// The JSON key of a cost and its sign: a falling F1 is a positive cost.
struct CostKey {
  const char* key;
  double sign;
};

CostKey key_of(BudgetCost cost) {
  switch (cost) {
    case BudgetCost::kF1:
      return {"delta_f1", -1};
    case BudgetCost::kLoss:
      return {"delta_loss", 1};
    case BudgetCost::kKl:
      return {"kl", 1};
    case BudgetCost::kScore:
      break;
  }
  return {"score", 1};
}

const Json& list_in(const Json& object, const char* key, const std::string& where) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  QALOF_CHECK(found != object.end() && found->is_array(), ErrorKind::kBadInput,
              "{}: {} is missing or no list", where, key);
  return *found;
}

std::vector<std::string> modules_of(const Json& unit, const std::string& where) {
  std::vector<std::string> modules;
  for (const Json& module : list_in(unit, "modules", where)) {
    QALOF_CHECK(module.is_string(), ErrorKind::kBadInput, "{}: modules: found {}, expected names",
                where, module.type_name());
    modules.push_back(module.get<std::string>());
  }
  QALOF_CHECK(!modules.empty(), ErrorKind::kBadInput, "{}: modules is empty", where);
  return modules;
}

// Adds a choice per measured cost, and the high width at cost 0.
void add_choices(const Json& entry, const std::string& place, BudgetCost cost, int high_bits,
                 const std::function<std::uint64_t(int bits)>& size_of, BudgetUnit& unit) {
  const CostKey key = key_of(cost);
  for (const Json& measured : list_in(entry, "costs", place)) {
    const auto bits = static_cast<int>(json_int(measured, "bits", place, 2, high_bits - 1));
    const double value = std::max(0.0, key.sign * json_number(measured, key.key, place));
    unit.choices.push_back({bits, value, size_of(bits)});
  }
  unit.choices.push_back({high_bits, 0, size_of(high_bits)});
}

UniformPrecision high_of(const Json& sensitivity, const std::string& where) {
  QALOF_CHECK(sensitivity.is_object() && sensitivity.contains("high"), ErrorKind::kBadInput,
              "{}: high is missing", where);
  return parse_uniform_precision(json_string(sensitivity["high"], "precision", where + ": high"));
}

}  // namespace

BudgetCost parse_budget_cost(const std::string& text) {
  if (text == "f1") return BudgetCost::kF1;
  if (text == "loss") return BudgetCost::kLoss;
  if (text == "kl") return BudgetCost::kKl;
  if (text == "score") return BudgetCost::kScore;
  fail(ErrorKind::kUsage, "--cost: found {}, expected f1, loss, kl or score", text);
}

BudgetInput budget_input(
    const Json& sensitivity, const std::string& where, BudgetCost cost,
    const std::function<std::uint64_t(const std::string& module, int bits)>& size_of) {
  BudgetInput input;
  input.high = high_of(sensitivity, where);
  std::set<std::string> seen;
  for (const Json& entry : list_in(sensitivity, "units", where)) {
    BudgetUnit unit;
    unit.name = json_string(entry, "name", where + ": units");
    const std::string place = fmt::format("{}: units: {:.100}", where, unit.name);
    const std::string part = json_string(entry, "part", place);
    if (part != "both" && part != "weights") continue;
    unit.weights_only = part == "weights";
    unit.modules = modules_of(entry, place);
    const auto parameters =
        static_cast<std::uint64_t>(json_int(entry, "parameters", place, 1, INT64_MAX / 64));
    input.parameters += parameters;
    for (const std::string& module : unit.modules) {
      QALOF_CHECK(seen.insert(module).second, ErrorKind::kBadInput,
                  "{}: {:.100} belongs to another unit too; expected units that do not overlap "
                  "(--granularity sublayer, layer or block)",
                  place, module);
    }
    const auto size = [&](int bits) {
      if (!size_of) return parameters * static_cast<std::uint64_t>(bits);
      std::uint64_t sum = 0;
      for (const std::string& module : unit.modules) sum += size_of(module, bits);
      return sum;
    };
    add_choices(entry, place, cost, input.high.linear.weight.bits, size, unit);
    input.units.push_back(std::move(unit));
  }
  QALOF_CHECK(!input.units.empty(), ErrorKind::kBadInput, "{}: no unit has weights", where);
  return input;
}

BudgetInput kv_budget_input(const Json& sensitivity, const std::string& where, BudgetCost cost) {
  constexpr std::int64_t kMaxIndex = 1'000'000;
  BudgetInput input;
  input.high = high_of(sensitivity, where);
  for (const Json& entry : list_in(sensitivity, "units", where)) {
    BudgetUnit unit;
    unit.name = json_string(entry, "name", where + ": units");
    const std::string place = fmt::format("{}: units: {:.100}", where, unit.name);
    if (json_string(entry, "part", place) != "kv") continue;
    QALOF_CHECK(entry.contains("block") && !entry["block"].is_null(), ErrorKind::kBadInput,
                "{}: is of all layers, expected K and V of each (--granularity sublayer, layer or "
                "block)",
                place);
    BudgetKv& kv = unit.kv.emplace();
    kv.layer = static_cast<std::size_t>(json_int(entry, "block", place, 0, kMaxIndex));
    if (entry.contains("head"))
      kv.head = static_cast<std::size_t>(json_int(entry, "head", place, 0, kMaxIndex));
    kv.is_value = json_string(entry, "kind", place) == "v";
    const BitWidth high = kv.is_value ? input.high.v : input.high.k;
    add_choices(
        entry, place, cost, high.bits, [](int bits) { return static_cast<std::uint64_t>(bits); },
        unit);
    input.units.push_back(std::move(unit));
  }
  QALOF_CHECK(!input.units.empty(), ErrorKind::kBadInput,
              "{}: has no unit of K or V, expected an analysis with --kv or --kv_heads", where);
  input.parameters = input.units.size();
  return input;
}

void set_kv(const BudgetInput& input, std::span<const std::size_t> choices, PlanSpec& plan) {
  for (std::size_t u = 0; u < input.units.size(); ++u) {
    const BudgetKv& kv = input.units[u].kv.value();
    PlanSpec::LayerKv& layer = plan.kv[kv.layer];
    std::vector<BitWidth>& widths = kv.is_value ? layer.v : layer.k;
    const std::size_t head = kv.head.value_or(0);
    const BitWidth high = kv.is_value ? input.high.v : input.high.k;
    if (widths.size() <= head) widths.resize(head + 1, high);
    widths[head] = {input.units[u].choices[choices[u]].bits};
  }
}

PlanSpec budget_plan(const BudgetInput& input, std::span<const std::size_t> choices) {
  PlanSpec plan;
  plan.default_precision = input.high;
  plan.head = input.high.linear.weight.bits;  // the width at which units were measured
  for (std::size_t u = 0; u < input.units.size(); ++u) {
    const BudgetUnit& unit = input.units[u];
    const BitWidth width{unit.choices[choices[u]].bits};
    if (width == input.high.linear.weight) continue;
    const BitWidth activation = unit.weights_only ? input.high.linear.activation : width;
    for (const std::string& module : unit.modules) plan.modules[module] = {width, activation};
  }
  return plan;
}

}  // namespace qalof::quant
