// The named sizes of `qalof init`: a family's config.json from a few numbers.
#include <array>
#include <map>

#include "core/error.h"
#include "model/families.h"

namespace qalof::model {

namespace {

// A size of a family with rotary positions; 0 and null: the key is left out.
struct NamedSize {
  const char* family;
  const char* name;
  int layers, heads, kv_heads, head_dim, hidden, inner, positions, vocab;
  double theta;
  bool is_tied;
  // Further keys, as JSON.
  const char* more = "{}";
};

constexpr std::array kSizes = {
    NamedSize{"llama", "135M", 30, 9, 3, 0, 576, 1536, 8192, 49152, 1e5, true},
    NamedSize{"llama", "1B", 16, 32, 8, 0, 2048, 8192, 8192, 128256, 5e5, true},
    NamedSize{"llama", "nano", 4, 4, 2, 0, 128, 384, 256, 1024, 1e4, true},
    NamedSize{"mistral", "7B", 32, 32, 8, 128, 4096, 14336, 32768, 32000, 1e4, false,
              R"({"sliding_window": 4096})"},
    NamedSize{"mistral", "nano", 4, 4, 2, 32, 128, 384, 256, 1024, 1e4, false,
              R"({"sliding_window": 64})"},
    NamedSize{"qwen2", "0.5B", 24, 14, 2, 0, 896, 4864, 32768, 151936, 1e6, true},
    NamedSize{"qwen2", "nano", 4, 4, 2, 0, 128, 384, 256, 1024, 1e6, true},
    NamedSize{"qwen3", "0.6B", 28, 16, 8, 128, 1024, 3072, 40960, 151936, 1e6, true},
    NamedSize{"qwen3", "1.7B", 28, 16, 8, 128, 2048, 6144, 40960, 151936, 1e6, true},
    NamedSize{"qwen3", "nano", 4, 4, 2, 32, 96, 384, 256, 1024, 1e6, true},
    NamedSize{"gemma2", "2B", 26, 8, 4, 256, 2304, 9216, 8192, 256000, 1e4, true,
              R"({"sliding_window": 4096, "query_pre_attn_scalar": 256})"},
    NamedSize{"gemma2", "nano", 4, 4, 2, 32, 96, 384, 256, 1024, 1e4, true,
              R"({"sliding_window": 64, "query_pre_attn_scalar": 32})"},
    NamedSize{"gemma3_text", "270M", 18, 4, 1, 256, 640, 2048, 32768, 262144, 1e6, true,
              R"({"sliding_window": 512, "rope_local_base_freq": 10000.0})"},
    NamedSize{"gemma3_text", "1B", 26, 4, 1, 256, 1152, 6912, 32768, 262144, 1e6, true,
              R"({"sliding_window": 512, "rope_local_base_freq": 10000.0})"},
    NamedSize{"gemma3_text", "nano", 6, 4, 1, 32, 96, 384, 256, 1024, 1e6, true,
              R"({"sliding_window": 64, "rope_local_base_freq": 10000.0,
                  "query_pre_attn_scalar": 32})"},
    NamedSize{"gemma3", "4B", 34, 8, 4, 256, 2560, 10240, 131072, 262208, 1e6, true,
              R"({"sliding_window": 1024, "rope_local_base_freq": 10000.0,
                  "rope_scaling": {"rope_type": "linear", "factor": 8.0}})"},
    NamedSize{"gemma3", "nano", 6, 4, 2, 32, 96, 384, 256, 1024, 1e6, true,
              R"({"sliding_window": 64, "rope_local_base_freq": 10000.0,
                  "query_pre_attn_scalar": 32})"},
    NamedSize{"phi3", "mini", 32, 32, 32, 0, 3072, 8192, 4096, 32064, 1e4, false},
    NamedSize{"phi3", "nano", 4, 4, 2, 0, 128, 384, 256, 1024, 1e4, true},
    NamedSize{"smollm3", "3B", 36, 16, 4, 0, 2048, 11008, 65536, 128256, 5e6, true},
    NamedSize{"smollm3", "nano", 4, 4, 2, 0, 128, 384, 256, 1024, 5e6, true},
};

struct Gpt2Size {
  const char* name;
  int layers, heads, hidden, positions, vocab;
};
constexpr std::array kGpt2Sizes = {
    Gpt2Size{"124M", 12, 12, 768, 1024, 50257}, Gpt2Size{"355M", 24, 16, 1024, 1024, 50257},
    Gpt2Size{"774M", 36, 20, 1280, 1024, 50257}, Gpt2Size{"1.5B", 48, 25, 1600, 1024, 50257},
    Gpt2Size{"nano", 4, 4, 128, 256, 1024}};

Json gpt2_config(const Gpt2Size& size) {
  return {{"model_type", "gpt2"},
          {"architectures", {"GPT2ForQuestionAnswering"}},
          {"vocab_size", size.vocab},
          {"n_positions", size.positions},
          {"n_ctx", size.positions},
          {"n_embd", size.hidden},
          {"n_layer", size.layers},
          {"n_head", size.heads},
          {"activation_function", "gelu_new"},
          {"layer_norm_epsilon", 1e-5},
          {"initializer_range", 0.02},
          {"bos_token_id", size.vocab - 1},
          {"eos_token_id", size.vocab - 1},
          {"resid_pdrop", 0.0},
          {"embd_pdrop", 0.0},
          {"attn_pdrop", 0.0}};
}

// The config of a model of several parts, of which we have the text part.
Json outer_config(const Json& text) {
  Json json = {{"text_config", text}};
  for (const char* key : {"model_type", "architectures", "initializer_range", "bos_token_id",
                          "eos_token_id", "tie_word_embeddings"})
    json[key] = text[key];
  for (const char* key : {"model_type", "architectures"}) json["text_config"].erase(key);
  return json;
}

Json decoder_config(const NamedSize& size, const Family& family) {
  Json json = {{"model_type", family.model_type},
               {"architectures", {fmt::format("{}{}", family.classes, family.lm_class)}},
               {"vocab_size", size.vocab},
               {"max_position_embeddings", size.positions},
               {"hidden_size", size.hidden},
               {"intermediate_size", size.inner},
               {"num_hidden_layers", size.layers},
               {"num_attention_heads", size.heads},
               {"num_key_value_heads", size.kv_heads},
               {family.traits.activation_key, family.traits.activation},
               {"rms_norm_eps", family.traits.norm_offset != 0 ? 1e-6 : 1e-5},
               {"initializer_range", 0.02},
               {"rope_theta", size.theta},
               {"bos_token_id", size.vocab - 1},
               {"eos_token_id", size.vocab - 1},
               {"tie_word_embeddings", size.is_tied}};
  if (size.head_dim != 0) json["head_dim"] = size.head_dim;
  json.update(Json::parse(size.more));
  return family.parse == parse_inner_config ? outer_config(json) : json;
}

// The names of each family's sizes.
std::map<std::string, std::vector<std::string>> sizes_by_family() {
  std::map<std::string, std::vector<std::string>> names;
  for (const Gpt2Size& size : kGpt2Sizes) names["gpt2"].emplace_back(size.name);
  for (const NamedSize& size : kSizes) names[size.family].emplace_back(size.name);
  return names;
}

}  // namespace

Json named_model_config(const std::string& model_type, const std::string& size) {
  const Family* family = find_family(model_type);
  QALOF_CHECK(family != nullptr, ErrorKind::kUsage, "--model_type: found {:.40}, expected {}",
              model_type, fmt::join(model_types(), ", "));
  for (const Gpt2Size& known : kGpt2Sizes) {
    if (model_type == "gpt2" && size == known.name) return gpt2_config(known);
  }
  for (const NamedSize& known : kSizes) {
    if (model_type == known.family && size == known.name) return decoder_config(known, *family);
  }
  fail(ErrorKind::kUsage, "--size: found {:.40}, expected one of {}", size,
       fmt::join(sizes_by_family()[model_type], ", "));
}

std::string named_sizes_text() {
  const auto sizes = sizes_by_family();
  std::vector<std::string> parts;
  for (const std::string& family : model_types()) {
    if (const auto known = sizes.find(family); known != sizes.end())
      parts.push_back(fmt::format("{}: {}", family, fmt::join(known->second, ", ")));
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace qalof::model
