// Rotary positions: reads them from config.json, old and new forms, and computes frequencies.
//
// Frequencies are computed as transformers computes them, rounded to f32 after the same steps,
// since a large position multiplies the difference of a last bit.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "model/config_values.h"
#include "model/families.h"

namespace qalof::model {

namespace {

constexpr float kMaxTheta = 1e12F;
constexpr double kTurn = 6.283185307179586;  // 2 pi

// One object of rope parameters, with the values of the file around it.
struct RotaryReader {
  const Json& file;
  const Json& values;  // an object; empty where there is none
  const DecoderTraits& traits;
  std::string where;
  std::size_t head_dim, max_positions;

  float number(const char* key, float fallback, float max = 1e6F) const {
    return read_float(values, key, fallback, max, where);
  }
  void need(std::initializer_list<const char*> keys) const {
    for (const char* key : keys) {
      QALOF_CHECK(!present_key(values, key, nullptr).empty(), ErrorKind::kBadInput,
                  "{}: {} is missing", where, key);
    }
  }
  // A value beside the object counts more than one in it, as in transformers.
  std::size_t original_positions() const {
    constexpr const char* kKey = "original_max_position_embeddings";
    if (!present_key(file, kKey, nullptr).empty())
      return read_size(file, kKey, nullptr, 1, kMaxPositions, where);
    const std::size_t fallback =
        traits.original_positions != 0 ? traits.original_positions : max_positions;
    if (traits.original_positions != 0) return fallback;
    return read_size(values, kKey, nullptr, fallback, kMaxPositions, where);
  }
};

void read_dims(const RotaryReader& reader, RotaryPositions& rotary) {
  const Json& from = present_key(reader.values, "partial_rotary_factor", nullptr).empty()
                         ? reader.file
                         : reader.values;
  const double part = present_key(from, "partial_rotary_factor", nullptr).empty()
                          ? 1.0
                          : json_number(from, "partial_rotary_factor", reader.where);
  QALOF_CHECK(part == 1.0 || reader.traits.is_partly_rotary, ErrorKind::kUnsupported,
              "{}: partial_rotary_factor is {}, implemented is 1", reader.where, part);
  QALOF_CHECK(part > 0 && part <= 1, ErrorKind::kBadInput,
              "{}: partial_rotary_factor is {}, expected more than 0 and at most 1", reader.where,
              part);
  rotary.dims = static_cast<std::size_t>(static_cast<double>(reader.head_dim) * part);
  QALOF_CHECK(rotary.dims > 0, ErrorKind::kBadInput,
              "{}: partial_rotary_factor {} of a head of {} numbers leaves none", reader.where,
              part, reader.head_dim);
  QALOF_CHECK(rotary.dims < reader.head_dim || reader.head_dim % 2 == 0, ErrorKind::kBadInput,
              "{}: heads have {} numbers each, rotary positions need an even number", reader.where,
              reader.head_dim);
}

void read_by_wavelength(const RotaryReader& reader, RotaryPositions& rotary) {
  reader.need({"low_freq_factor", "high_freq_factor"});
  RotaryPositions::ByWavelength bounds;
  bounds.low = reader.number("low_freq_factor", bounds.low);
  bounds.high = reader.number("high_freq_factor", bounds.high);
  bounds.original_positions = reader.original_positions();
  QALOF_CHECK(bounds.low < bounds.high, ErrorKind::kBadInput,
              "{}: low_freq_factor is {}, expected below high_freq_factor {}", reader.where,
              bounds.low, bounds.high);
  rotary.by_wavelength = bounds;
}

double magnitude(double factor, double scale) {
  return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
}

void read_yarn(const RotaryReader& reader, RotaryPositions& rotary) {
  RotaryPositions::Yarn yarn;
  yarn.fast = reader.number("beta_fast", yarn.fast);
  yarn.slow = reader.number("beta_slow", yarn.slow);
  yarn.original_positions = reader.original_positions();
  QALOF_CHECK(rotary.theta > 1, ErrorKind::kBadInput,
              "{}: rope_theta is {}, yarn needs more than 1", reader.where, rotary.theta);
  yarn.truncates = read_bool(reader.values, "truncate", true, reader.where);
  rotary.yarn = yarn;
  const auto factor = static_cast<double>(rotary.factor);
  // As in transformers, 0 counts as absent, and one without the other does not count.
  const auto scale_of = [&](const char* key) {
    const bool is_given = !present_key(reader.values, key, nullptr).empty();
    return is_given ? json_number(reader.values, key, reader.where) : 0.0;
  };
  const double scale = scale_of("mscale"), all = scale_of("mscale_all_dim");
  rotary.table_scale = scale != 0 && all != 0 ? magnitude(factor, scale) / magnitude(factor, all)
                                              : magnitude(factor, 1);
  QALOF_CHECK(rotary.table_scale > 0 && std::isfinite(rotary.table_scale), ErrorKind::kBadInput,
              "{}: mscale {} and mscale_all_dim {} give no factor above 0", reader.where, scale,
              all);
}

void read_by_length(const RotaryReader& reader, RotaryPositions& rotary) {
  reader.need({"short_factor", "long_factor"});
  RotaryPositions::ByLength by_length;
  by_length.original_positions = reader.original_positions();
  const std::size_t pairs = rotary_pairs(rotary, reader.head_dim);
  for (const auto& [key, factors] : {std::pair{"short_factor", &by_length.short_factors},
                                     std::pair{"long_factor", &by_length.long_factors}}) {
    const Json& list = reader.values[key];
    QALOF_CHECK(list.is_array() && list.size() == pairs, ErrorKind::kBadInput,
                "{}: {} is no list of {} numbers", reader.where, key, pairs);
    for (const Json& factor : list)
      factors->push_back(read_float({{key, factor}}, key, 1.0F, 1e6F, reader.where));
  }
  const auto original = static_cast<double>(by_length.original_positions);
  const double factor = present_key(reader.values, "factor", nullptr).empty()
                            ? static_cast<double>(reader.max_positions) / original
                            : static_cast<double>(reader.number("factor", 1.0F));
  if (factor > 1) {
    QALOF_CHECK(original > 1, ErrorKind::kBadInput,
                "{}: original_max_position_embeddings is 1, expected more", reader.where);
    rotary.table_scale = std::sqrt(1 + std::log(factor) / std::log(original));
  }
  rotary.factor = 1;
  rotary.by_length = std::move(by_length);
}

RotaryPositions read_positions(const RotaryReader& reader, float theta) {
  RotaryPositions rotary;
  rotary.theta = reader.number("rope_theta", theta, kMaxTheta);
  read_dims(reader, rotary);
  const std::string key = present_key(reader.values, "rope_type", "type");
  std::string type = key.empty() ? "default" : json_string(reader.values, key, reader.where);
  if (type == "default") return rotary;
  if (reader.traits.is_longrope_alone) {
    if (type == "su" || type == "yarn") type = "longrope";
    QALOF_CHECK(type == "longrope", ErrorKind::kUnsupported,
                "{}: {} is {:.40}, implemented are default and longrope", reader.where, key, type);
  }
  constexpr std::array kTypes = {"linear", "dynamic", "llama3", "yarn", "longrope"};
  QALOF_CHECK(std::find(kTypes.begin(), kTypes.end(), type) != kTypes.end(),
              ErrorKind::kUnsupported, "{}: {} is {:.40}, implemented are default, {}",
              reader.where, key, type, fmt::join(kTypes, ", "));
  if (type == "longrope") {
    read_by_length(reader, rotary);
  } else {
    reader.need({"factor"});
    rotary.factor = reader.number("factor", 1.0F);
  }
  if (type == "llama3") read_by_wavelength(reader, rotary);
  if (type == "yarn") read_yarn(reader, rotary);
  if (type == "dynamic") {
    QALOF_CHECK(rotary.dims > 2, ErrorKind::kBadInput,
                "{}: dynamic scaling of {} numbers a head, expected more than 2", reader.where,
                rotary.dims);
    rotary.grows_beyond = reader.max_positions;
  }
  const bool has_factor = !present_key(reader.values, "attention_factor", nullptr).empty();
  if (has_factor && (rotary.yarn || rotary.by_length))
    rotary.table_scale = static_cast<double>(reader.number("attention_factor", 1.0F));
  return rotary;
}

}  // namespace

void read_rotary(const Json& json, const DecoderTraits& traits, const std::string& where,
                 ModelConfig& config) {
  static const Json kNothing = Json::object();
  const std::string key = present_key(json, "rope_parameters", "rope_scaling");
  const Json& given = key.empty() ? kNothing : json[key];
  const std::string inside = key.empty() ? where : where + ": " + key;
  QALOF_CHECK(given.is_object(), ErrorKind::kBadInput, "{}: found {}, expected an object", inside,
              given.type_name());
  const float theta = read_float(json, "rope_theta", traits.theta, kMaxTheta, where);
  const auto read = [&](const Json& values, float default_theta, const std::string& place) {
    return read_positions({json, values, traits, place, config.head_dim(), config.max_positions},
                          default_theta);
  };
  const auto nested = [&](const char* type) -> const Json& {
    if (present_key(given, type, nullptr).empty()) return kNothing;
    QALOF_CHECK(given[type].is_object(), ErrorKind::kBadInput,
                "{}: {}: found {}, expected an object", inside, type, given[type].type_name());
    return given[type];
  };
  const bool is_nested = given.contains("full_attention") || given.contains("sliding_attention");
  if (traits.sliding_theta == 0) {
    QALOF_CHECK(!is_nested, ErrorKind::kUnsupported,
                "{}: has values per layer type, implemented for {} is one set", inside,
                config.model_type);
    config.rotary = read(given, theta, inside);
    return;
  }
  QALOF_CHECK(is_nested || key != "rope_parameters" || given.empty(), ErrorKind::kBadInput,
              "{}: full_attention and sliding_attention are missing", inside);
  const float sliding =
      read_float(json, "rope_local_base_freq", traits.sliding_theta, kMaxTheta, where);
  // Older files scale the layers without a window alone.
  config.rotary = read(is_nested ? nested("full_attention") : given, theta, inside);
  config.sliding_rotary = read(is_nested ? nested("sliding_attention") : kNothing, sliding, inside);
}

std::size_t RotaryPositions::scaling_length(std::size_t length) const {
  if (by_length)
    return length > by_length->original_positions ? by_length->original_positions + 1 : 0;
  return grows_beyond != 0 && length > grows_beyond ? length : 0;
}

std::size_t ModelConfig::scaling_length(std::size_t length) const {
  // Neither falls as length grows, so their sum tells all cases apart.
  return (rotary ? rotary->scaling_length(length) : 0) +
         (sliding_rotary ? sliding_rotary->scaling_length(length) : 0);
}

std::size_t rotary_pairs(const RotaryPositions& rotary, std::size_t head_dim) {
  return ((rotary.dims == 0 ? head_dim : rotary.dims) + 1) / 2;
}

namespace {

// Llama 3's scaling of one frequency.
float scaled_by_wavelength(float frequency, float factor,
                           const RotaryPositions::ByWavelength& bounds) {
  const auto positions = static_cast<float>(bounds.original_positions);
  const float wave = static_cast<float>(kTurn) / frequency;
  if (wave < positions / bounds.high) return frequency;
  if (wave > positions / bounds.low) return frequency / factor;
  const float kept = (positions / wave - bounds.low) / (bounds.high - bounds.low);
  return (1.0F - kept) * frequency / factor + kept * frequency;
}

// The share of a pair's own frequency in YaRN, the rest being its slowed form.
class YarnShare {
 public:
  YarnShare(const RotaryPositions& rotary, std::size_t dims) {
    const RotaryPositions::Yarn& yarn = *rotary.yarn;
    // The pair that turns so many times in the original positions.
    const auto pair_of = [&](float turns) {
      return static_cast<double>(dims) *
             std::log(static_cast<double>(yarn.original_positions) /
                      (static_cast<double>(turns) * kTurn)) /
             (2 * std::log(static_cast<double>(rotary.theta)));
    };
    double low = pair_of(yarn.fast), high = pair_of(yarn.slow);
    if (yarn.truncates) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low_ = std::max(low, 0.0);
    high_ = std::min(high, static_cast<double>(dims) - 1);
    if (low_ == high_) high_ += 0.001;
  }
  float of(std::size_t pair) const {
    const float ramp =
        (static_cast<float>(pair) - static_cast<float>(low_)) / static_cast<float>(high_ - low_);
    return 1.0F - std::clamp(ramp, 0.0F, 1.0F);
  }

 private:
  double low_, high_;
};

float theta_at(const RotaryPositions& rotary, std::size_t dims, std::size_t length) {
  if (rotary.grows_beyond == 0 || length <= rotary.grows_beyond) return rotary.theta;
  const float ratio =
      rotary.factor * static_cast<float>(length) / static_cast<float>(rotary.grows_beyond) -
      (rotary.factor - 1.0F);
  const double exponent = static_cast<double>(dims) / (static_cast<double>(dims) - 2);
  return rotary.theta * static_cast<float>(std::pow(static_cast<double>(ratio), exponent));
}

}  // namespace

std::vector<float> rotary_frequencies(const RotaryPositions& rotary, std::size_t head_dim,
                                      std::size_t length) {
  const std::size_t dims = rotary.dims == 0 ? head_dim : rotary.dims;
  const auto theta = static_cast<double>(theta_at(rotary, dims, length));
  std::vector<float> frequencies(rotary_pairs(rotary, head_dim));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dims);
    const auto period = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    float& frequency = frequencies[i];
    if (rotary.by_length) {
      const bool is_long = length > rotary.by_length->original_positions;
      const auto& factors =
          is_long ? rotary.by_length->long_factors : rotary.by_length->short_factors;
      frequency = 1.0F / (factors[i] * period);
      continue;
    }
    frequency = 1.0F / period;
    if (rotary.by_wavelength) {
      frequency = scaled_by_wavelength(frequency, rotary.factor, *rotary.by_wavelength);
    } else if (rotary.yarn) {
      const float share = YarnShare(rotary, dims).of(i);
      frequency = 1.0F / (rotary.factor * period) * (1.0F - share) + frequency * share;
    } else if (rotary.grows_beyond == 0) {
      frequency /= rotary.factor;
    }
  }
  return frequencies;
}

std::vector<float> rotary_frequencies(const ModelConfig& config) {
  return rotary_frequencies(config.rotary.value(), config.head_dim());
}

}  // namespace qalof::model
