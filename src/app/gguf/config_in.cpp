// Reads sizes, norms, positions, windows and caps of a GGUF file into config.json.
#include "app/gguf/config_in.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"

namespace qalof::app {

namespace {

// A loose limit on config values; parse_model_config is stricter.
constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 24;
constexpr std::size_t kMaxLayerList = 10'000;

// Reads keys of one architecture.
class ConfigReader {
 public:
  ConfigReader(const io::GgufFile& file, const GgufArchitecture& architecture)
      : file_(file), architecture_(architecture), prefix_(std::string(architecture.name) + ".") {}

  Json read() {
    layers_ = needed("block_count");
    positions_ = needed("context_length");
    hidden_ = needed("embedding_length");
    heads_ = needed("attention.head_count");
    inner_ = needed("feed_forward_length");
    QALOF_CHECK(heads_ > 0 && (hidden_ % heads_ == 0 || architecture_.takes_head_dim),
                ErrorKind::kBadInput,
                "{}: {}embedding_length {} is not divisible by {}attention.head_count {}",
                file_.path(), prefix_, hidden_, prefix_, heads_);
    const auto embedding = file_.tensors().find("token_embd.weight");
    QALOF_CHECK(embedding != file_.tensors().end() && embedding->second.shape.size() == 2,
                ErrorKind::kBadInput, "{}: tensor token_embd.weight is missing or no matrix",
                file_.path());
    vocab_ = embedding->second.shape[0];
    Json config = architecture_.model_type == std::string("gpt2") ? gpt2() : decoder();
    config["model_type"] = architecture_.model_type;
    config["vocab_size"] = vocab_;
    config["tie_word_embeddings"] = !has_tensor("output.weight");
    add_special_tokens(config);
    model::ModelConfig named;
    named.model_type = architecture_.model_type;
    config["architectures"] = {model::architecture(named, model::ModelClass::kCausalLm)};
    return config;
  }

 private:
  bool has_tensor(const std::string& name) const { return file_.tensors().contains(name); }
  std::uint64_t needed(const char* key) const {
    const std::optional<std::uint64_t> value = file_.integer(prefix_ + key, kMaxSize);
    QALOF_CHECK(value.has_value(), ErrorKind::kBadInput, "{}: {}{} is missing", file_.path(),
                prefix_, key);
    return *value;
  }
  double needed_number(const char* key) const {
    const std::optional<double> value = file_.number(prefix_ + key);
    QALOF_CHECK(value.has_value(), ErrorKind::kBadInput, "{}: {}{} is missing", file_.path(),
                prefix_, key);
    return *value;
  }

  Json gpt2() const {
    QALOF_CHECK(
        file_.integer(prefix_ + "attention.head_count_kv", kMaxSize).value_or(heads_) == heads_,
        ErrorKind::kUnsupported, "{}: {}attention.head_count_kv differs from the heads",
        file_.path(), prefix_);
    return {{"n_positions", positions_},
            {"n_ctx", positions_},
            {"n_embd", hidden_},
            {"n_layer", layers_},
            {"n_head", heads_},
            {"n_inner", inner_},
            {"activation_function", "gelu_new"},
            {"layer_norm_epsilon", needed_number("attention.layer_norm_epsilon")},
            {"attn_pdrop", 0.0},
            {"embd_pdrop", 0.0},
            {"resid_pdrop", 0.0}};
  }

  Json decoder() {
    head_dim_ = file_.integer(prefix_ + "attention.key_length", kMaxSize)
                    .value_or(std::max<std::uint64_t>(1, hidden_ / heads_));
    const std::uint64_t value_dim =
        file_.integer(prefix_ + "attention.value_length", kMaxSize).value_or(head_dim_);
    QALOF_CHECK(value_dim == head_dim_, ErrorKind::kUnsupported,
                "{}: {}attention.value_length is {}, implemented is {}attention.key_length {}",
                file_.path(), prefix_, value_dim, prefix_, head_dim_);
    QALOF_CHECK(architecture_.takes_head_dim || head_dim_ * heads_ == hidden_,
                ErrorKind::kUnsupported,
                "{}: {}attention.key_length is {}, implemented is {} (hidden / heads)",
                file_.path(), prefix_, head_dim_, hidden_ / heads_);
    const bool is_gelu = architecture_.activation == model::Activation::kGeGluTanh;
    Json config = {
        {"max_position_embeddings", positions_},
        {"hidden_size", hidden_},
        {"intermediate_size", inner_},
        {"num_hidden_layers", layers_},
        {"num_attention_heads", heads_},
        {"num_key_value_heads",
         file_.integer(prefix_ + "attention.head_count_kv", kMaxSize).value_or(heads_)},
        {is_gelu ? "hidden_activation" : "hidden_act", is_gelu ? "gelu_pytorch_tanh" : "silu"},
        {"rms_norm_eps", needed_number("attention.layer_norm_rms_epsilon")}};
    if (architecture_.takes_head_dim) config["head_dim"] = head_dim_;
    if (architecture_.takes_out_bias) {
      config["attention_bias"] = has_tensor("blk.0.attn_q.bias");
      config["mlp_bias"] = has_tensor("blk.0.ffn_up.bias");
    } else if (architecture_.model_type != std::string("qwen2")) {
      config["attention_bias"] = false;
    }
    add_positions(config);
    add_windows(config);
    add_caps(config);
    if (architecture_.layers_of_wide_scale != 0) {
      const bool is_wide = layers_ == architecture_.layers_of_wide_scale;
      config["query_pre_attn_scalar"] = is_wide ? hidden_ / heads_ : head_dim_;
    }
    return config;
  }

  void add_positions(Json& config) const {
    config["rope_theta"] = file_.number(prefix_ + "rope.freq_base").value_or(10000.0);
    if (architecture_.has_windows && architecture_.window_period > 2) {
      config["rope_local_base_freq"] =
          file_.number(prefix_ + "rope.freq_base_swa").value_or(10000.0);
    }
    const std::uint64_t dims =
        file_.integer(prefix_ + "rope.dimension_count", kMaxSize).value_or(head_dim_);
    QALOF_CHECK(dims == head_dim_ || (architecture_.is_partly_rotary && dims < head_dim_),
                ErrorKind::kUnsupported,
                "{}: {}rope.dimension_count is {}, implemented is {} (all of a head)", file_.path(),
                prefix_, dims, head_dim_);
    if (dims != head_dim_)
      config["partial_rotary_factor"] = static_cast<double>(dims) / static_cast<double>(head_dim_);
    if (architecture_.rotary_interval != 0) {
      config["no_rope_layer_interval"] = architecture_.rotary_interval;
      config["no_rope_layers"] = Json::array();
      for (std::uint64_t layer = 0; layer < std::min<std::uint64_t>(layers_, kMaxLayerList);
           ++layer)
        config["no_rope_layers"].push_back((layer + 1) % architecture_.rotary_interval != 0 ? 1
                                                                                            : 0);
    }
    const Json scaling = scaling_of(config["rope_theta"].get<double>(), dims);
    if (scaling.is_null()) return;
    config["rope_scaling"] = scaling;
    if (scaling["rope_type"] == "longrope")
      config["original_max_position_embeddings"] = original_positions();
  }

  std::uint64_t original_positions() const {
    return file_.integer(prefix_ + "rope.scaling.original_context_length", kMaxSize)
        .value_or(positions_);
  }

  // rope_scaling, or null.
  Json scaling_of(double theta, std::uint64_t dims) const {
    const std::string_view type = file_.string(prefix_ + "rope.scaling.type").value_or("linear");
    QALOF_CHECK(type == "none" || type == "linear" || type == "yarn" || type == "longrope",
                ErrorKind::kUnsupported,
                "{}: {}rope.scaling.type is {:.40}, implemented are none, linear, yarn and "
                "longrope",
                file_.path(), prefix_, type);
    QALOF_CHECK(!file_.contains(prefix_ + "rope.scaling.yarn_log_multiplier"),
                ErrorKind::kUnsupported,
                "{}: {}rope.scaling.yarn_log_multiplier is not implemented", file_.path(), prefix_);
    const double factor = type == "none" ? 1.0 : scaling_factor();
    const auto factors = file_.tensors().find(kRopeFactors);
    if (factors != file_.tensors().end()) {
      QALOF_CHECK(factor == 1.0, ErrorKind::kUnsupported,
                  "{}: both {}rope.scaling.factor and {} scale rotary positions", file_.path(),
                  prefix_, kRopeFactors);
      return llama3_scaling(factors->second, theta);
    }
    if (has_tensor(kRopeFactorsLong) || has_tensor(kRopeFactorsShort) || type == "longrope")
      return by_length(dims);
    if (factor == 1.0) return nullptr;
    if (type != "yarn") return {{"rope_type", "linear"}, {"factor", factor}};
    Json yarn = {{"rope_type", "yarn"},
                 {"factor", factor},
                 {"original_max_position_embeddings", original_positions()}};
    const double own = 1.0 + 0.1 * std::log(std::max(factor, 1.0));
    if (const auto attention = file_.number(prefix_ + "rope.scaling.yarn_attn_factor"))
      yarn["attention_factor"] = *attention;
    if (const auto attention = file_.number(prefix_ + "rope.scaling.attn_factor"))
      yarn["attention_factor"] = *attention * own;
    for (const char* key : {"beta_fast", "beta_slow"}) {
      if (const auto beta = file_.number(prefix_ + "rope.scaling.yarn_" + key)) yarn[key] = *beta;
    }
    return yarn;
  }

  double scaling_factor() const {
    const std::optional<double> factor = file_.number(prefix_ + "rope.scaling.factor");
    const double value =
        factor ? *factor : file_.number(prefix_ + "rope.scale_linear").value_or(0.0);
    return value == 0.0 ? 1.0 : value;
  }

  std::vector<float> factors_of(const char* name, std::size_t pairs) const {
    const auto tensor = file_.tensors().find(name);
    QALOF_CHECK(tensor != file_.tensors().end(), ErrorKind::kBadInput, "{}: tensor {} is missing",
                file_.path(), name);
    QALOF_CHECK(tensor->second.shape == std::vector<std::size_t>{pairs}, ErrorKind::kBadInput,
                "{}: tensor {} has shape [{}], expected [{}]", file_.path(), name,
                fmt::join(tensor->second.shape, ", "), pairs);
    std::vector<float> factors(pairs);
    io::copy_as_f32(tensor->second, 0, factors);
    return factors;
  }

  Json by_length(std::uint64_t dims) const {
    QALOF_CHECK(architecture_.is_partly_rotary, ErrorKind::kUnsupported,
                "{}: LongRoPE is implemented for phi3 alone", file_.path());
    Json scaling = {{"rope_type", "longrope"},
                    {"type", "longrope"},
                    {"short_factor", factors_of(kRopeFactorsShort, dims / 2)},
                    {"long_factor", factors_of(kRopeFactorsLong, dims / 2)}};
    if (const auto attention = file_.number(prefix_ + "rope.scaling.attn_factor"))
      scaling["attention_factor"] = *attention;
    return scaling;
  }

  // Recovers rope_scaling from the factors by which frequencies are divided.
  Json llama3_scaling(const io::GgufTensor& tensor, double theta) const {
    QALOF_CHECK(head_dim_ >= 2 && tensor.shape == std::vector<std::size_t>{head_dim_ / 2},
                ErrorKind::kBadInput, "{}: tensor {} has shape [{}], expected [{}]", file_.path(),
                kRopeFactors, fmt::join(tensor.shape, ", "), head_dim_ / 2);
    const std::vector<float> factors = factors_of(kRopeFactors, head_dim_ / 2);
    const auto largest = static_cast<double>(*std::max_element(factors.begin(), factors.end()));
    model::RotaryPositions rotary;
    rotary.theta = static_cast<float>(theta);
    const std::vector<float> plain = model::rotary_frequencies(rotary, head_dim_);
    rotary.factor = static_cast<float>(largest);
    // Published files have these bounds; others are found from the factors themselves.
    rotary.by_wavelength = model::RotaryPositions::ByWavelength{};
    std::size_t differs = first_difference(rotary, plain, factors);
    if (differs < factors.size()) {
      const auto published = *rotary.by_wavelength;
      set_bounds(rotary, plain, factors);
      if (first_difference(rotary, plain, factors) < factors.size()) {
        rotary.by_wavelength = published;
        const double expected =
            static_cast<double>(plain[differs]) /
            static_cast<double>(model::rotary_frequencies(rotary, head_dim_)[differs]);
        fail(ErrorKind::kUnsupported,
             "{}: {}[{}] is {}, the scaling of Llama 3 by {} has {}; another scaling is not "
             "implemented",
             file_.path(), kRopeFactors, differs, factors[differs], largest, expected);
      }
    }
    const model::RotaryPositions::ByWavelength& bounds = *rotary.by_wavelength;
    return {{"rope_type", "llama3"},
            {"factor", largest},
            {"low_freq_factor", bounds.low},
            {"high_freq_factor", bounds.high},
            {"original_max_position_embeddings", bounds.original_positions}};
  }

  // The first factor that the scaling does not have; their number where it has all. Files store
  // factors in f32, computed from f32 frequencies.
  std::size_t first_difference(const model::RotaryPositions& rotary,
                               const std::vector<float>& plain,
                               const std::vector<float>& factors) const {
    constexpr double kTolerance = 1e-4;
    const std::vector<float> scaled = model::rotary_frequencies(rotary, head_dim_);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      const double expected = static_cast<double>(plain[i]) / static_cast<double>(scaled[i]);
      const double difference = std::abs(static_cast<double>(factors[i]) - expected);
      if (!(difference <= kTolerance * expected)) return i;
    }
    return factors.size();
  }

  // Finds bounds from factors between 1 and the largest: the share of a pair's own frequency, the
  // rest being its slowed form, is linear in its turns (in the original positions, whose number is
  // free: it and the bounds have a common factor). One such pair, or none, leaves the width of the
  // transition free, too.
  static void set_bounds(model::RotaryPositions& rotary, const std::vector<float>& plain,
                         const std::vector<float>& factors) {
    constexpr double kTurn = 6.283185307179586;  // 2 pi
    model::RotaryPositions::ByWavelength& bounds = *rotary.by_wavelength;
    const auto positions = static_cast<double>(bounds.original_positions);
    const auto largest = static_cast<double>(rotary.factor);
    struct Point {
      double turns, share;
    };
    std::vector<Point> between;
    double fewest_kept = positions, most_slowed = 0;  // turns of pairs at either side
    for (std::size_t i = 0; i < factors.size(); ++i) {
      const double turns = positions * static_cast<double>(plain[i]) / kTurn;
      const double inverse = 1.0 / static_cast<double>(factors[i]);
      const double share = (inverse - 1.0 / largest) / (1.0 - 1.0 / largest);
      constexpr double kEnd = 1e-6;
      if (share >= 1.0 - kEnd) {
        fewest_kept = std::min(fewest_kept, turns);
      } else if (share <= kEnd) {
        most_slowed = std::max(most_slowed, turns);
      } else {
        between.push_back({turns, share});
      }
    }
    constexpr double kUsualRatio = 4;
    double low = most_slowed, high = fewest_kept;
    if (between.size() >= 2) {
      const Point &a = between.front(), &b = between.back();
      const double width = (a.turns - b.turns) / (a.share - b.share);
      low = a.turns - a.share * width;
      high = low + width;
    } else if (between.size() == 1) {
      low = between[0].turns / (1.0 + (kUsualRatio - 1.0) * between[0].share);
      high = kUsualRatio * low;
    }
    bounds.low = static_cast<float>(low);
    bounds.high = static_cast<float>(high);
  }

  void add_windows(Json& config) const {
    const std::string key = prefix_ + "attention.sliding_window";
    const std::uint64_t window = file_.integer(key, kMaxSize).value_or(0);
    if (!architecture_.has_windows) {
      if (architecture_.is_partly_rotary) {
        config["sliding_window"] = window == 0 ? Json() : Json(window);
      } else {
        QALOF_CHECK(window == 0, ErrorKind::kUnsupported, "{}: {} is {}, implemented is 0",
                    file_.path(), key, window);
        config["use_sliding_window"] = false;
      }
      return;
    }
    // Gemma 2 without the key has the window of its published models; Gemma 3 then has none.
    constexpr std::uint64_t kGemma2Window = 4096;
    const std::uint64_t by_default = architecture_.window_period == 2 ? kGemma2Window : 0;
    const std::uint64_t effective = file_.contains(key) ? window : by_default;
    const std::vector<std::uint8_t> slides = layers_with_window(effective);
    config["sliding_window"] = effective == 0 ? positions_ : effective;
    config["layer_types"] = Json::array();
    for (const std::uint8_t layer : slides)
      config["layer_types"].push_back(layer != 0 ? "sliding_attention" : "full_attention");
  }

  std::vector<std::uint8_t> layers_with_window(std::uint64_t window) const {
    const std::string key = prefix_ + "attention.sliding_window_pattern";
    QALOF_CHECK(layers_ <= kMaxLayerList, ErrorKind::kBadInput,
                "{}: {}block_count is {}, at most {} are read", file_.path(), prefix_, layers_,
                kMaxLayerList);
    std::vector<std::uint8_t> slides(layers_, 0);
    if (window == 0) return slides;
    if (file_.is_list(key)) {
      slides = *file_.booleans(key, kMaxLayerList);
      QALOF_CHECK(slides.size() == layers_, ErrorKind::kBadInput,
                  "{}: {} has {} elements for {} layers", file_.path(), key, slides.size(),
                  layers_);
      return slides;
    }
    const std::uint64_t period = file_.integer(key, kMaxSize).value_or(architecture_.window_period);
    for (std::uint64_t layer = 0; layer < layers_; ++layer)
      slides[layer] = period == 0 || (layer + 1) % period != 0 ? 1 : 0;
    return slides;
  }

  // Keys that are missing have llama.cpp's defaults.
  void add_caps(Json& config) const {
    constexpr double kScoreCap = 50, kLogitCap = 30;
    if (architecture_.has_score_cap)
      config["attn_logit_softcapping"] =
          file_.number(prefix_ + "attn_logit_softcapping").value_or(kScoreCap);
    if (!architecture_.takes_logit_cap) return;
    const std::optional<double> cap = file_.number(prefix_ + "final_logit_softcapping");
    const double by_default = architecture_.has_logit_cap ? kLogitCap : 0.0;
    const double value = cap.value_or(by_default);
    config["final_logit_softcapping"] = value == 0.0 ? Json() : Json(value);
  }

  // Tokens that end a text: eos, and the ends of a turn and a message.
  void add_special_tokens(Json& config) const {
    const auto id_of = [&](const char* kind) -> std::optional<std::uint64_t> {
      const auto id = file_.integer(fmt::format("tokenizer.ggml.{}_token_id", kind), kMaxSize);
      return id && *id < vocab_ ? id : std::nullopt;
    };
    if (const auto id = file_.integer("tokenizer.ggml.bos_token_id", kMaxSize))
      config["bos_token_id"] = *id;
    Json ends = Json::array();
    for (const char* kind : {"eos", "eot", "eom"}) {
      const auto id = id_of(kind);
      if (id && std::find(ends.begin(), ends.end(), Json(*id)) == ends.end()) ends.push_back(*id);
    }
    if (ends.size() == 1) {
      config["eos_token_id"] = ends[0];
    } else if (!ends.empty()) {
      config["eos_token_id"] = ends;
    }
    // transformers makes room for this token, whose default may lie beyond the vocabulary.
    const auto padding = id_of("padding");
    config["pad_token_id"] = padding ? Json(*padding) : Json();
  }

  const io::GgufFile& file_;
  const GgufArchitecture& architecture_;
  std::string prefix_;
  std::uint64_t layers_ = 0, positions_ = 0, hidden_ = 0, heads_ = 0, inner_ = 0, head_dim_ = 0,
                vocab_ = 0;
};

}  // namespace

const GgufArchitecture& find_architecture(const io::GgufFile& file) {
  const std::optional<std::string_view> name = file.string("general.architecture");
  const GgufArchitecture* architecture = find_gguf_architecture(name.value_or(""));
  std::vector<std::string> names;
  for (const GgufArchitecture& known : gguf_architectures()) names.emplace_back(known.name);
  QALOF_CHECK(architecture != nullptr, ErrorKind::kUnsupported,
              "{}: general.architecture is {:.40}, implemented are {}", file.path(),
              name.value_or("missing"), fmt::join(names, ", "));
  const std::string experts = fmt::format("{}.expert_count", architecture->name);
  QALOF_CHECK(file.integer(experts, kMaxSize).value_or(0) == 0, ErrorKind::kUnsupported,
              "{}: {} is above 0, implemented is 0", file.path(), experts);
  return *architecture;
}

Json config_of(const io::GgufFile& file, const GgufArchitecture& architecture) {
  return ConfigReader(file, architecture).read();
}

}  // namespace qalof::app
