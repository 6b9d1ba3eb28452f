// Model directories: what does not fit the model is refused by name, and damage never yields other
// numbers.
#include "weights/base_model.h"

#include <gmock/gmock.h>

#include <cstring>
#include <fstream>

#include "io/safetensors.h"
#include "runtime/fixture_model.h"
#include "support/error_of.h"
#include "support/tiny_model.h"

namespace qalof::runtime {
namespace base_model_test {

using qalof::testing::copy_directory;
using qalof::testing::error_of;
using qalof::testing::runtime_data;
using qalof::testing::TempDir;
using ::testing::HasSubstr;

struct Draft {
  std::map<std::string, io::TensorToWrite> tensors;
  std::map<std::string, std::vector<std::byte>> data;
  Json config;
  void set(const std::string& name, std::vector<std::size_t> shape,
           io::DType dtype = io::DType::kF32) {
    std::size_t bytes = static_cast<std::size_t>(io::dtype_bits(dtype)) / 8;
    for (const std::size_t extent : shape) bytes *= extent;
    data[name].resize(bytes);
    tensors[name] = {name, dtype, std::move(shape), {}};
  }
  void write(const std::string& directory) {
    std::vector<io::TensorToWrite> list;
    for (auto& [name, tensor] : tensors) {
      tensor.bytes = data[name];
      list.push_back(tensor);
    }
    io::write_safetensors(directory + "/model.safetensors", list, {});
    std::ofstream(directory + "/config.json") << config;
  }
};

Draft sound_draft() {
  static const auto file = io::SafetensorsFile::open(runtime_data("gpt2/f32/model.safetensors"));
  Draft draft;
  for (const auto& [name, view] : file.tensors()) {
    draft.data[name] = {view.bytes.begin(), view.bytes.end()};
    draft.tensors[name] = {name, view.dtype, view.shape, {}};
  }
  draft.config = read_json_file(runtime_data("gpt2/f32/config.json"));
  return draft;
}

TEST(HostileModel, MisfitsAreRefusedByName) {
  const auto bad = ErrorKind::kBadInput, unsupported = ErrorKind::kUnsupported;
  struct Case {
    const char* name;
    std::function<void(Draft&)> change;
    ErrorKind kind;
    std::string piece;
  };
  const std::string fc = "transformer.h.0.mlp.c_fc.weight";
  auto without = [](const std::string& name) { return [=](Draft& d) { d.tensors.erase(name); }; };
  auto config = [](const char* key, Json value) {
    return [=](Draft& d) { d.config[key] = value; };
  };
  const std::vector<Case> cases = {
      {"no tensors", [](Draft& d) { d.tensors.clear(); }, bad, "none of the"},
      {"no embedding", without("transformer.wte.weight"), bad, "wte.weight is missing"},
      {"no positions", without("transformer.wpe.weight"), bad, "wpe.weight is missing"},
      {"no linear", without(fc), bad, "h.0.mlp.c_fc.weight is missing"},
      {"no bias", without("transformer.h.1.attn.c_attn.bias"), bad,
       "h.1.attn.c_attn.bias is missing"},
      {"no final norm", without("transformer.ln_f.bias"), bad, "ln_f.bias is missing"},
      {"linear transposed",
       [&](Draft& d) {
         d.set(fc, {64, 16});
       },
       bad, "[in, out]"},
      {"linear of another size",
       [&](Draft& d) {
         d.set(fc, {16, 63});
       },
       bad, "has shape [16, 63], expected [16, 64]"},
      {"linear flat", [&](Draft& d) { d.set(fc, {1024}); }, bad, "has shape [1024]"},
      {"extra tensor",
       [](Draft& d) {
         d.set("transformer.h.0.mlp.c_gate.weight", {16, 64});
       },
       bad, "c_gate.weight is not"},
      {"extra layer", [](Draft& d) { d.set("transformer.h.2.ln_1.weight", {16}); }, bad,
       "h.2.ln_1.weight is not"},
      {"the same tensor under two names",
       [](Draft& d) {
         d.set("wte.weight", {61, 16});
       },
       bad, "wte.weight"},
      {"integers",
       [&](Draft& d) {
         d.set(fc, {16, 64}, io::DType::kI32);
       },
       bad, "c_fc.weight has dtype I32"},
      {"doubles",
       [&](Draft& d) {
         d.set(fc, {16, 64}, io::DType::kF64);
       },
       bad, "c_fc.weight has dtype F64"},
      {"three labels",
       [](Draft& d) {
         d.set("qa_outputs.weight", {3, 16});
       },
       bad, "expected [2, 16]"},
      {"head bias alone", without("qa_outputs.weight"), bad, "qa_outputs.bias has no"},
      {"head bias of another size", [](Draft& d) { d.set("qa_outputs.bias", {1}); }, bad,
       "expected [2]"},
      {"empty classifier",
       [](Draft& d) {
         d.set("score.weight", {0, 16});
       },
       bad, "expected [labels, 16]"},
      {"LM head of another size",
       [](Draft& d) {
         d.set("lm_head.weight", {60, 16});
       },
       bad, "lm_head.weight has shape"},
      {"untied without a head",
       [](Draft& d) {
         d.config["tie_word_embeddings"] = false;
         d.config["architectures"] = {"GPT2LMHeadModel"};
       },
       bad, "lm_head.weight is missing"},
      {"config of a wider model", config("n_embd", 32), bad, "expected [61, 32]"},
      {"config with more layers", config("n_layer", 3), bad, "h.2."},
      {"config with fewer layers", config("n_layer", 1), bad, "h.1."},
      {"config with other heads", config("n_head", 3), bad, "not divisible"},
      {"negative layers", config("n_layer", -1), bad, "n_layer"},
      {"zero vocabulary", config("vocab_size", 0), bad, "vocab_size"},
      {"huge positions", config("n_positions", 4000000000), bad, "n_positions"},
      {"layers a float", config("n_layer", 2.0), bad, "n_layer"},
      {"layers a text", config("n_layer", "2"), bad, "n_layer"},
      {"another family", config("model_type", "mamba"), unsupported, "mamba"},
      {"relu", config("activation_function", "relu"), unsupported, "relu"},
      {"cross attention", config("add_cross_attention", true), unsupported, "add_cross_attention"},
      {"config a list", [](Draft& d) { d.config = Json::array(); }, bad, "expected an object"},
  };
  const TempDir directory;
  sound_draft().write(directory.path());
  ASSERT_NO_THROW(weights::BaseModel::load_directory(directory.path()));
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Draft draft = sound_draft();
    c.change(draft);
    draft.write(directory.path());
    const auto error = error_of([&] { weights::BaseModel::load_directory(directory.path()); });
    EXPECT_EQ(static_cast<int>(error.kind), static_cast<int>(c.kind)) << error.message;
    EXPECT_THAT(error.message, HasSubstr(c.piece));
  }
}

std::shared_ptr<const weights::BaseModel> load(const Draft& draft, const TempDir& directory) {
  Draft copy = draft;
  copy.write(directory.path());
  return weights::BaseModel::load_directory(directory.path());
}

TEST(BesideTheDecoder, HeadsThatNothingReadsAreNamedInAWarning) {
  const TempDir directory;
  Draft draft = sound_draft();
  EXPECT_THAT(load(draft, directory)->warnings(), ::testing::IsEmpty());
  // By name alone, by standing outside of transformer., in any dtype.
  for (const char* name :
       {"v_head.summary.weight", "v_head.summary.bias", "multiple_choice_head.summary.weight",
        "lm_head.bias", "lm_head_norm.weight", "mtp.layers.0.weight", "transformer.pooler.weight",
        "score.bias", "reward.0.weight"})
    draft.set(name, {1, 16}, io::DType::kI64);
  const auto base = load(draft, directory);
  ASSERT_EQ(base->warnings().size(), 1U);
  EXPECT_THAT(base->warnings()[0], HasSubstr("beside the decoder that are not used: lm_head.bias, "
                                             "lm_head_norm.weight, mtp.layers.0.weight, "));
  EXPECT_THAT(base->warnings()[0], HasSubstr("and 1 more"));
  EXPECT_FALSE(base->class_head().has_value());
}

TEST(BesideTheDecoder, WhatMakesAnotherDecoderIsRefused) {
  const TempDir directory;
  for (const char* name :
       {"transformer.h.0.attn.q_norm.weight", "transformer.h.2.ln_1.weight", "h.0.lm_head.weight",
        "transformer.wte.bias", "transformer.ln_f.scale", "transformer.embed_positions.weight",
        "transformer.project_in.weight", "layers.0.mlp.up_proj.weight"}) {
    Draft draft = sound_draft();
    draft.set(name, {16});
    const auto error = error_of([&] { load(draft, directory); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput) << name;
    EXPECT_THAT(error.message, HasSubstr("is not part of this model")) << name;
  }
}

std::vector<float> head_of(const weights::BaseModel& base) {
  SerialFor serial;
  return weights::unpack_reals(base.lm_head({32}, serial), serial);
}

TEST(LmHead, IsTheOneThatTheFileHolds) {
  const TempDir directory;
  Draft draft = sound_draft();
  const auto tied = load(draft, directory);
  EXPECT_EQ(tied->config().lm_head, model::LmHead::kTied);
  const std::vector<float> embedding = head_of(*tied);

  draft.tensors["lm_head.weight"] = {"lm_head.weight", io::DType::kF32, {61, 16}, {}};
  draft.data["lm_head.weight"] = draft.data["transformer.wte.weight"];
  const auto equal = load(draft, directory);
  EXPECT_EQ(equal->config().lm_head, model::LmHead::kTied);
  EXPECT_THAT(equal->warnings(), ::testing::IsEmpty());

  draft.data["lm_head.weight"][2] ^= std::byte{0x10};
  const auto own = load(draft, directory);
  EXPECT_EQ(own->config().lm_head, model::LmHead::kOwn);
  EXPECT_EQ(own->config().raw["tie_word_embeddings"], false);
  ASSERT_EQ(own->warnings().size(), 1U);
  EXPECT_THAT(own->warnings()[0], HasSubstr("lm_head.weight and transformer.wte.weight hold other "
                                            "values; the LM head is the one stored"));
  EXPECT_NE(head_of(*own), embedding);
}

// The same numbers in another dtype are the same.
TEST(LmHead, IsComparedByValue) {
  const TempDir directory;
  Draft draft = sound_draft();
  std::vector<float> values(61 * 16);
  std::memcpy(values.data(), draft.data["transformer.wte.weight"].data(), 4 * values.size());
  draft.data["lm_head.weight"] = io::bf16_bytes(values);
  draft.tensors["lm_head.weight"] = {"lm_head.weight", io::DType::kBF16, {61, 16}, {}};
  io::copy_as_f32(io::DType::kBF16, draft.data["lm_head.weight"], values);
  const auto bytes = std::as_bytes(std::span<const float>(values));
  EXPECT_EQ(load(draft, directory)->config().lm_head, model::LmHead::kOwn);
  draft.data["transformer.wte.weight"] = {bytes.begin(), bytes.end()};
  EXPECT_EQ(load(draft, directory)->config().lm_head, model::LmHead::kTied);
}

// Writers that store one of two names of a tensor may keep the head's.
TEST(LmHead, StandsForATiedEmbeddingThatIsNotStored) {
  const TempDir directory;
  Draft draft = sound_draft();
  const std::vector<float> embedding = head_of(*load(draft, directory));
  draft.data["lm_head.weight"] = draft.data["transformer.wte.weight"];
  draft.tensors["lm_head.weight"] = {"lm_head.weight", io::DType::kF32, {61, 16}, {}};
  draft.tensors.erase("transformer.wte.weight");
  const auto base = load(draft, directory);
  EXPECT_EQ(base->config().lm_head, model::LmHead::kTied);
  EXPECT_EQ(head_of(*base), embedding);
  EXPECT_EQ(base->source().tensor_f32("wte.weight")->size(), embedding.size());
  draft.config["tie_word_embeddings"] = false;
  EXPECT_THAT(error_of([&] { load(draft, directory); }).message,
              HasSubstr("wte.weight is missing"));
}

TEST(LmHead, IsNotNeededByAClassifier) {
  const TempDir directory;
  Draft draft = sound_draft();
  draft.config["tie_word_embeddings"] = false;
  for (const char* name :
       {"GPT2ForQuestionAnswering", "GPT2ForSequenceClassification", "GPT2Model"}) {
    draft.config["architectures"] = {name};
    const auto base = load(draft, directory);
    EXPECT_EQ(base->config().lm_head, model::LmHead::kNone);
    const auto error = error_of([&] { head_of(*base); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
    EXPECT_THAT(error.message, HasSubstr("has no LM head"));
  }
  draft.config.erase("architectures");
  EXPECT_EQ(load(draft, directory)->config().lm_head, model::LmHead::kNone);
}

// A quantizer would make plain codes of it.
TEST(NotFinite, IsFoundInEveryTensorWhereItIsRead) {
  const TempDir directory;
  const Draft sound = sound_draft();
  SerialFor serial;
  for (const auto& [name, tensor] : sound.tensors) {
    for (const std::uint32_t bits : {0x7fc00000U, 0x7f800000U, 0xff800000U}) {
      Draft draft = sound;
      std::memcpy(draft.data[name].data() + draft.data[name].size() - 4, &bits, 4);
      const auto error = error_of([&] {
        const auto base = load(draft, directory);
        for (std::size_t i = 0; i < base->linears().size(); ++i)
          base->packed(i, {{4}, {8}}, {}, serial);
        std::vector<float> row(16);
        base->embed(std::vector<std::int32_t>{60}, std::vector<std::int32_t>{31}, {32}, row.data());
      });
      EXPECT_EQ(error.kind, ErrorKind::kBadInput) << name;
      EXPECT_THAT(error.message, HasSubstr("tensor " + name + " holds")) << name;
    }
  }
}

bool same_model(const weights::BaseModel& a, const weights::BaseModel& b) {
  for (const model::TensorSpec& spec : model::expected_tensors(a.config())) {
    const auto x = a.source().tensor_f32(spec.name), y = b.source().tensor_f32(spec.name);
    if (!x || !y || x->size() != y->size() || std::memcmp(x->data(), y->data(), 4 * x->size()) != 0)
      return false;
  }
  return a.qa_head().has_value() == b.qa_head().has_value() &&
         (!a.qa_head() || a.qa_head()->weight == b.qa_head()->weight);
}

// Names, shapes and places all stand in the header: a flipped bit there is refused, or touches only
// what says nothing (padding, metadata) and every number is what it was.
TEST(HostileModel, FlippedHeaderBitsNeverYieldOtherTensors) {
  const TempDir directory;
  copy_directory(runtime_data("gpt2/f32"), directory.path());
  const auto sound = weights::BaseModel::load_directory(runtime_data("gpt2/f32"));
  const std::string path = directory.file("model.safetensors");
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  std::uint64_t header = 0;
  file.read(reinterpret_cast<char*>(&header), 8);
  std::size_t refused = 0, harmless = 0;
  for (std::size_t bit = 0; bit < 8 * (8 + header); ++bit) {
    const auto at = static_cast<std::streamoff>(bit / 8);
    auto flip = [&] {
      file.seekg(at);
      const int byte = file.get() ^ (1 << (bit % 8));
      file.seekp(at);
      file.put(static_cast<char>(byte));
      file.flush();
    };
    flip();
    try {
      ASSERT_TRUE(same_model(*sound, *weights::BaseModel::load_directory(directory.path())))
          << "bit " << bit;
      ++harmless;
    } catch (const Error& error) {
      ASSERT_NE(error.kind(), ErrorKind::kInternal) << error.what();
      ++refused;
    }
    flip();
  }
  EXPECT_GT(refused, 20 * harmless);
}

TEST(HostileModel, EveryTruncationIsRefused) {
  const TempDir directory;
  copy_directory(runtime_data("gpt2/f32"), directory.path());
  const std::string config = read_file(directory.file("config.json"), 1 << 20);
  const std::size_t last_brace = config.rfind('}');
  for (std::size_t size = 0; size <= last_brace; ++size) {
    // A new file each time: cutting an old one may write it through to the disk.
    std::filesystem::remove(directory.file("config.json"));
    std::ofstream(directory.file("config.json")) << config.substr(0, size);
    ASSERT_EQ(error_of([&] { weights::BaseModel::load_directory(directory.path()); }).kind,
              ErrorKind::kCorruptFile)
        << size;
  }
  std::ofstream(directory.file("config.json")) << config;
  const std::string weights = directory.file("model.safetensors");
  for (std::size_t size = std::filesystem::file_size(weights); size-- > 0;) {
    std::filesystem::resize_file(weights, size);
    ASSERT_EQ(error_of([&] { weights::BaseModel::load_directory(directory.path()); }).kind,
              ErrorKind::kCorruptFile)
        << size;
  }
}

}  // namespace base_model_test
}  // namespace qalof::runtime
