// The families themselves, one entry each.
#include "model/families.h"

#include <array>

#include "core/error.h"

namespace qalof::model {

namespace {

constexpr std::array<FamilyLinear, 4> kGpt2Linears = {{{LinearRole::kQkv, "attn.c_attn"},
                                                       {LinearRole::kAttentionOut, "attn.c_proj"},
                                                       {LinearRole::kUp, "mlp.c_fc"},
                                                       {LinearRole::kDown, "mlp.c_proj"}}};
constexpr std::array<FamilyLinear, 7> kSevenLinears = {
    {{LinearRole::kQ, "self_attn.q_proj"},
     {LinearRole::kK, "self_attn.k_proj"},
     {LinearRole::kV, "self_attn.v_proj"},
     {LinearRole::kAttentionOut, "self_attn.o_proj"},
     {LinearRole::kGate, "mlp.gate_proj"},
     {LinearRole::kUp, "mlp.up_proj"},
     {LinearRole::kDown, "mlp.down_proj"}}};
constexpr std::array<FamilyLinear, 4> kFusedLinears = {
    {{LinearRole::kQkv, "self_attn.qkv_proj"},
     {LinearRole::kAttentionOut, "self_attn.o_proj"},
     {LinearRole::kGateUp, "mlp.gate_up_proj"},
     {LinearRole::kDown, "mlp.down_proj"}}};

constexpr FamilyNames kGpt2Names = {.prefix = "transformer.",
                                    .span_prefix = "transformer.",
                                    .layer = "h.",
                                    .attention_norm = "ln_1",
                                    .mlp_norm = "ln_2",
                                    .token_embedding = "wte",
                                    .position_embedding = "wpe",
                                    .final_norm = "ln_f",
                                    .conv1d = true,
                                    .linears = kGpt2Linears};
// The question-answering classes of some families name their decoder "transformer".
constexpr FamilyNames kLlamaNames = {.span_prefix = "transformer.", .linears = kSevenLinears};
constexpr FamilyNames kMistralNames = {.linears = kSevenLinears};
constexpr FamilyNames kPhi3Names = {.linears = kFusedLinears};
constexpr FamilyNames kGemmaNames = {.mlp_norm = "pre_feedforward_layernorm",
                                     .attention_out_norm = "post_attention_layernorm",
                                     .mlp_out_norm = "post_feedforward_layernorm",
                                     .linears = kSevenLinears};

// Inside a model that reads pictures too.
constexpr FamilyNames kInnerGemmaNames = {.prefix = "model.language_model.",
                                          .span_prefix = "model.language_model.",
                                          .mlp_norm = "pre_feedforward_layernorm",
                                          .attention_out_norm = "post_attention_layernorm",
                                          .mlp_out_norm = "post_feedforward_layernorm",
                                          .linears = kSevenLinears};

constexpr DecoderTraits kLlama = {
    .bos = 1, .eos = 2, .bias = BiasRule::kByKey, .has_mlp_bias_key = true};
constexpr DecoderTraits kMistral = {.positions = 131072,
                                    .kv_heads = 8,
                                    .inner = 14336,
                                    .bos = 1,
                                    .eos = 2,
                                    .window_rule = WindowRule::kAll,
                                    .window = 4096};
constexpr DecoderTraits kQwen2 = {.vocab = 151936,
                                  .positions = 32768,
                                  .kv_heads = 32,
                                  .inner = 22016,
                                  .bias = BiasRule::kQkv,
                                  .window_rule = WindowRule::kFromLayer,
                                  .window = 4096};
constexpr DecoderTraits kQwen3 = {.vocab = 151936,
                                  .positions = 32768,
                                  .kv_heads = 32,
                                  .head_dim = 128,
                                  .inner = 22016,
                                  .bias = BiasRule::kByKey,
                                  .window_rule = WindowRule::kFromLayer,
                                  .window = 4096,
                                  .has_qk_norms = true};
constexpr DecoderTraits kGemma2 = {.vocab = 256000,
                                   .positions = 8192,
                                   .hidden = 2304,
                                   .layers = 26,
                                   .heads = 8,
                                   .kv_heads = 4,
                                   .head_dim = 256,
                                   .inner = 9216,
                                   .is_tied = true,
                                   .bos = 2,
                                   .eos = 1,
                                   .activation_key = "hidden_activation",
                                   .activation = "gelu_pytorch_tanh",
                                   .bias = BiasRule::kByKey,
                                   .window_rule = WindowRule::kAllButNth,
                                   .window = 4096,
                                   .window_period = 2,
                                   .has_out_norms = true,
                                   .norm_offset = 1,
                                   .scales_embedding = true,
                                   .score_scalar = 256,
                                   .caps_scores = true,
                                   .score_cap = 50,
                                   .logit_cap = 30,
                                   .has_logit_cap_key = true};
// transformers ignores attn_logit_softcapping here.
constexpr DecoderTraits kGemma3 = {.vocab = 262208,
                                   .positions = 131072,
                                   .hidden = 2304,
                                   .layers = 26,
                                   .heads = 8,
                                   .kv_heads = 4,
                                   .head_dim = 256,
                                   .inner = 9216,
                                   .is_tied = true,
                                   .bos = 2,
                                   .eos = 1,
                                   .theta = 1e6F,
                                   .sliding_theta = 1e4F,
                                   .activation_key = "hidden_activation",
                                   .activation = "gelu_pytorch_tanh",
                                   .bias = BiasRule::kByKey,
                                   .window_rule = WindowRule::kAllButNth,
                                   .window = 4096,
                                   .window_period = 6,
                                   .has_qk_norms = true,
                                   .has_out_norms = true,
                                   .norm_offset = 1,
                                   .scales_embedding = true,
                                   .score_scalar = 256,
                                   .has_logit_cap_key = true};
// The class with pictures also ignores final_logit_softcapping.
constexpr DecoderTraits kInnerGemma3 = [] {
  DecoderTraits traits = kGemma3;
  traits.has_logit_cap_key = false;
  return traits;
}();
constexpr DecoderTraits kPhi3 = {.vocab = 32064,
                                 .positions = 4096,
                                 .hidden = 3072,
                                 .inner = 8192,
                                 .epsilon = 1e-5F,
                                 .bos = 1,
                                 .eos = 32000,
                                 .window_rule = WindowRule::kAll,
                                 .is_partly_rotary = true,
                                 .is_longrope_alone = true,
                                 .original_positions = 4096};
constexpr DecoderTraits kSmolLm3 = {.vocab = 128256,
                                    .positions = 32768,
                                    .hidden = 2048,
                                    .layers = 36,
                                    .heads = 16,
                                    .kv_heads = 4,
                                    .inner = 11008,
                                    .is_tied = true,
                                    .bos = 128000,
                                    .eos = 128001,
                                    .theta = 2e6F,
                                    .bias = BiasRule::kByKey,
                                    .has_mlp_bias_key = true,
                                    .window_rule = WindowRule::kWithoutRotary,
                                    .rotary_interval = 4};

constexpr const char* kLmClass = "ForCausalLM";
constexpr std::array<Family, 10> kFamilies = {{
    {"gpt2", "GPT2", "LMHeadModel", parse_gpt2_config, kGpt2Names, {}},
    {"llama", "Llama", kLmClass, parse_decoder_config, kLlamaNames, kLlama},
    {"mistral", "Mistral", kLmClass, parse_decoder_config, kMistralNames, kMistral},
    {"qwen2", "Qwen2", kLmClass, parse_decoder_config, kLlamaNames, kQwen2},
    {"qwen3", "Qwen3", kLmClass, parse_decoder_config, kLlamaNames, kQwen3},
    {"gemma2", "Gemma2", kLmClass, parse_decoder_config, kGemmaNames, kGemma2},
    {"gemma3_text", "Gemma3", kLmClass, parse_decoder_config, kGemmaNames, kGemma3},
    {"gemma3", "Gemma3", "ForConditionalGeneration", parse_inner_config, kInnerGemmaNames,
     kInnerGemma3},
    {"phi3", "Phi3", kLmClass, parse_decoder_config, kPhi3Names, kPhi3},
    {"smollm3", "SmolLM3", kLmClass, parse_decoder_config, kLlamaNames, kSmolLm3},
}};

}  // namespace

std::span<const Family> families() { return kFamilies; }

const Family* find_family(const std::string& model_type) {
  for (const Family& family : kFamilies) {
    if (model_type == family.model_type) return &family;
  }
  return nullptr;
}

const Family& family_of(const ModelConfig& config) {
  const Family* family = find_family(config.model_type);
  QALOF_CHECK(family != nullptr, ErrorKind::kInternal, "model_type {:.40} is in no table",
              config.model_type);
  return *family;
}

std::vector<std::string> model_types() {
  std::vector<std::string> names;
  names.reserve(std::size(kFamilies));
  for (const Family& family : kFamilies) names.emplace_back(family.model_type);
  return names;
}

}  // namespace qalof::model
