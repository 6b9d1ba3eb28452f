// A GPT-2 written by transformers gives here what it gives there, however its tensors are stored
// and named.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "io/safetensors.h"
#include "runtime/fixture_model.h"

namespace qalof::runtime {
namespace gpt2_parity_test {

using qalof::testing::copy_directory;
using qalof::testing::execution_of;
using qalof::testing::hidden_of;
using qalof::testing::runtime_data;
using qalof::testing::span_difference;
using qalof::testing::span_logits_of;
using qalof::testing::TempDir;

const Json& expected(const std::string& form) {
  static const Json all = read_json_file(runtime_data("gpt2/expected.json"));
  return all.at(form);
}

// Compares losses and span logits of a directory with what transformers computed in float64.
void expect_parity(const std::string& directory, const std::string& form) {
  SCOPED_TRACE(directory);
  const auto execution = execution_of(weights::BaseModel::load_directory(directory), "32");
  ASSERT_NE(execution->head(weights::HeadKind::kSpan), nullptr);
  SerialFor serial;
  for (const Json& entry : expected(form)) {
    const auto ids = entry["ids"].get<std::vector<std::int32_t>>();
    SCOPED_TRACE(ids.size());
    EXPECT_LE(span_difference(entry["span_logits"], span_logits_of(*execution, ids)), 2e-5);
    const std::vector<float> hidden = hidden_of(*execution, ids);
    const std::vector<float> losses =
        lm_token_losses(*execution, hidden.data(), std::span(ids).subspan(1), serial);
    ASSERT_EQ(losses.size(), entry["losses"].size());
    for (std::size_t t = 0; t < losses.size(); ++t) {
      const double loss = entry["losses"][t];
      EXPECT_LE(std::abs(static_cast<double>(losses[t]) - loss), 1e-5 * std::max(1.0, loss));
    }
  }
}

// The fixture with every tensor named by rename.
template <typename Rename>
void write_renamed(const std::string& directory, const Rename& rename) {
  copy_directory(runtime_data("gpt2/f32"), directory);
  const auto file = io::SafetensorsFile::open(runtime_data("gpt2/f32/model.safetensors"));
  std::vector<io::TensorToWrite> tensors;
  for (const auto& [name, view] : file.tensors()) {
    tensors.push_back({rename(name), view.dtype, view.shape, view.bytes});
  }
  io::write_safetensors(directory + "/model.safetensors", tensors, {});
}

TEST(Gpt2Parity, SingleFileInF32) { expect_parity(runtime_data("gpt2/f32"), "f32"); }
TEST(Gpt2Parity, StoredAsHalf) { expect_parity(runtime_data("gpt2/f16"), "f16"); }
TEST(Gpt2Parity, StoredAsBfloat16) { expect_parity(runtime_data("gpt2/bf16"), "bf16"); }
TEST(Gpt2Parity, ShardsWithAnIndex) { expect_parity(runtime_data("gpt2/sharded"), "f32"); }

TEST(Gpt2Parity, StoredFormsDiffer) {
  // Else the three fixtures would not tell one reader of floats from another.
  EXPECT_NE(expected("f32"), expected("f16"));
  EXPECT_NE(expected("f16"), expected("bf16"));
}

TEST(Gpt2Parity, NamesWithEveryPrefix) {
  constexpr std::string_view kTransformer = "transformer.";
  for (const std::string prefix :
       {"", "transformer.", "module.transformer.", "_orig_mod.transformer.",
        "_orig_mod.module.transformer.", "base_model.model.transformer."}) {
    const TempDir directory;
    write_renamed(directory.path(), [&](const std::string& name) {
      return name.starts_with(kTransformer) ? prefix + name.substr(kTransformer.size()) : name;
    });
    expect_parity(directory.path(), "f32");
  }
}

TEST(Gpt2Parity, OldMaskBuffersAreIgnored) {
  const TempDir directory;
  copy_directory(runtime_data("gpt2/f32"), directory.path());
  const auto file = io::SafetensorsFile::open(runtime_data("gpt2/f32/model.safetensors"));
  std::vector<io::TensorToWrite> tensors;
  for (const auto& [name, view] : file.tensors()) {
    tensors.push_back({name, view.dtype, view.shape, view.bytes});
  }
  const std::vector<std::byte> mask(32 * 32), scalar(4);
  for (const std::string layer : {"transformer.h.0.", "transformer.h.1."}) {
    tensors.push_back({layer + "attn.bias", io::DType::kU8, {1, 1, 32, 32}, mask});
    tensors.push_back({layer + "attn.masked_bias", io::DType::kF32, {}, scalar});
  }
  io::write_safetensors(directory.file("model.safetensors"), tensors, {});
  expect_parity(directory.path(), "f32");
}

// The head that the directory stores is used where the config says that it is not tied.
TEST(Gpt2Parity, UntiedHeadIsUsed) {
  const TempDir directory;
  copy_directory(runtime_data("gpt2/f32"), directory.path());
  Json config = read_json_file(directory.file("config.json"));
  config["tie_word_embeddings"] = false;
  std::ofstream(directory.file("config.json")) << config;
  const auto file = io::SafetensorsFile::open(runtime_data("gpt2/f32/model.safetensors"));
  std::vector<io::TensorToWrite> tensors;
  for (const auto& [name, view] : file.tensors()) {
    tensors.push_back({name, view.dtype, view.shape, view.bytes});
  }
  const std::vector<float> zeros(61 * 16, 0.0F);
  tensors.push_back({"lm_head.weight", io::DType::kF32, {61, 16}, std::as_bytes(std::span(zeros))});
  io::write_safetensors(directory.file("model.safetensors"), tensors, {});
  const auto execution = execution_of(weights::BaseModel::load_directory(directory.path()), "32");
  const std::vector<std::int32_t> ids = {3, 1, 4, 1, 5};
  SerialFor serial;
  const std::vector<float> hidden = hidden_of(*execution, ids);
  for (const float loss : lm_token_losses(*execution, hidden.data(), ids, serial)) {
    EXPECT_LE(std::abs(loss - std::log(61.0F)), 1e-6F);
  }
}

TEST(Gpt2Parity, SixteenBitsStayNearThirtyTwo) {
  const auto base = weights::BaseModel::load_directory(runtime_data("gpt2/f32"));
  const auto execution = execution_of(base, "16");
  for (const Json& entry : expected("f32")) {
    const auto ids = entry["ids"].get<std::vector<std::int32_t>>();
    const double difference =
        span_difference(entry["span_logits"], span_logits_of(*execution, ids));
    EXPECT_LE(difference, 0.2);
    EXPECT_GT(difference, 1e-4);
  }
}

}  // namespace gpt2_parity_test
}  // namespace qalof::runtime
