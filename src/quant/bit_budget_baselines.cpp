// Baseline plans for comparison with an optimized one: one width everywhere, and random widths.
#include <algorithm>

#include "core/error.h"
#include "quant/bit_budget.h"

namespace qalof::quant {

namespace {

// The choice with the next smaller or larger size; nullopt where there is none.
std::optional<std::size_t> neighbour(const BudgetUnit& unit, std::size_t choice, bool larger) {
  const std::uint64_t size = unit.choices[choice].size;
  std::optional<std::size_t> best;
  for (std::size_t c = 0; c < unit.choices.size(); ++c) {
    const std::uint64_t other = unit.choices[c].size;
    if (larger ? other <= size : other >= size) continue;
    const bool nearer =
        !best || (larger ? other < unit.choices[*best].size : other > unit.choices[*best].size);
    if (nearer) best = c;
  }
  return best;
}

}  // namespace

std::vector<std::size_t> uniform_choices(std::span<const BudgetUnit> units, int bits) {
  std::vector<std::size_t> choices;
  for (const BudgetUnit& unit : units) {
    const auto found =
        std::find_if(unit.choices.begin(), unit.choices.end(),
                     [&](const BudgetChoice& choice) { return choice.bits == bits; });
    QALOF_CHECK(found != unit.choices.end(), ErrorKind::kUsage,
                "bit budget: {}: has no width of {} bits", unit.name, bits);
    choices.push_back(static_cast<std::size_t>(found - unit.choices.begin()));
  }
  return choices;
}

std::vector<std::size_t> random_choices(std::span<const BudgetUnit> units, std::uint64_t max_size,
                                        const RandomStream& stream, std::uint64_t draw) {
  std::vector<std::size_t> choices;
  std::uint64_t index = 0;
  for (const BudgetUnit& unit : units)
    choices.push_back(stream.below(unit.choices.size(), draw, index++));
  std::uint64_t size = sum_of(units, choices).size;
  // Moves one unit, drawn among those that can move in this direction; false where none can.
  const auto move = [&](bool larger) {
    std::vector<std::pair<std::size_t, std::size_t>> moves;
    for (std::size_t u = 0; u < units.size(); ++u) {
      const auto next = neighbour(units[u], choices[u], larger);
      if (!next) continue;
      const std::uint64_t moved =
          size - units[u].choices[choices[u]].size + units[u].choices[*next].size;
      if (!larger || moved <= max_size) moves.emplace_back(u, *next);
    }
    if (moves.empty()) return false;
    const auto [unit, choice] = moves[stream.below(moves.size(), draw, index++)];
    size += units[unit].choices[choice].size;
    size -= units[unit].choices[choices[unit]].size;
    choices[unit] = choice;
    return true;
  };
  while (size > max_size) {
    QALOF_CHECK(move(/*larger=*/false), ErrorKind::kUsage,
                "bit budget: the smallest plan has size {}, expected at most {}", size, max_size);
  }
  while (move(/*larger=*/true)) {
  }
  return choices;
}

}  // namespace qalof::quant
