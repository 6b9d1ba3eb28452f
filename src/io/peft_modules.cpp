// Applies target, exclude, rank and alpha patterns to module names as peft does, with bounded
// pattern cost.
#include "io/peft_modules.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "core/error.h"
#include "core/name_pattern.h"

namespace qalof::io {

namespace {

// Steps of all patterns together, which bounds the time of matching all modules.
constexpr std::size_t kMaxPatternSteps = std::size_t{1} << 18;
// Asking for a group costs memory for every group of its pattern.
constexpr std::size_t kMaxLayersPatternBytes = 256;

// A key of rank_pattern or alpha_pattern matches the whole name or the part after any dot.
NamePattern key_pattern(const std::string& key, const std::string& where) {
  return {R"((.*\.)?()" + key + ")$", where};
}
// An entry of modules_to_save matches a module and everything inside it.
NamePattern saved_pattern(const std::string& entry, const std::string& where) {
  return {R"((^|.*\.))" + entry + R"(($|\..*))", where};
}
NamePattern layers_pattern(const std::string& entry, const std::string& where) {
  QALOF_CHECK(entry.size() <= kMaxLayersPatternBytes, ErrorKind::kUnsupported,
              "{}: a pattern of {} bytes, at most {} are read", where, entry.size(),
              kMaxLayersPatternBytes);
  return {R"((?:^|.*?\.))" + entry + R"(\.(?P<idx>\d+)\.)", where};
}

bool matches_any_suffix(const std::string& module, const std::vector<std::string>& keys) {
  return std::any_of(keys.begin(), keys.end(),
                     [&](const std::string& key) { return ends_in_name(module, key); });
}

std::optional<std::int64_t> number_of(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// The layer number of a module: by the patterns, or without any the first part of its name that is
// a number and has two parts before it.
std::optional<std::int64_t> layer_of(const std::string& name,
                                     const std::vector<NamePattern>& patterns) {
  if (patterns.empty()) {
    static const NamePattern numbered(R"(.*?\.[^.]*\.(?P<idx>\d+)\.)", "layers_pattern");
    std::string number;
    return numbered.matches_start(name, "idx", &number) ? number_of(number) : std::nullopt;
  }
  for (const NamePattern& pattern : patterns) {
    std::string number;
    if (pattern.matches_start(name, "idx", &number)) return number_of(number);
  }
  return std::nullopt;
}

// Decides whether target_modules selects a module; left_out_by names the setting that leaves it
// out, "" where it is selected.
class Targets {
 public:
  Targets(const PeftConfig& config, const std::string& where) : config_(config) {
    if (!config.target_pattern.empty())
      pattern_.emplace(config.target_pattern, where + ": target_modules");
    for (const std::string& entry : config.layers_pattern)
      layers_.push_back(layers_pattern(entry, where + ": layers_pattern"));
  }
  const char* left_out_by(const std::string& name) const {
    if (config_.all_linear) return "";
    if (pattern_) return pattern_->matches(name) ? "" : "target_modules";
    const std::vector<std::string>& names = config_.target_modules;
    if (std::find(names.begin(), names.end(), name) != names.end()) return "";
    if (!matches_any_suffix(name, names)) return "target_modules";
    const std::vector<std::int64_t>& numbers = config_.layers_to_transform;
    if (numbers.empty()) return "";
    const std::optional<std::int64_t> layer = layer_of(name, layers_);
    const bool listed = layer && std::find(numbers.begin(), numbers.end(), *layer) != numbers.end();
    return listed ? "" : "layers_to_transform";
  }

 private:
  const PeftConfig& config_;
  std::optional<NamePattern> pattern_;
  std::vector<NamePattern> layers_;
};

// Compiled patterns live for one iteration each, so that many of them do not add up in memory.
template <typename T>
void apply_values(const PatternValues<T>& values, std::span<const std::string> names,
                  const std::string& where, T PeftModule::*member,
                  std::vector<PeftModule>* modules) {
  std::vector<bool> found(names.size());
  for (const auto& [key, value] : values) {
    const NamePattern pattern = key_pattern(key, where);
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (found[i] || !pattern.matches_start(names[i])) continue;
      (*modules)[i].*member = value;
      found[i] = true;
    }
  }
}

// Limits the total steps of patterns, and separates settings with unsupported patterns from broken
// ones.
class PatternCheck {
 public:
  PatternCheck(const std::string& where, std::vector<std::string>* warnings)
      : where_(where), warnings_(warnings) {}
  void add(const NamePattern& pattern, const std::string& inner) {
    num_steps_ += pattern.size();
    QALOF_CHECK(num_steps_ <= kMaxPatternSteps, ErrorKind::kUnsupported,
                "{}: the patterns up to here have {} steps, at most {} are matched", inner,
                num_steps_, kMaxPatternSteps);
  }
  // False, with a warning, where a pattern of the setting is unsupported; other errors pass
  // through.
  template <typename Read>
  bool readable(const char* setting, const Read& read) {
    const std::string inner = fmt::format("{}: {}", where_, setting);
    try {
      read(inner);
      return true;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
      warnings_->push_back(fmt::format("{}; the tensors alone say what it is about", error.what()));
      return false;
    }
  }

 private:
  const std::string& where_;
  std::vector<std::string>* warnings_;
  std::size_t num_steps_ = 0;
};

}  // namespace

std::vector<PeftModule> peft_modules(const PeftConfig& config, std::span<const std::string> names,
                                     const std::string& where) {
  std::vector<PeftModule> modules(names.size(), PeftModule{"", config.r, config.lora_alpha});
  auto leave_out = [&](const char* setting, const auto& is_left_out) {
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (modules[i].left_out_by.empty() && is_left_out(names[i])) modules[i].left_out_by = setting;
    }
  };
  if (!config.exclude_pattern.empty()) {
    const NamePattern pattern(config.exclude_pattern, where + ": exclude_modules");
    leave_out("exclude_modules", [&](const std::string& name) { return pattern.matches(name); });
  }
  leave_out("exclude_modules", [&](const std::string& name) {
    return matches_any_suffix(name, config.exclude_modules);
  });
  for (const std::string& entry : config.modules_to_save) {
    const NamePattern pattern = saved_pattern(entry, where + ": modules_to_save");
    leave_out("modules_to_save",
              [&](const std::string& name) { return pattern.matches_start(name); });
  }
  if (config.targets_known) {
    const Targets targets(config, where);
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (modules[i].left_out_by.empty()) modules[i].left_out_by = targets.left_out_by(names[i]);
    }
  }
  apply_values(config.rank_pattern, names, where + ": rank_pattern", &PeftModule::rank, &modules);
  apply_values(config.alpha_pattern, names, where + ": alpha_pattern", &PeftModule::alpha,
               &modules);
  return modules;
}

void check_peft_patterns(PeftConfig* config, const std::string& where,
                         std::vector<std::string>* warnings) {
  PatternCheck check(where, warnings);
  auto whole = [&](const std::string& pattern) {
    return [&](const std::string& inner) {
      if (!pattern.empty()) check.add(NamePattern(pattern, inner), inner);
    };
  };
  if (!check.readable("target_modules", whole(config->target_pattern))) {
    config->target_pattern.clear();
    config->targets_known = false;
  }
  if (!check.readable("exclude_modules", whole(config->exclude_pattern))) {
    config->exclude_pattern.clear();
    config->targets_known = false;
  }
  const bool ranks_known = check.readable("rank_pattern", [&](const std::string& inner) {
    for (const auto& entry : config->rank_pattern)
      check.add(key_pattern(entry.first, inner), inner);
  });
  if (!ranks_known) {
    config->rank_pattern.clear();
    config->ranks_known = false;
  }
  std::string inner = where + ": alpha_pattern";
  for (const auto& entry : config->alpha_pattern) check.add(key_pattern(entry.first, inner), inner);
  inner = where + ": modules_to_save";
  for (const std::string& entry : config->modules_to_save)
    check.add(saved_pattern(entry, inner), inner);
  inner = where + ": layers_pattern";
  for (const std::string& entry : config->layers_pattern)
    check.add(layers_pattern(entry, inner), inner);
}

}  // namespace qalof::io
