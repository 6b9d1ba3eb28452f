// Resolves plans against a model's linears, and describes resolved plans in words. Reading and
// writing plans is plan_file.cpp.
#include "quant/plan.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/name_pattern.h"

namespace qalof::quant {

namespace {

std::vector<BitWidth> per_head(const std::vector<BitWidth>& widths, std::size_t heads,
                               const std::string& where) {
  QALOF_CHECK(widths.size() == 1 || widths.size() == heads, ErrorKind::kBadInput,
              "{}: {} widths, the model has {} key/value heads", where, widths.size(), heads);
  return widths.size() == heads ? widths : std::vector<BitWidth>(heads, widths.front());
}

std::size_t total_weights(const PlanTarget& target) {
  std::size_t total = 0;
  for (const std::size_t weights : target.linear_weights) total += weights;
  return total;
}

template <typename Bits>
double mean_bits(const PrecisionPlan& plan, const PlanTarget& target, Bits bits) {
  double sum = 0;
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    sum +=
        static_cast<double>(bits(plan.linears[i])) * static_cast<double>(target.linear_weights[i]);
  }
  const std::size_t total = total_weights(target);
  return total == 0 ? 0 : sum / static_cast<double>(total);
}

// Words for K and V: "kv8", "k8v4" or "kv mixed".
std::string describe_kv(const PrecisionPlan& plan) {
  if (plan.k.empty() || plan.k.front().empty()) return "no kv";
  const BitWidth k = plan.k.front().front(), v = plan.v.front().front();
  auto all = [](const std::vector<std::vector<BitWidth>>& layers, BitWidth width) {
    return std::all_of(layers.begin(), layers.end(), [&](const std::vector<BitWidth>& heads) {
      return std::all_of(heads.begin(), heads.end(), [&](BitWidth head) { return head == width; });
    });
  };
  if (!all(plan.k, k) || !all(plan.v, v)) return "kv mixed";
  return k == v ? fmt::format("kv{}", k.bits) : fmt::format("k{}v{}", k.bits, v.bits);
}

// A pattern reduced to the module name it seems to mean, for finding the nearest one.
std::string name_like(std::string_view pattern) {
  std::string name;
  for (const char c : pattern) {
    if (c != '\\' && c != '^' && c != '$') name += c;
  }
  return std::string(without_model_prefix(name));
}

void apply_rule(const PlanSpec::Rule& rule, const std::string& source, const PlanTarget& target,
                std::vector<Precision>* linears) {
  const NamePattern pattern(rule.match, source);
  bool matched = false;
  for (std::size_t i = 0; i < target.linear_names.size(); ++i) {
    if (!pattern.matches(target.linear_names[i])) continue;
    (*linears)[i] = rule.set;
    matched = true;
  }
  QALOF_CHECK(matched, ErrorKind::kBadInput,
              "{}: rule \"{:.80}\" matches no module (names stand without transformer. or model.), "
              "nearest module {}",
              source, rule.match, nearest_name(name_like(rule.match), target.linear_names));
}

void apply_modules(const PlanSpec& spec, const PlanTarget& target,
                   std::vector<Precision>* linears) {
  std::map<std::string_view, std::size_t> find_index;
  for (std::size_t i = 0; i < target.linear_names.size(); ++i)
    find_index[target.linear_names[i]] = i;
  std::set<std::size_t> named;
  for (const auto& [name, precision] : spec.modules) {
    const std::string_view plain = without_model_prefix(name);
    const auto it = find_index.find(plain);
    QALOF_CHECK(it != find_index.end(), ErrorKind::kBadInput,
                "{}: module {:.80} is not in this model, nearest module {}", spec.source, name,
                nearest_name(plain, target.linear_names));
    (*linears)[it->second] = precision;
    named.insert(it->second);
  }
  if (!spec.covers_every_module) return;
  for (std::size_t i = 0; i < target.linear_names.size(); ++i) {
    QALOF_CHECK(named.contains(i), ErrorKind::kBadInput,
                "{}: module {} has no width ({} of {} modules are named); a flat plan names all",
                spec.source, target.linear_names[i], named.size(), target.linear_names.size());
  }
}

}  // namespace

PrecisionPlan resolve(const PlanSpec& spec, const PlanTarget& target) {
  PrecisionPlan plan;
  plan.default_width = spec.default_precision.linear.weight;
  plan.head = spec.head;
  plan.scheme = spec.scheme.value_or(QuantScheme{});
  plan.linears.assign(target.linear_names.size(), spec.default_precision.linear);
  for (const PlanSpec::Rule& rule : spec.rules) {
    apply_rule(rule, spec.source, target, &plan.linears);
  }
  apply_modules(spec, target, &plan.linears);
  plan.k.assign(target.num_layers,
                std::vector<BitWidth>(target.num_kv_heads, spec.default_precision.k));
  plan.v.assign(target.num_layers,
                std::vector<BitWidth>(target.num_kv_heads, spec.default_precision.v));
  for (const auto& [layer, bits] : spec.kv) {
    const std::string where = fmt::format("{}: kv[\"{}\"]", spec.source, layer);
    QALOF_CHECK(layer < target.num_layers, ErrorKind::kBadInput,
                "{}: the model has {} layers, numbered from 0", where, target.num_layers);
    if (!bits.k.empty()) plan.k[layer] = per_head(bits.k, target.num_kv_heads, where + ".k");
    if (!bits.v.empty()) plan.v[layer] = per_head(bits.v, target.num_kv_heads, where + ".v");
  }
  for (std::size_t i = 0; i < plan.linears.size(); ++i)
    check_scheme(plan.scheme, plan.linears[i], target.linear_names[i]);
  return plan;
}

BitWidth PrecisionPlan::head_width(const PlanTarget& target) const {
  if (head) return {*head};
  std::map<int, std::size_t> carried;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    carried[linears[i].weight.bits] += target.linear_weights[i];
  }
  if (carried.empty() || carried.contains(default_width.bits)) return default_width;
  return most_frequent_width(carried);
}

double PrecisionPlan::mean_weight_bits(const PlanTarget& target) const {
  return mean_bits(*this, target, [](Precision precision) { return precision.weight.bits; });
}

double PrecisionPlan::mean_activation_bits(const PlanTarget& target) const {
  return mean_bits(*this, target, [](Precision precision) { return precision.activation.bits; });
}

std::string describe(const PrecisionPlan& plan, const PlanTarget& target) {
  std::map<std::string, std::size_t> counts;
  for (const Precision precision : plan.linears) ++counts[to_string(precision)];
  const std::string kv = describe_kv(plan);
  const bool has_codes =
      std::any_of(plan.linears.begin(), plan.linears.end(),
                  [](Precision precision) { return precision.weight.is_integer(); });
  const std::string scheme = plan.scheme.is_minmax() || !has_codes
                                 ? ""
                                 : fmt::format(", scheme {}", to_string(plan.scheme));
  if (counts.size() == 1) {
    const bool is_phrase = kv.find(' ') != std::string::npos;
    return counts.begin()->first + (is_phrase ? " " : "") + kv + scheme;
  }
  std::vector<std::string> parts;
  parts.reserve(counts.size());
  for (const auto& [text, count] : counts) parts.push_back(fmt::format("{} x{}", text, count));
  return fmt::format("mixed ({}; {}), {:.2f} weight bits{}", fmt::join(parts, ", "), kv,
                     plan.mean_weight_bits(target), scheme);
}

std::string_view without_model_prefix(std::string_view name) {
  for (const std::string_view prefix : {"transformer.", "model."}) {
    if (name.starts_with(prefix)) return name.substr(prefix.size());
  }
  return name;
}

BitWidth most_frequent_width(const std::map<int, std::size_t>& amounts) {
  BitWidth most{32};
  std::size_t largest = 0;
  for (const auto& [bits, amount] : amounts) {
    if (amount < largest) continue;
    most = BitWidth{bits};
    largest = amount;
  }
  return most;
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& known) {
  // Bounds the time for long names from outside.
  const std::string_view text = name.substr(0, 128);
  std::string best;
  std::size_t best_distance = SIZE_MAX;
  for (const std::string& candidate : known) {
    std::vector<std::size_t> row(candidate.size() + 1);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= text.size(); ++i) {
      std::size_t diagonal = std::exchange(row[0], i);
      for (std::size_t j = 1; j < row.size(); ++j) {
        const std::size_t substituted = diagonal + (text[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
      }
    }
    // A prefix of a candidate counts as distance 1 at most, so that it beats short unrelated names.
    const bool is_beginning = text.size() >= 4 && candidate.starts_with(text);
    const std::size_t distance = is_beginning ? std::min<std::size_t>(row.back(), 1) : row.back();
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace qalof::quant
