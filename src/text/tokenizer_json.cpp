// Writes a tokenizer.json in the subset that bpe_load.cpp and Hugging Face `tokenizers` read alike.
#include "text/tokenizer_json.h"

#include "core/error.h"

namespace qalof::text {

namespace {

Json pre_tokenizer(PreTokenizer kind) {
  Json first;
  switch (kind) {
    case PreTokenizer::kGpt2:
      return byte_level_step(true);
    case PreTokenizer::kDigits:
      first = {{"type", "Digits"}, {"individual_digits", true}};
      break;
    case PreTokenizer::kLlama3:
      first = {{"type", "Split"},
               {"pattern", {{"Regex", std::string(kLlama3Pattern)}}},
               {"behavior", "Isolated"},
               {"invert", false}};
      break;
  }
  const Json second = byte_level_step(kind != PreTokenizer::kLlama3);
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({first, second})}};
}

// A template with bos and eos around each text ("A", or "A" and "B").
Json text_template(const BpeParts& parts, const std::vector<const char*>& texts) {
  Json pieces = Json::array();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto add_token = [&](std::optional<std::size_t> id) {
      if (id) pieces.push_back({{"SpecialToken", {{"id", parts.tokens[*id]}, {"type_id", i}}}});
    };
    add_token(parts.bos);
    pieces.push_back({{"Sequence", {{"id", texts[i]}, {"type_id", i}}}});
    add_token(parts.eos);
  }
  return pieces;
}

Json post_processor(const BpeParts& parts) {
  if (!parts.bos && !parts.eos) return nullptr;
  Json tokens = Json::object();
  for (const std::optional<std::size_t> id : {parts.bos, parts.eos}) {
    if (!id) continue;
    const std::string token(parts.tokens[*id]);
    tokens[token] = {{"id", token}, {"ids", Json::array({*id})}, {"tokens", Json::array({token})}};
  }
  return {{"type", "TemplateProcessing"},
          {"single", text_template(parts, {"A"})},
          {"pair", text_template(parts, {"A", "B"})},
          {"special_tokens", std::move(tokens)}};
}

}  // namespace

Json byte_level_step(bool uses_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", uses_regex}};
}

std::string tokenizer_json(const BpeParts& parts, const std::string& where) {
  Json vocabulary = Json::object();
  for (std::size_t id = 0; id < parts.tokens.size(); ++id) {
    const auto [entry, is_new] = vocabulary.emplace(std::string(parts.tokens[id]), id);
    QALOF_CHECK(is_new, ErrorKind::kBadInput, "{}: tokens {} and {} are the same", where,
                entry->dump(), id);
  }
  Json merges = Json::array();
  for (const std::string& merge : parts.merges) merges.push_back(merge);
  Json added = Json::array();
  for (const BpeParts::Added& token : parts.added) {
    added.push_back({{"id", token.id},
                     {"content", parts.tokens[token.id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", token.is_special}});
  }
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", parts.unknown ? Json(parts.tokens[*parts.unknown]) : Json()},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", parts.falls_back_to_bytes},
                      {"byte_fallback", parts.falls_back_to_bytes},
                      {"ignore_merges", parts.ignores_merges},
                      {"vocab", std::move(vocabulary)},
                      {"merges", std::move(merges)}};
  const Json json = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", std::move(added)},
                     {"normalizer", parts.normalizer},
                     {"pre_tokenizer", parts.steps.is_null() && parts.pre_tokenizer
                                           ? pre_tokenizer(*parts.pre_tokenizer)
                                           : parts.steps},
                     {"post_processor", post_processor(parts)},
                     {"decoder", parts.decoder},
                     {"model", model}};
  return dump_json(json, where, 1) + "\n";
}

}  // namespace qalof::text
