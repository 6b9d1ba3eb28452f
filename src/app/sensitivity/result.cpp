// Results of sensitivity analyses, measured or estimated: ranking, rank correlation, JSON.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "app/sensitivity/sensitivity.h"
#include "core/error.h"
#include "core/file.h"

namespace qalof::app {

namespace {

using Values = std::map<std::string, double>;  // by unit

// One number of every unit at some bits, from a sensitivity.json; units without it are left out.
Values values_of(const Json& file, int bits, const std::string& key, const std::string& where) {
  Values values;
  const auto units = file.find("units");
  QALOF_CHECK(units != file.end() && units->is_array(), ErrorKind::kBadInput,
              "{}: units: expected a list", where);
  for (const Json& unit : *units) {
    const auto costs = unit.find("costs");
    QALOF_CHECK(unit.is_object() && costs != unit.end() && costs->is_array(), ErrorKind::kBadInput,
                "{}: a unit has no list of costs", where);
    const std::string name =
        json_string(unit, "name", where) + " " + json_string(unit, "part", where);
    for (const Json& cost : *costs) {
      if (json_int(cost, "bits", where, 2, 8) != bits || !cost.contains(key)) continue;
      values[name] = json_number(cost, key, where);
    }
  }
  return values;
}

}  // namespace

std::vector<RankCorrelation> rank_correlations(const SensitivityResult& result, const Json& file,
                                               const std::string& where) {
  QALOF_CHECK(file.is_object(), ErrorKind::kBadInput, "{}: expected an object", where);
  const Json own = to_json(result);
  std::vector<RankCorrelation> found;
  std::size_t most = 0;
  for (const int bits : result.low) {
    for (const char* ours : {"score", "first_order", "kl", "delta_loss"}) {
      const Values mine = values_of(own, bits, ours, "result");
      for (const char* theirs : {"kl", "delta_loss", "delta_f1", "score"}) {
        const Values other = values_of(file, bits, theirs, where);
        std::vector<double> a, b;
        for (const auto& [name, value] : mine) {
          const auto match = other.find(name);
          if (match == other.end()) continue;
          a.push_back(value);
          // A fall in F1 is a cost.
          b.push_back(theirs == std::string("delta_f1") ? -match->second : match->second);
        }
        most = std::max(most, a.size());
        if (a.size() >= 3) found.push_back({bits, ours, theirs, a.size(), spearman(a, b)});
      }
    }
  }
  QALOF_CHECK(!found.empty(), ErrorKind::kBadInput,
              "{}: has {} of our {} units and widths, expected at least 3", where, most,
              result.units.size());
  return found;
}

SensitivityResult empty_result(const SensitivityOptions& options, const ModelHandle& handle) {
  SensitivityResult result;
  result.task = options.task;
  result.model = options.model.model;
  result.granularity = to_string(options.units.granularity);
  result.low = options.low;
  result.high = quant::to_string(quant::parse_uniform_precision(options.high));
  result.modules = handle.base->target().linear_names;
  return result;
}

void finish_result(const SensitivityOptions& options, SensitivityResult& result) {
  if (!options.against.empty())
    result.correlations =
        rank_correlations(result, read_json_file(options.against), options.against);
  if (options.output_dir.empty()) return;
  make_directories(options.output_dir);
  const std::string name = sensitivity_file(result.by);
  write_file_atomic(options.output_dir + "/" + name, dump_json(to_json(result), name, 2) + "\n");
}

std::string sensitivity_file(const std::string& by) {
  return by == "measured" ? "sensitivity.json" : fmt::format("sensitivity_{}.json", by);
}

Json to_json(const SensitivityResult& result) {
  Json units = Json::array(), correlations = Json::array();
  for (const auto& [unit, costs] : result.units) {
    Json modules = Json::array(), entries = Json::array();
    for (const std::size_t linear : unit.linears) modules.push_back(result.modules[linear]);
    for (const UnitCost& cost : costs) {
      if (cost.score) {
        Json& entry = entries.emplace_back(Json{{"bits", cost.bits}, {"score", *cost.score}});
        if (cost.first_order) entry["first_order"] = *cost.first_order;
        if (cost.mean_trace) {
          entry["mean_trace"] = *cost.mean_trace;
          entry["mean_trace_standard_error"] = *cost.mean_trace_error;
        }
        continue;
      }
      entries.push_back(
          {{"bits", cost.bits},
           {"samples", cost.samples},
           {"delta_em", cost.delta_em},
           {"delta_f1", cost.delta_f1},
           {"delta_f1_interval", {cost.delta_f1_interval.low, cost.delta_f1_interval.high}},
           {"delta_loss", cost.delta_loss},
           {"delta_loss_interval", {cost.delta_loss_interval.low, cost.delta_loss_interval.high}},
           {"kl", cost.kl}});
    }
    units.push_back({{"name", unit.name},
                     {"modules", modules},
                     {"block", unit.block ? Json(*unit.block) : Json()},
                     {"kind", unit.kind},
                     {"parameters", unit.parameters},
                     {"part", to_string(unit.part)},
                     {"costs", entries}});
    if (unit.kv_head) units.back()["head"] = *unit.kv_head;
  }
  return {
      {"format_version", 1},
      {"by", result.by},
      {"task", result.task},
      {"model", result.model},
      {"samples", result.samples},
      {"special_tokens", result.special_tokens},
      {"high",
       {{"precision", result.high}, {"em", result.em}, {"f1", result.f1}, {"loss", result.loss}}},
      {"low", result.low.size() == 1 ? Json(result.low.front()) : Json(result.low)},
      {"granularity", result.granularity},
      {"units", units}};
}

std::vector<std::size_t> sensitivity_ranking(const SensitivityResult& result) {
  std::vector<std::size_t> order(result.units.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto weight = [&](std::size_t unit) {
    const UnitCost& cost = result.units[unit].costs.front();
    return cost.score.value_or(cost.kl);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return weight(a) > weight(b); });
  return order;
}

}  // namespace qalof::app
