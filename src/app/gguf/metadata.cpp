// Writes what a model is made of as GGUF metadata, with llama.cpp's keys.
#include "app/gguf/metadata.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/error.h"

namespace qalof::app {

namespace {

// Keys under the prefix of an architecture.
class ModelKeys {
 public:
  ModelKeys(const GgufArchitecture& architecture, io::GgufMetadata& metadata)
      : prefix_(std::string(architecture.name) + "."), metadata_(metadata) {}
  void size(const char* key, std::size_t value) {
    metadata_.add(prefix_ + key, static_cast<std::uint32_t>(value));
  }
  void real(const char* key, double value) {
    metadata_.add(prefix_ + key, static_cast<float>(value));
  }
  void text(const char* key, const char* value) { metadata_.add(prefix_ + key, value); }
  void flags(const char* key, const std::vector<std::uint8_t>& values) {
    const auto copy = std::make_unique<bool[]>(values.size());
    std::copy(values.begin(), values.end(), copy.get());
    metadata_.add(prefix_ + key, std::span<const bool>(copy.get(), values.size()));
  }

 private:
  std::string prefix_;
  io::GgufMetadata& metadata_;
};

void add_positions(const model::ModelConfig& config, ModelKeys& keys) {
  const model::RotaryPositions& rotary = *config.rotary;
  keys.size("rope.dimension_count", rotary.dims == 0 ? config.head_dim() : rotary.dims);
  keys.real("rope.freq_base", static_cast<double>(rotary.theta));
  if (config.sliding_rotary)
    keys.real("rope.freq_base_swa", static_cast<double>(config.sliding_rotary->theta));
  if (rotary.by_length) {
    keys.size("rope.scaling.original_context_length", rotary.by_length->original_positions);
    keys.real("rope.scaling.attn_factor", rotary.table_scale);
    return;
  }
  // Llama 3's factors are a tensor; dynamic scaling changes nothing within the positions.
  if (rotary.factor == 1 || rotary.by_wavelength || rotary.grows_beyond != 0) return;
  keys.text("rope.scaling.type", rotary.yarn ? "yarn" : "linear");
  keys.real("rope.scaling.factor", static_cast<double>(rotary.factor));
  if (!rotary.yarn) return;
  keys.size("rope.scaling.original_context_length", rotary.yarn->original_positions);
  // llama.cpp multiplies by this factor of its own.
  const double own = 1.0 + 0.1 * std::log(std::max(static_cast<double>(rotary.factor), 1.0));
  keys.real("rope.scaling.attn_factor", rotary.table_scale / own);
}

void add_windows(const GgufArchitecture& architecture, const model::ModelConfig& config,
                 ModelKeys& keys) {
  std::size_t window = 0;
  std::vector<std::uint8_t> has_window;
  bool is_usual = true;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    window = std::max(window, config.window(layer));
    has_window.push_back(config.window(layer) != 0 ? 1 : 0);
    is_usual &= (config.window(layer) != 0) == ((layer + 1) % architecture.window_period != 0);
  }
  // Without windows, one that holds every text; 0 also turns off the positions of such layers.
  const std::size_t all = config.sliding_rotary ? 0 : config.max_positions;
  keys.size("attention.sliding_window", window == 0 ? all : window);
  if (window != 0 && !is_usual) keys.flags("attention.sliding_window_pattern", has_window);
}

}  // namespace

void add_general(const GgufArchitecture& architecture, const char* type, const std::string& name,
                 io::GgufMetadata& metadata) {
  metadata.add("general.architecture", architecture.name);
  metadata.add("general.type", type);
  metadata.add("general.name", name);
}

void add_model(const GgufArchitecture& architecture, const model::ModelConfig& config,
               const std::string& where, io::GgufMetadata& metadata, Observer& observer) {
  ModelKeys keys(architecture, metadata);
  keys.size("block_count", config.num_layers);
  keys.size("context_length", config.max_positions);
  keys.size("embedding_length", config.hidden);
  keys.size("feed_forward_length", config.inner);
  keys.size("attention.head_count", config.num_heads);
  keys.size("attention.head_count_kv", config.num_kv_heads);
  keys.size("vocab_size", config.vocab_size);
  keys.real(config.norm == model::NormKind::kRms ? "attention.layer_norm_rms_epsilon"
                                                 : "attention.layer_norm_epsilon",
            static_cast<double>(config.norm_epsilon));
  if (architecture.takes_head_dim) {
    keys.size("attention.key_length", config.head_dim());
    keys.size("attention.value_length", config.head_dim());
  }
  if (config.rotary) add_positions(config, keys);
  if (architecture.has_windows) add_windows(architecture, config, keys);
  if (config.score_cap != 0)
    keys.real("attn_logit_softcapping", static_cast<double>(config.score_cap));
  if (config.logit_cap != 0)
    keys.real("final_logit_softcapping", static_cast<double>(config.logit_cap));
  std::size_t smallest = 0;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    const std::size_t window = config.window(layer);
    if (window != 0) smallest = smallest == 0 ? window : std::min(smallest, window);
  }
  // Of Phi-3, files tell the window, although llama.cpp does not keep to it.
  if (architecture.is_partly_rotary) keys.size("attention.sliding_window", smallest);
  if (!architecture.has_windows && smallest != 0 && smallest < config.max_positions) {
    observer.warn(fmt::format(
        "{}: has windows of {} tokens, which llama.cpp lacks for {}: it computes texts of more "
        "tokens differently",
        where, smallest, architecture.name));
  }
  if (config.rotary && config.rotary->by_length) {
    observer.info(
        fmt::format("{}: llama.cpp chooses the factors of positions by the size of its context "
                    "(above {} tokens: "
                    "the long ones), not by the length of a text",
                    where, config.rotary->by_length->original_positions));
  }
  if (config.rotary && config.rotary->grows_beyond != 0) {
    observer.info(
        fmt::format("{}: scales positions dynamically beyond {} tokens, which llama.cpp does not",
                    where, config.max_positions));
  }
}

void add_file_type(io::GgufType type, io::GgufMetadata& metadata) {
  // llama.cpp's number of a file whose matrices are mostly of the type.
  const auto number = [type]() -> std::uint32_t {
    switch (type) {
      case io::GgufType::kF32:
        return 0;
      case io::GgufType::kF16:
        return 1;
      case io::GgufType::kQ4_0:
        return 2;
      case io::GgufType::kQ4_1:
        return 3;
      case io::GgufType::kQ8_0:
        return 7;
      default:  // kBF16
        return 32;
    }
  };
  metadata.add("general.file_type", number());
  metadata.add("general.quantization_version", std::uint32_t{2});
}

std::vector<io::GgufTensorToMake> rope_tensors(const model::ModelConfig& config) {
  std::vector<io::GgufTensorToMake> tensors;
  if (!config.rotary) return tensors;
  const auto add = [&](const char* name, const std::vector<float>& values) {
    tensors.push_back({name, {values.size()}, io::GgufType::kF32, [values] { return values; }});
  };
  if (config.rotary->by_wavelength) {
    model::RotaryPositions plain;
    plain.theta = config.rotary->theta;
    const std::vector<float> unscaled = model::rotary_frequencies(plain, config.head_dim());
    std::vector<float> factors = model::rotary_frequencies(config);
    for (std::size_t i = 0; i < factors.size(); ++i) factors[i] = unscaled[i] / factors[i];
    add(kRopeFactors, factors);
  }
  if (config.rotary->by_length) {
    add(kRopeFactorsLong, config.rotary->by_length->long_factors);
    add(kRopeFactorsShort, config.rotary->by_length->short_factors);
  }
  return tensors;
}

}  // namespace qalof::app
