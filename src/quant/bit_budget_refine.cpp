// Plans that are measured as a whole: interactions between units, which single costs leave out.
#include <algorithm>
#include <set>

#include "core/error.h"
#include "quant/bit_budget.h"

namespace qalof::quant {

namespace {

// One unit's other choice, or those of two units.
struct Move {
  double promise = 0;  // change of the sum of single costs
  std::size_t unit = 0, choice = 0;
  std::size_t other_unit = 0, other_choice = 0;  // the same as the first two: one unit alone
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
      // Two that both grow or both shrink are two moves of one unit.
      const bool trades = (a.size < 0) != (b.size < 0);
      if (a.unit == b.unit || !trades || a.size + b.size > room) continue;
      moves.push_back({a.cost + b.cost, a.unit, a.choice, b.unit, b.choice});
    }
  }
  std::stable_sort(moves.begin(), moves.end(),
                   [](const Move& a, const Move& b) { return a.promise < b.promise; });
  return moves;
}

}  // namespace

RefinedPlan refine_within_size(std::span<const BudgetUnit> units, std::vector<std::size_t> choices,
                               std::uint64_t max_size, int max_measurements,
                               const MeasurePlan& measure) {
  const BudgetPoint start = sum_of(units, choices);
  QALOF_CHECK(start.size <= max_size, ErrorKind::kInternal,
              "bit budget: the plan to refine has size {}, expected at most {}", start.size,
              max_size);
  RefinedPlan best;
  best.choices = std::move(choices);
  best.first_cost = measure(best.choices);
  best.point = {start.size, best.first_cost};
  best.measurements = 1;
  std::set<std::vector<std::size_t>> measured = {best.choices};
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
  // Points below low cost too much, those from high on are good enough.
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
