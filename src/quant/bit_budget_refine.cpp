// Refines plans by measuring them as a whole, which includes the interactions between units that
// single costs leave out.
#include <algorithm>
#include <optional>
#include <set>

#include "core/error.h"
#include "quant/bit_budget.h"

namespace qalof::quant {

namespace {

// A change of one unit's choice, or of two units' choices.
struct Move {
  double promise = 0;  // change of the sum of single costs
  std::size_t unit = 0, choice = 0;
  std::size_t other_unit = 0, other_choice = 0;  // equal to unit, choice: one unit only
};

std::vector<Move> moves_within(std::span<const BudgetUnit> units,
                               std::span<const std::size_t> choices, std::uint64_t max_size) {
  struct Single {
    std::size_t unit, choice;
    std::int64_t size;
    double cost;
  };
  std::vector<Single> singles;
  for (std::size_t u = 0; u < units.size(); ++u) {
    const BudgetChoice& now = units[u].choices[choices[u]];
    for (std::size_t c = 0; c < units[u].choices.size(); ++c) {
      if (c == choices[u]) continue;
      const BudgetChoice& then = units[u].choices[c];
      singles.push_back(
          {u, c, static_cast<std::int64_t>(then.size - now.size), then.cost - now.cost});
    }
  }
  const auto room = static_cast<std::int64_t>(max_size - sum_of(units, choices).size);
  std::vector<Move> moves;
  for (std::size_t i = 0; i < singles.size(); ++i) {
    const Single& a = singles[i];
    if (a.size <= room) moves.push_back({a.cost, a.unit, a.choice, a.unit, a.choice});
    for (std::size_t j = i + 1; j < singles.size(); ++j) {
      const Single& b = singles[j];
      // Only trades: two changes that both grow or both shrink are reached as two single moves.
      const bool trades = (a.size < 0) != (b.size < 0);
      if (a.unit == b.unit || !trades || a.size + b.size > room) continue;
      moves.push_back({a.cost + b.cost, a.unit, a.choice, b.unit, b.choice});
    }
  }
  std::stable_sort(moves.begin(), moves.end(),
                   [](const Move& a, const Move& b) { return a.promise < b.promise; });
  return moves;
}

struct RangePlan {
  std::vector<std::size_t> choices;
  bool is_last = false;  // last point of its front: a larger size would not help
};

// The cheapest plan by single costs with widths low .. high only; nullopt where a unit has no such
// width or every plan is too large.
std::optional<RangePlan> plan_of_range(std::span<const BudgetUnit> units, int low, int high,
                                       std::uint64_t max_size) {
  std::vector<BudgetUnit> narrowed(units.begin(), units.end());
  std::vector<std::vector<std::size_t>> originals(units.size());  // [unit][choice of narrowed]
  for (std::size_t u = 0; u < units.size(); ++u) {
    narrowed[u].choices.clear();
    for (std::size_t c = 0; c < units[u].choices.size(); ++c) {
      const BudgetChoice& choice = units[u].choices[c];
      if (choice.bits < low || choice.bits > high) continue;
      originals[u].push_back(c);
      narrowed[u].choices.push_back(choice);
    }
    if (originals[u].empty()) return std::nullopt;
  }
  const BudgetFront front(narrowed);
  const auto point = front.within_size(max_size);
  if (!point) return std::nullopt;
  RangePlan found{front.choices(*point), *point + 1 == front.points().size()};
  for (std::size_t u = 0; u < units.size(); ++u) found.choices[u] = originals[u][found.choices[u]];
  return found;
}

}  // namespace

std::vector<std::vector<std::size_t>> starting_plans(std::span<const BudgetUnit> units,
                                                     std::uint64_t max_size) {
  std::set<int> known;
  for (const BudgetUnit& unit : units)
    for (const BudgetChoice& choice : unit.choices) known.insert(choice.bits);
  const std::vector<int> widths(known.begin(), known.end());
  std::vector<std::vector<std::size_t>> plans;
  const auto add = [&](const std::vector<std::size_t>& plan) {
    if (std::find(plans.begin(), plans.end(), plan) == plans.end()) plans.push_back(plan);
  };
  for (std::size_t count = widths.size(); count > 1; --count) {
    for (std::size_t first = 0; first + count <= widths.size(); ++first) {
      const std::size_t last = first + count - 1;
      const auto found = plan_of_range(units, widths[first], widths[last], max_size);
      // If a larger size would not help this range, a range that extends further up is as good or
      // better.
      if (found && (last + 1 == widths.size() || !found->is_last)) add(found->choices);
    }
  }
  for (auto width = widths.rbegin(); width != widths.rend(); ++width) {
    const auto found = plan_of_range(units, *width, *width, max_size);
    if (!found) continue;
    add(found->choices);
    break;
  }
  return plans;
}

RefinedPlan refine_within_size(std::span<const BudgetUnit> units,
                               std::span<const std::vector<std::size_t>> starts,
                               std::uint64_t max_size, int max_measurements,
                               const MeasurePlan& measure) {
  QALOF_CHECK(!starts.empty(), ErrorKind::kInternal, "bit budget: no plan to refine");
  RefinedPlan best;
  std::set<std::vector<std::size_t>> measured;
  for (const std::vector<std::size_t>& start : starts) {
    const std::uint64_t size = sum_of(units, start).size;
    QALOF_CHECK(size <= max_size, ErrorKind::kInternal,
                "bit budget: the plan to refine has size {}, expected at most {}", size, max_size);
    if (best.measurements > 0 && best.measurements >= max_measurements) break;
    if (!measured.insert(start).second) continue;
    const double cost = measure(start);
    const bool is_first = best.measurements++ == 0;
    if (is_first) best.first_cost = cost;
    if (!is_first && !(cost < best.point.cost)) continue;
    best.choices = start;
    best.point = {size, cost};
    if (!is_first) ++best.moves;
  }
  bool improved = true;
  while (improved) {
    improved = false;
    for (const Move& move : moves_within(units, best.choices, max_size)) {
      if (best.measurements >= max_measurements) return best;
      std::vector<std::size_t> next = best.choices;
      next[move.unit] = move.choice;
      next[move.other_unit] = move.other_choice;
      if (!measured.insert(next).second) continue;
      const double cost = measure(next);
      ++best.measurements;
      if (!(cost < best.point.cost)) continue;
      best.point = {sum_of(units, next).size, cost};
      best.choices = std::move(next);
      ++best.moves;
      improved = true;
      break;
    }
  }
  return best;
}

RefinedPlan refine_within_cost(std::span<const BudgetUnit> units, const BudgetFront& front,
                               double max_cost, int max_measurements, const MeasurePlan& measure) {
  RefinedPlan best;
  for (const BudgetUnit& unit : units) {
    const auto highest = std::max_element(
        unit.choices.begin(), unit.choices.end(),
        [](const BudgetChoice& a, const BudgetChoice& b) { return a.bits < b.bits; });
    best.choices.push_back(static_cast<std::size_t>(highest - unit.choices.begin()));
  }
  best.point = {sum_of(units, best.choices).size, 0};
  // Points below low cost too much, points from high on are good enough.
  std::size_t low = 0, high = front.points().size();
  std::size_t probe = front.within_cost(max_cost).value_or(high - 1);
  while (low < high && best.measurements < max_measurements) {
    const std::vector<std::size_t> choices = front.choices(probe);
    const double cost = measure(choices);
    if (best.measurements++ == 0) best.first_cost = cost;
    if (cost <= max_cost) {
      best.choices = choices;
      best.point = {front.points()[probe].size, cost};
      ++best.moves;
      high = probe;
    } else {
      low = probe + 1;
    }
    probe = low + (high - low) / 2;
  }
  return best;
}

}  // namespace qalof::quant
