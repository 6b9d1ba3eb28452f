// From sensitivity.json to units, and from choices to a plan.
#include <algorithm>
#include <set>

#include "core/error.h"
#include "quant/bit_budget.h"

namespace qalof::quant {

namespace {

// The member of a cost that is asked for, and its sign: an F1 that falls is a cost.
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
  QALOF_CHECK(sensitivity.is_object() && sensitivity.contains("high"), ErrorKind::kBadInput,
              "{}: high is missing", where);
  BudgetInput input;
  input.high =
      parse_uniform_precision(json_string(sensitivity["high"], "precision", where + ": high"));
  const int high_bits = input.high.linear.weight.bits;
  const CostKey key = key_of(cost);
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
    const auto add = [&](int bits, double value) {
      BudgetChoice choice{bits, value, 0};
      if (size_of) {
        for (const std::string& module : unit.modules) choice.size += size_of(module, bits);
      } else {
        choice.size = parameters * static_cast<std::uint64_t>(bits);
      }
      unit.choices.push_back(choice);
    };
    for (const Json& measured : list_in(entry, "costs", place)) {
      const auto bits = static_cast<int>(json_int(measured, "bits", place, 2, high_bits - 1));
      add(bits, std::max(0.0, key.sign * json_number(measured, key.key, place)));
    }
    add(high_bits, 0);
    input.units.push_back(std::move(unit));
  }
  QALOF_CHECK(!input.units.empty(), ErrorKind::kBadInput, "{}: no unit has weights", where);
  return input;
}

PlanSpec budget_plan(const BudgetInput& input, std::span<const std::size_t> choices) {
  PlanSpec plan;
  plan.default_precision = input.high;
  plan.head = input.high.linear.weight.bits;  // as units were measured
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
