// A GGUF file of several stored types arrives as transformers would read it: weights, rows of q and
// k, config and tokenizer (tools/fixtures/make_gguf_fixtures.py); misfits are refused in one
// sentence.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "app/import/import.h"
#include "core/error.h"
#include "core/file.h"
#include "io/model_dir.h"
#include "runtime/decoder.h"
#include "support/error_of.h"
#include "support/gguf_bytes.h"
#include "support/temp_dir.h"
#include "support/thread_seconds.h"
#include "text/text_encoder.h"

namespace qalof::app {
namespace import_gguf_test {

using qalof::testing::error_of;
using qalof::testing::TempDir;
using ::testing::HasSubstr;

const std::string kData = QALOF_SOURCE_DIR "/tests/app/data/gguf/";

class ImportGgufTest : public ::testing::Test {
 protected:
  ImportResult import(const std::string& source, bool bf16 = false) {
    ImportOptions options;
    options.source = source;
    options.output_dir = dir_.file("model");
    options.overwrite = true;
    options.bf16 = bf16;
    Observer observer;
    return run_import(options, observer);
  }
  std::string sound() { return read_file(kData + "tiny.gguf", std::size_t{1} << 20); }
  std::string put(const std::string& bytes) {
    std::ofstream(dir_.file("damaged.gguf"), std::ios::binary) << bytes;
    return dir_.file("damaged.gguf");
  }
  // The sound file with one text in it replaced by another of the same length.
  std::string with(const std::string& from, const std::string& to) {
    std::string bytes = sound();
    const std::size_t at = bytes.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    EXPECT_EQ(from.size(), to.size());
    return put(bytes.replace(at, from.size(), to));
  }
  // The sound file with another value of 4 bytes behind a key.
  std::string with_number(const std::string& key, std::uint32_t value) {
    std::string bytes = sound();
    const std::size_t at = bytes.find(key);
    EXPECT_NE(at, std::string::npos) << key;
    std::memcpy(bytes.data() + at + key.size() + 4, &value, 4);
    return put(bytes);
  }
  const Json expected_ = read_json_file(kData + "expected.json");
  TempDir dir_;
};

TEST_F(ImportGgufTest, GivesWhatTransformersComputes) {
  const ImportResult result = import(kData + "tiny.gguf");
  EXPECT_EQ(result.format, "GGUF file");
  EXPECT_EQ(result.tensors, 20U);
  const auto base = weights::BaseModel::load_directory(dir_.file("model"));
  EXPECT_EQ(base->config().eos_token_ids, std::vector<std::int64_t>{0});
  SerialFor serial;
  const auto execution = runtime::Execution::create(
      base, quant::resolve(quant::parse_plan("32"), base->target()), nullptr, serial);
  const auto ids = expected_["ids"].get<std::vector<std::int32_t>>();
  runtime::DecoderWorkspace workspace;
  std::vector<float> hidden(ids.size() * base->config().hidden);
  const runtime::Sequence sequence{ids};
  runtime::forward(*execution, {&sequence, 1}, workspace, hidden.data(), serial);
  const std::vector<float> losses =
      runtime::lm_token_losses(*execution, hidden.data(), std::span(ids).subspan(1), serial);
  for (std::size_t t = 0; t < losses.size(); ++t) {
    const double loss = expected_["losses"][t];
    EXPECT_LE(std::abs(static_cast<double>(losses[t]) - loss), 1e-5 * std::max(1.0, loss));
  }
}

TEST_F(ImportGgufTest, NumbersThatAreNotFiniteAreRefusedByName) {
  std::string bytes = sound();
  std::fill(bytes.end() - 64, bytes.end(), '\xff');  // more than pads the last tensor
  const auto error = error_of([&] { import(put(bytes)); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("damaged.gguf: tensor "));
  EXPECT_THAT(error.message, HasSubstr("expected finite numbers"));
}

TEST_F(ImportGgufTest, TensorsHaveTheNamesAndSumsOfHuggingFace) {
  for (const bool bf16 : {false, true}) {
    import(kData + "tiny.gguf", bf16);
    const auto file = io::SafetensorsFile::open(dir_.file("model/model.safetensors"));
    ASSERT_EQ(file.tensors().size(), expected_["sums"].size());
    for (const auto& [name, sums] : expected_["sums"].items()) {
      ASSERT_TRUE(file.tensors().contains(name)) << name;
      const io::TensorView& view = file.tensors().at(name);
      EXPECT_EQ(view.dtype, bf16 ? io::DType::kBF16 : io::DType::kF32);
      std::vector<float> values(view.num_elements());
      io::copy_as_f32(view, values);
      double sum = 0, sizes = 0;
      for (const float value : values) {
        sum += static_cast<double>(value);
        sizes += std::fabs(static_cast<double>(value));
      }
      // Rounding to bfloat16 moves a number by a 256th at most.
      const double tolerance = (bf16 ? 1.0 / 256 : 1e-12) * sums[1].get<double>();
      EXPECT_LE(std::fabs(sum - sums[0].get<double>()), tolerance) << name;
      EXPECT_LE(std::fabs(sizes - sums[1].get<double>()), tolerance) << name;
    }
  }
}

TEST_F(ImportGgufTest, TokenizerHasTheIdsOfTokenizers) {
  import(kData + "tiny.gguf");
  const auto tokenizer = text::BpeTokenizer::load(dir_.file("model"));
  for (const auto& [text, ids] : expected_["encodings"].items())
    EXPECT_EQ(tokenizer.encode(text).ids, ids.get<std::vector<std::int32_t>>()) << text;
  EXPECT_EQ(tokenizer.encode("<|end|>", /*parse_special=*/true).ids, std::vector<std::int32_t>{0});
}

// The sound file with more metadata, and a filler that keeps the data aligned.
std::string with_entries(std::string bytes,
                         const std::vector<std::pair<std::string, bool>>& flags) {
  using qalof::testing::GgufBytes;
  std::string entries;
  for (const auto& [key, value] : flags)
    entries += GgufBytes::text(key) + GgufBytes::raw<std::uint32_t>(7) + (value ? '\1' : '\0');
  const std::string filler = GgufBytes::text("filler") + GgufBytes::raw<std::uint32_t>(8);
  const std::size_t rest = 32 - (entries.size() + filler.size() + 8) % 32;
  entries += filler + GgufBytes::text(std::string(rest, 'x'));
  std::uint64_t count = 0;
  std::memcpy(&count, bytes.data() + 16, 8);
  bytes.replace(16, 8, GgufBytes::raw(count + flags.size() + 1));
  return bytes.insert(24, entries);
}

TEST_F(ImportGgufTest, FlagsOfFirstAndLastTokensBecomeTheTemplate) {
  const std::string bos = "tokenizer.ggml.add_bos_token", eos = "tokenizer.ggml.add_eos_token";
  const auto piece = [](int type) {
    return Json{{"SpecialToken", {{"id", "<|end|>"}, {"type_id", type}}}};
  };
  const auto text = [](const char* id, int type) {
    return Json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  const auto import_with = [&](const std::vector<std::pair<std::string, bool>>& flags) {
    import(put(with_entries(sound(), flags)));
    return read_json_file(dir_.file("model/tokenizer.json"))["post_processor"];
  };
  // The form in which `tokenizers` writes it.
  EXPECT_EQ(import_with({{bos, true}, {eos, true}}),
            (Json{{"type", "TemplateProcessing"},
                  {"single", {piece(0), text("A", 0), piece(0)}},
                  {"pair", {piece(0), text("A", 0), piece(0), piece(1), text("B", 1), piece(1)}},
                  {"special_tokens",
                   {{"<|end|>", {{"id", "<|end|>"}, {"ids", {0}}, {"tokens", {"<|end|>"}}}}}}}));
  const text::TextEncoder encoder(text::BpeTokenizer::load(dir_.file("model")));
  EXPECT_EQ(encoder.text_template(), text::text_template_of({0}, {0}));
  const std::vector<std::int32_t> bare = encoder.encode_bare("hello").ids;
  EXPECT_EQ(encoder.encode("hello").ids, (std::vector<std::int32_t>{0, bare.at(0), 0}));
  import_with({{bos, true}});
  EXPECT_EQ(text::BpeTokenizer::load(dir_.file("model")).text_template(),
            text::text_template_of({0}, {}));
  EXPECT_TRUE(import_with({{bos, false}, {eos, false}}).is_null());
  EXPECT_TRUE(import_with({}).is_null());
}

TEST_F(ImportGgufTest, LlamaBpeHasAFirstTokenUnlessTheFileSaysOtherwise) {
  const auto llama = [&] {
    std::string bytes = sound();
    // A name of the same length as the fixture's.
    const std::string from = "smollm", to = "llama3";
    bytes.replace(bytes.find(from), from.size(), to);
    return bytes;
  }();
  import(put(llama));
  EXPECT_EQ(text::BpeTokenizer::load(dir_.file("model")).text_template(),
            text::text_template_of({0}, {}));
  import(put(with_entries(llama, {{ "tokenizer.ggml.add_bos_token", false }})));
  EXPECT_EQ(text::BpeTokenizer::load(dir_.file("model")).text_template(), text::TextTemplate{});
}

TEST_F(ImportGgufTest, TemplatesThatCannotBeKeptAreRefused) {
  const auto message_of = [&](const std::string& bytes) {
    return error_of([&] { import(put(bytes)); }).message;
  };
  EXPECT_THAT(message_of(with_entries(sound(), {{"tokenizer.ggml.add_sep_token", true}})),
              HasSubstr("tokenizer.ggml.add_sep_token is true"));
  std::string lost = sound();
  const std::string key = "tokenizer.ggml.bos_token_id";
  lost[lost.find(key) + key.size() - 1] = 'X';
  EXPECT_THAT(message_of(with_entries(lost, {{"tokenizer.ggml.add_bos_token", true}})),
              HasSubstr("tokenizer.ggml.bos_token_id is missing"));
  std::string far = read_file(with_number(key, 5000), std::size_t{1} << 20);
  EXPECT_THAT(message_of(with_entries(far, {{"tokenizer.ggml.add_bos_token", true}})),
              HasSubstr("bos_token_id"));
}

TEST_F(ImportGgufTest, MisfitsAreRefusedByName) {
  const auto refused = [&](const std::string& path, ErrorKind kind) {
    std::filesystem::remove_all(dir_.file("model"));
    const auto error = error_of([&] { import(path); });
    EXPECT_EQ(error.kind, kind) << error.message;
    EXPECT_FALSE(path_exists(dir_.file("model")));
    return error.message;
  };
  constexpr ErrorKind kNotHere = ErrorKind::kUnsupported, kBad = ErrorKind::kBadInput;
  const auto text = [](const std::string& value) {
    return std::string(1, static_cast<char>(value.size())) + std::string(7, '\0') + value;
  };
  EXPECT_THAT(refused(with(text("llama"), text("gemma")), kNotHere),
              HasSubstr("general.architecture is gemma, implemented are gpt2, llama, qwen2"));
  EXPECT_THAT(refused(with(text("smollm"), text("falcon")), kNotHere),
              HasSubstr("tokenizer.ggml.pre is falcon"));
  EXPECT_THAT(refused(with(text("gpt2"), text("bert")), kNotHere),
              HasSubstr("tokenizer.ggml.model is bert"));
  EXPECT_THAT(refused(with("blk.1.attn_q.weight", "blk.1.attn_x.weight"), kBad),
              HasSubstr("tensor blk.1.attn_q.weight is missing"));
  EXPECT_THAT(refused(with_number("llama.block_count", 1), kNotHere),
              HasSubstr("is not part of a model of architecture llama"));
  EXPECT_THAT(refused(with_number("llama.block_count", 3), kBad), HasSubstr("blk.2."));
  EXPECT_THAT(refused(with_number("llama.attention.head_count_kv", 4), kBad),
              HasSubstr("attn_k.weight has shape [16, 32], expected [32, 32]"));
  EXPECT_THAT(refused(with_number("llama.rope.dimension_count", 4), kNotHere),
              HasSubstr("llama.rope.dimension_count is 4"));
  EXPECT_THAT(refused(with_number("llama.embedding_length", 0xFFFFFFFF), kBad),
              HasSubstr("llama.embedding_length"));
  EXPECT_THAT(refused(with("llama.context_length", "llama.context_lengtX"), kBad),
              HasSubstr("llama.context_length is missing"));
  EXPECT_THAT(refused(with("tokenizer.ggml.merges", "tokenizer.ggml.mergeX"), kBad),
              HasSubstr("tokenizer.ggml.merges is missing"));
  EXPECT_THAT(refused(put("version https://example.com\n"), ErrorKind::kCorruptFile),
              HasSubstr("is no GGUF file (it does not begin with the magic \"GGUF\")"));
  EXPECT_THAT(refused(with(text("h e"), text("h q")), kBad), HasSubstr("merge 0"));
}

// The factors by which llama.cpp's converter divides the frequencies of Llama 3.
std::vector<float> llama3_factors(double theta, double factor, std::size_t half) {
  std::vector<float> factors;
  for (std::size_t i = 0; i < half; ++i) {
    const double wave =
        2 * M_PI * std::pow(theta, static_cast<double>(i) / static_cast<double>(half));
    const double smooth = (8192.0 / wave - 1.0) / (4.0 - 1.0);
    factors.push_back(static_cast<float>(wave < 8192.0 / 4.0 ? 1.0
                                         : wave > 8192.0 / 1.0
                                             ? factor
                                             : 1 / ((1 - smooth) / factor + smooth)));
  }
  return factors;
}

TEST_F(ImportGgufTest, RopeFactorsBecomeTheScalingOfLlama3OrAreRefused) {
  using qalof::testing::GgufBytes;
  // Waves that are kept, one between and some that are slowed down.
  constexpr float kTheta = 2.5e10F;
  std::uint32_t theta_bits = 0;
  std::memcpy(&theta_bits, &kTheta, 4);
  const std::string turned = read_file(with_number("llama.rope.freq_base", theta_bits), 1 << 20);
  const auto with_factors = [&](const std::vector<float>& factors) {
    std::string bytes = turned;
    const std::size_t last = bytes.rfind(".weight") + 7;
    std::uint32_t dims = 0;
    std::memcpy(&dims, bytes.data() + last, 4);
    const std::size_t end = last + 4 + 8 * dims + 4 + 8, start = (end + 31) / 32 * 32;
    const std::string data = bytes.substr(start);
    const std::size_t offset = (data.size() + 31) / 32 * 32;
    std::uint64_t count = 0;
    std::memcpy(&count, bytes.data() + 8, 8);
    bytes.replace(8, 8, GgufBytes::raw(count + 1));
    bytes = bytes.substr(0, end) + GgufBytes::text("rope_freqs.weight") +
            GgufBytes::raw<std::uint32_t>(1) + GgufBytes::raw<std::uint64_t>(factors.size()) +
            GgufBytes::raw<std::uint32_t>(0) + GgufBytes::raw<std::uint64_t>(offset);
    bytes.resize((bytes.size() + 31) / 32 * 32, '\0');
    bytes += data;
    bytes.resize(bytes.size() + offset - data.size(), '\0');
    for (const float factor : factors) bytes += GgufBytes::raw(factor);
    return put(bytes);
  };
  std::vector<float> factors = llama3_factors(static_cast<double>(kTheta), 32.0, 4);
  EXPECT_EQ(factors[0], 1.0F);
  EXPECT_GT(factors[1], 1.0F);
  EXPECT_LT(factors[1], 32.0F);
  EXPECT_EQ(factors[3], 32.0F);
  import(with_factors(factors));
  const Json config = read_json_file(dir_.file("model/config.json"));
  EXPECT_EQ(config["rope_scaling"], (Json{{"rope_type", "llama3"},
                                          {"factor", 32.0},
                                          {"low_freq_factor", 1.0},
                                          {"high_freq_factor", 4.0},
                                          {"original_max_position_embeddings", 8192}}));
  // Other bounds are found from the factors, so that frequencies are what they were.
  factors[1] *= 1.01F;
  import(with_factors(factors));
  const auto rotary =
      model::parse_model_config(read_json_file(dir_.file("model/config.json")), "config").rotary;
  const std::vector<float> scaled = model::rotary_frequencies(*rotary, 8);
  model::RotaryPositions plain;
  plain.theta = rotary->theta;
  const std::vector<float> unscaled = model::rotary_frequencies(plain, 8);
  for (std::size_t i = 0; i < factors.size(); ++i)
    EXPECT_NEAR(unscaled[i] / scaled[i], factors[i], 1e-4F * factors[i]);
  // No bounds make a short wave slower than a longer one.
  factors[0] = 8.0F;
  auto error = error_of([&] { import(with_factors(factors)); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("rope_freqs.weight[0]"));
  factors[0] = 1.0F;
  factors[1] = std::nanf("");
  EXPECT_EQ(error_of([&] { import(with_factors(factors)); }).kind, ErrorKind::kUnsupported);
  factors.push_back(1.0F);
  error = error_of([&] { import(with_factors(factors)); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("has shape [5], expected [4]"));
}

TEST_F(ImportGgufTest, DamageIsRefusedOrHarmless) {
  const std::string bytes = sound();
  const std::size_t header = bytes.find("blk.1.ffn_up.weight");  // near its end
  std::size_t refused = 0, tried = 0;
  for (std::size_t bit = 3; bit < 8 * header; bit += 61) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    const double start = qalof::testing::thread_seconds();
    try {
      import(put(damaged));
    } catch (const Error& error) {
      ++refused;
      EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
    ++tried;
    EXPECT_LE(qalof::testing::thread_seconds_since(start), 2.0) << bit;
  }
  EXPECT_GT(refused, tried / 4);
  for (std::size_t size = 0; size < bytes.size(); size += 97)
    EXPECT_THROW(import(put(bytes.substr(0, size))), Error) << size;
}

}  // namespace import_gguf_test
}  // namespace qalof::app
