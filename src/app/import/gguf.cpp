// Converts a GGUF file of the Llama family to a Hugging Face directory: config, tokenizer, tensors.
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "app/import/formats.h"
#include "app/import/gguf_chat.h"
#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "io/gguf.h"
#include "io/model_write.h"
#include "model/config.h"
#include "text/bpe_tokenizer.h"
#include "text/tokenizer_json.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

// A loose limit on config values; parse_model_config is stricter.
constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 24;
constexpr std::size_t kMaxTokens = 1'000'000;
constexpr std::size_t kMaxMerges = 2'000'000;

constexpr const char* kRopeFactors = "rope_freqs.weight";

constexpr std::array kLinearNames = {
    std::pair{"self_attn.q_proj", "attn_q"}, std::pair{"self_attn.k_proj", "attn_k"},
    std::pair{"self_attn.v_proj", "attn_v"}, std::pair{"self_attn.o_proj", "attn_output"},
    std::pair{"mlp.gate_proj", "ffn_gate"},  std::pair{"mlp.up_proj", "ffn_up"},
    std::pair{"mlp.down_proj", "ffn_down"}};

std::uint64_t size_of(const io::GgufFile& file, const std::string& key) {
  const std::optional<std::uint64_t> value = file.integer(key, kMaxSize);
  QALOF_CHECK(value.has_value(), ErrorKind::kBadInput, "{}: {} is missing", file.path(), key);
  return *value;
}

// Refuses settings that would change what the model computes and are not implemented.
void refuse_unimplemented(const io::GgufFile& file) {
  const std::optional<std::string_view> family = file.string("general.architecture");
  QALOF_CHECK(family == "llama", ErrorKind::kUnsupported,
              "{}: general.architecture is {:.40}, implemented is llama", file.path(),
              family.value_or("missing"));
  QALOF_CHECK(file.integer("llama.expert_count", kMaxSize).value_or(0) == 0,
              ErrorKind::kUnsupported, "{}: llama.expert_count is above 0, implemented is 0",
              file.path());
}

// Recovers the config's rope_scaling from the factors in rope_freqs.weight, by which frequencies
// are divided. The factors follow from four numbers, three of which are the same in all Llama 3
// files.
Json rope_scaling_of(const io::GgufFile& file, const io::GgufTensor& tensor, double theta,
                     std::size_t head_dim) {
  QALOF_CHECK(head_dim >= 2 && tensor.shape == std::vector<std::size_t>{head_dim / 2},
              ErrorKind::kBadInput, "{}: tensor {} has shape [{}], expected [{}]", file.path(),
              kRopeFactors, fmt::join(tensor.shape, ", "), head_dim / 2);
  std::vector<float> factors(head_dim / 2);
  io::copy_as_f32(tensor, 0, factors);
  const auto largest = static_cast<double>(*std::max_element(factors.begin(), factors.end()));
  model::ModelConfig config;
  config.hidden = head_dim;
  config.num_heads = 1;
  config.rotary.emplace();
  config.rotary->theta = static_cast<float>(theta);
  const std::vector<float> plain = model::rotary_frequencies(config);
  config.rotary->factor = static_cast<float>(largest);
  config.rotary->by_wavelength = model::RotaryPositions::ByWavelength{};
  const model::RotaryPositions::ByWavelength& bounds = *config.rotary->by_wavelength;
  const std::vector<float> scaled = model::rotary_frequencies(config);
  // Files store the factors in f32, computed from f32 frequencies.
  constexpr double kTolerance = 1e-4;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double expected = static_cast<double>(plain[i]) / static_cast<double>(scaled[i]);
    const double difference = std::abs(static_cast<double>(factors[i]) - expected);
    QALOF_CHECK(difference <= kTolerance * expected, ErrorKind::kUnsupported,
                "{}: {}[{}] is {}, the scaling of Llama 3 by {} has {}; another scaling is not "
                "implemented",
                file.path(), kRopeFactors, i, factors[i], largest, expected);
  }
  return {{"rope_type", "llama3"},
          {"factor", largest},
          {"low_freq_factor", bounds.low},
          {"high_freq_factor", bounds.high},
          {"original_max_position_embeddings", bounds.original_positions}};
}

Json config_of(const io::GgufFile& file) {
  refuse_unimplemented(file);
  const std::uint64_t heads = size_of(file, "llama.attention.head_count");
  const std::uint64_t hidden = size_of(file, "llama.embedding_length");
  const auto embedding = file.tensors().find("token_embd.weight");
  QALOF_CHECK(embedding != file.tensors().end() && embedding->second.shape.size() == 2,
              ErrorKind::kBadInput, "{}: tensor token_embd.weight is missing or no matrix",
              file.path());
  QALOF_CHECK(heads > 0 && hidden % heads == 0, ErrorKind::kBadInput,
              "{}: llama.embedding_length {} is not divisible by llama.attention.head_count {}",
              file.path(), hidden, heads);
  for (const char* key : {"llama.rope.dimension_count", "llama.attention.key_length",
                          "llama.attention.value_length"}) {
    const std::uint64_t value = file.integer(key, kMaxSize).value_or(hidden / heads);
    QALOF_CHECK(value == hidden / heads, ErrorKind::kUnsupported,
                "{}: {} is {}, implemented is {} (all of a head)", file.path(), key, value,
                hidden / heads);
  }
  const std::optional<double> epsilon = file.number("llama.attention.layer_norm_rms_epsilon");
  QALOF_CHECK(epsilon.has_value(), ErrorKind::kBadInput,
              "{}: llama.attention.layer_norm_rms_epsilon is missing", file.path());
  Json config = {{"model_type", "llama"},
                 {"architectures", {"LlamaForCausalLM"}},
                 {"vocab_size", embedding->second.shape[0]},
                 {"max_position_embeddings", size_of(file, "llama.context_length")},
                 {"hidden_size", hidden},
                 {"intermediate_size", size_of(file, "llama.feed_forward_length")},
                 {"num_hidden_layers", size_of(file, "llama.block_count")},
                 {"num_attention_heads", heads},
                 {"num_key_value_heads",
                  file.integer("llama.attention.head_count_kv", kMaxSize).value_or(heads)},
                 {"hidden_act", "silu"},
                 {"attention_bias", false},
                 {"mlp_bias", false},
                 {"rms_norm_eps", *epsilon},
                 {"rope_theta", file.number("llama.rope.freq_base").value_or(10000.0)},
                 {"tie_word_embeddings", !file.tensors().contains("output.weight")}};
  const std::string_view scaling = file.string("llama.rope.scaling.type").value_or("none");
  QALOF_CHECK(scaling == "none" || scaling == "linear", ErrorKind::kUnsupported,
              "{}: llama.rope.scaling.type is {:.40}, implemented are none and linear", file.path(),
              scaling);
  if (scaling == "linear") {
    config["rope_scaling"] = {{"rope_type", "linear"},
                              {"factor", file.number("llama.rope.scaling.factor").value_or(1.0)}};
  }
  if (const auto factors = file.tensors().find(kRopeFactors); factors != file.tensors().end()) {
    QALOF_CHECK(scaling == "none", ErrorKind::kUnsupported,
                "{}: both llama.rope.scaling.type and {} scale rotary positions", file.path(),
                kRopeFactors);
    config["rope_scaling"] =
        rope_scaling_of(file, factors->second, config["rope_theta"].get<double>(), hidden / heads);
  }
  for (const auto& [key, from] : {std::pair{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                                  std::pair{"eos_token_id", "tokenizer.ggml.eos_token_id"}}) {
    if (const std::optional<std::uint64_t> id = file.integer(from, kMaxSize)) config[key] = *id;
  }
  return config;
}

text::PreTokenizer pre_tokenizer_of(const io::GgufFile& file) {
  const std::string_view name = file.string("tokenizer.ggml.pre").value_or("gpt-2");
  if (name == "gpt-2") return text::PreTokenizer::kGpt2;
  if (name == "smollm") return text::PreTokenizer::kDigits;
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3")
    return text::PreTokenizer::kLlama3;
  fail(ErrorKind::kUnsupported,
       "{}: tokenizer.ggml.pre is {:.40}, implemented are gpt-2, smollm and llama-bpe", file.path(),
       name);
}

// The token that is added before ("bos") or after ("eos") every text, if any.
std::optional<std::size_t> template_token(const io::GgufFile& file, const std::string& name,
                                          bool by_default, std::size_t vocab_size) {
  const std::string prefix = "tokenizer.ggml.";
  if (!file.boolean(prefix + "add_" + name + "_token").value_or(by_default)) return std::nullopt;
  const std::string key = prefix + name + "_token_id";
  const std::optional<std::uint64_t> id = file.integer(key, kMaxSize);
  QALOF_CHECK(id.has_value() && *id < vocab_size, ErrorKind::kBadInput,
              "{}: {} is {}, expected 0..{}: the tokenizer puts this token around every text",
              file.path(), key, id ? std::to_string(*id) : "missing", vocab_size - 1);
  return *id;
}

// The text of tokenizer.json; loaded once to verify it.
std::string tokenizer_of(const io::GgufFile& file, std::size_t vocab_size) {
  const std::string_view model = file.string("tokenizer.ggml.model").value_or("missing");
  QALOF_CHECK(model == "gpt2", ErrorKind::kUnsupported,
              "{}: tokenizer.ggml.model is {:.40}, implemented is gpt2 (byte-level BPE)",
              file.path(), model);
  text::BpeParts parts;
  for (const char* key :
       {"tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"}) {
    QALOF_CHECK(file.contains(key), ErrorKind::kBadInput, "{}: {} is missing", file.path(), key);
  }
  const auto tokens = file.strings("tokenizer.ggml.tokens", kMaxTokens);
  const auto merges = file.strings("tokenizer.ggml.merges", kMaxMerges);
  const auto types = file.integers("tokenizer.ggml.token_type", kMaxTokens);
  QALOF_CHECK(tokens->size() == vocab_size && types->size() == vocab_size, ErrorKind::kBadInput,
              "{}: {} tokens and {} token types for an embedding of {}", file.path(),
              tokens->size(), types->size(), vocab_size);
  // Control, unknown and unused tokens are special; user-defined ones are text that is never split.
  constexpr std::int32_t kNormal = 1, kUserDefined = 4;
  for (std::size_t id = 0; id < types->size(); ++id) {
    const std::int32_t type = (*types)[id];
    if (type != kNormal) parts.added.push_back({id, type != kUserDefined});
  }
  parts.tokens = *tokens;
  parts.merges = *merges;
  parts.pre_tokenizer = pre_tokenizer_of(file);
  parts.ignores_merges = parts.pre_tokenizer == text::PreTokenizer::kLlama3;
  // llama.cpp adds bos before every text for llama-bpe, unless the file says otherwise.
  parts.bos =
      template_token(file, "bos", parts.pre_tokenizer == text::PreTokenizer::kLlama3, vocab_size);
  parts.eos = template_token(file, "eos", /*by_default=*/false, vocab_size);
  QALOF_CHECK(!file.boolean("tokenizer.ggml.add_sep_token").value_or(false),
              ErrorKind::kUnsupported,
              "{}: tokenizer.ggml.add_sep_token is true, implemented is false", file.path());
  std::string json = text::tokenizer_json(parts, file.path());
  // Throws for an inconsistent tokenizer before anything is written.
  text::BpeTokenizer::from_files({{"tokenizer.json", json}}, file.path());
  return json;
}

// Maps our tensor names to the file's, for all tensors of a model with this config.
std::map<std::string, std::string> gguf_names(const model::ModelConfig& config) {
  const model::TensorNames ours = model::tensor_names(config);
  std::map<std::string, std::string> names = {{ours.token_embedding, "token_embd.weight"},
                                              {ours.final_norm + ".weight", "output_norm.weight"}};
  if (config.lm_head == model::LmHead::kOwn) names[model::kLmHeadTensor] = "output.weight";
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    names[ours.attention_norms[layer] + ".weight"] = fmt::format("blk.{}.attn_norm.weight", layer);
    names[ours.mlp_norms[layer] + ".weight"] = fmt::format("blk.{}.ffn_norm.weight", layer);
  }
  for (const model::LinearSpec& spec : model::linears(config)) {
    for (const auto& [ours_in_layer, theirs] : kLinearNames) {
      if (std::string_view(spec.name_in_layer()) == ours_in_layer)
        names[spec.name + ".weight"] = fmt::format("blk.{}.{}.weight", spec.layer, theirs);
    }
  }
  return names;
}

// One tensor to write: ours, theirs, and the heads whose rows are reordered (0: none).
struct Work {
  std::string name, theirs;
  const io::GgufTensor* source;
  std::size_t heads;
};

std::vector<Work> tensors_of(const io::GgufFile& file, const model::ModelConfig& config) {
  std::map<std::string, std::size_t> heads;
  for (const model::LinearSpec& spec : model::linears(config)) {
    if (spec.role == model::LinearRole::kQ) heads[spec.name + ".weight"] = config.num_heads;
    if (spec.role == model::LinearRole::kK) heads[spec.name + ".weight"] = config.num_kv_heads;
  }
  const std::map<std::string, std::string> names = gguf_names(config);
  std::vector<Work> work;
  for (const model::TensorSpec& spec : model::stored_tensors(config)) {
    const std::string& theirs = names.at(spec.name);
    const auto found = file.tensors().find(theirs);
    QALOF_CHECK(found != file.tensors().end(), ErrorKind::kBadInput, "{}: tensor {} is missing",
                file.path(), theirs);
    QALOF_CHECK(found->second.shape == spec.shape, ErrorKind::kBadInput,
                "{}: tensor {} has shape [{}], expected [{}]", file.path(), theirs,
                fmt::join(found->second.shape, ", "), fmt::join(spec.shape, ", "));
    work.push_back(
        {spec.name, theirs, &found->second, heads.contains(spec.name) ? heads[spec.name] : 0});
  }
  if (work.size() != file.tensors().size()) {
    for (const auto& entry : file.tensors()) {
      const auto reads = [&entry](const Work& one) { return one.source == &entry.second; };
      QALOF_CHECK(entry.first == kRopeFactors || std::ranges::any_of(work, reads),
                  ErrorKind::kUnsupported, "{}: tensor {} is not part of a Llama", file.path(),
                  entry.first);
    }
  }
  return work;
}

// Values in Hugging Face's order. For rotary positions, GGUF pairs neighbouring rows of a head,
// transformers pairs rows that are half a head apart.
std::vector<float> values_of(const Work& work, const std::string& path) {
  const io::GgufTensor& source = *work.source;
  std::vector<float> values(source.num_elements());
  if (work.heads == 0) {
    io::copy_as_f32(source, 0, values);
    check_finite_tensor(values, path, work.theirs);
    return values;
  }
  const std::size_t cols = source.shape[1], head_rows = source.shape[0] / work.heads;
  for (std::size_t row = 0; row < source.shape[0]; ++row) {
    const std::size_t head = row / head_rows, side = row % head_rows / (head_rows / 2),
                      pair = row % (head_rows / 2);
    const std::size_t from = head * head_rows + 2 * pair + side;
    const auto to = std::span(values).subspan(row * cols, cols);
    io::copy_as_f32(source, from, to);
    check_finite_tensor(to, path, work.theirs, from * cols);
  }
  return values;
}

}  // namespace

ImportResult import_gguf(const ImportOptions& options, Observer& observer) {
  observer.status("opening " + options.source);
  const io::GgufFile file = io::GgufFile::open(options.source);
  Json raw = config_of(file);
  raw["dtype"] = options.bf16 ? "bfloat16" : "float32";
  const model::ModelConfig config = model::parse_model_config(raw, file.path());
  const std::vector<Work> work = tensors_of(file, config);
  const std::string tokenizer = tokenizer_of(file, config.vocab_size);
  const fs::path directory = options.output_dir;
  const std::string prefix = model::decoder_prefix(config, model::ModelClass::kCausalLm);
  std::vector<io::TensorToMake> tensors;
  for (const Work& one : work) {
    const bool is_head = one.name.starts_with("lm_head");
    tensors.push_back({(is_head ? "" : prefix) + one.name, one.source->shape,
                       [&one, &file] { return values_of(one, file.path()); }});
  }
  std::uint64_t done = 0;
  observer.progress("tensors", done, work.size(), "");
  io::write_model_weights(options.output_dir, tensors, options.bf16,
                          [&] { observer.progress("tensors", ++done, work.size(), ""); });
  write_file_atomic((directory / "tokenizer.json").string(), tokenizer);
  if (const std::string warning = write_gguf_chat_template(file, options.output_dir);
      !warning.empty())
    observer.warn(warning);
  // Written last, so that a directory with a config is complete.
  write_file_atomic((directory / "config.json").string(), raw.dump(2) + "\n");
  return {"GGUF file", options.output_dir, {options.output_dir}, work.size()};
}

}  // namespace qalof::app
