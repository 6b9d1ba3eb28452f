// The exact front of plans by size and cost, and lookups in it.
#include "quant/bit_budget.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace qalof::quant {

namespace {

void check_units(std::span<const BudgetUnit> units) {
  for (const BudgetUnit& unit : units) {
    QALOF_CHECK(!unit.choices.empty() && unit.choices.size() <= 256, ErrorKind::kBadInput,
                "bit budget: {}: found {} widths, expected 1..256", unit.name, unit.choices.size());
    for (const BudgetChoice& choice : unit.choices) {
      QALOF_CHECK(std::isfinite(choice.cost), ErrorKind::kBadInput,
                  "bit budget: {}: the cost of {} bits is not a finite number", unit.name,
                  choice.bits);
    }
  }
}

}  // namespace

BudgetFront::BudgetFront(std::span<const BudgetUnit> units, std::size_t max_sums) {
  check_units(units);
  points_ = {{}};
  std::size_t sums = 0;
  for (const BudgetUnit& unit : units) {
    Trace& trace = traces_.emplace_back();
    std::vector<BudgetPoint> next;
    // Each choice gives a list of sums already ordered by size, so the lists are merged.
    std::vector<std::size_t> heads(unit.choices.size(), 0);
    double best = std::numeric_limits<double>::infinity();
    for (;;) {
      std::size_t first = heads.size();
      BudgetPoint point;
      for (std::size_t c = 0; c < heads.size(); ++c) {
        if (heads[c] == points_.size()) continue;
        const BudgetPoint& before = points_[heads[c]];
        const BudgetPoint sum{before.size + unit.choices[c].size,
                              before.cost + unit.choices[c].cost};
        const bool earlier = first == heads.size() || sum.size < point.size ||
                             (sum.size == point.size && sum.cost < point.cost);
        if (!earlier) continue;
        first = c;
        point = sum;
      }
      if (first == heads.size()) break;
      const std::size_t previous = heads[first]++;
      if (point.cost >= best) {
        ++dominated_;
        continue;
      }
      QALOF_CHECK(++sums <= max_sums, ErrorKind::kUnsupported,
                  "bit budget: more than {} partial sums at {}; a coarser granularity or fewer "
                  "widths need fewer",
                  max_sums, unit.name);
      best = point.cost;
      next.push_back(point);
      trace.previous.push_back(static_cast<std::uint32_t>(previous));
      trace.choice.push_back(static_cast<std::uint8_t>(first));
    }
    points_ = std::move(next);
  }
}

std::vector<std::size_t> BudgetFront::choices(std::size_t point) const {
  std::vector<std::size_t> result(traces_.size());
  for (std::size_t u = traces_.size(); u-- > 0;) {
    result[u] = traces_[u].choice[point];
    point = traces_[u].previous[point];
  }
  return result;
}

std::optional<std::size_t> BudgetFront::within_size(std::uint64_t size) const {
  const auto above = std::upper_bound(
      points_.begin(), points_.end(), size,
      [](std::uint64_t limit, const BudgetPoint& point) { return limit < point.size; });
  if (above == points_.begin()) return std::nullopt;
  return static_cast<std::size_t>(above - points_.begin()) - 1;
}

std::optional<std::size_t> BudgetFront::within_cost(double cost) const {
  const auto first = std::find_if(points_.begin(), points_.end(),
                                  [&](const BudgetPoint& point) { return point.cost <= cost; });
  if (first == points_.end()) return std::nullopt;
  return static_cast<std::size_t>(first - points_.begin());
}

BudgetPoint sum_of(std::span<const BudgetUnit> units, std::span<const std::size_t> choices) {
  BudgetPoint sum;
  for (std::size_t u = 0; u < units.size(); ++u) {
    const BudgetChoice& choice = units[u].choices[choices[u]];
    sum.size += choice.size;
    sum.cost += choice.cost;
  }
  return sum;
}

std::vector<std::size_t> pareto_front(std::span<const BudgetPoint> points) {
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (points[a].size != points[b].size) return points[a].size < points[b].size;
    return points[a].cost < points[b].cost;
  });
  std::vector<std::size_t> front;
  for (const std::size_t index : order) {
    if (front.empty() || points[index].cost < points[front.back()].cost) front.push_back(index);
  }
  return front;
}

}  // namespace qalof::quant
