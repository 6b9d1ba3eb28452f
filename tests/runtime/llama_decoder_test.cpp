// A tiny Llama through everything a GPT-2 goes through: batches, chunks, threads, KV caches, packed
// files and adapters.
#include <gtest/gtest.h>

#include <fstream>

#include "io/peft.h"
#include "support/tiny_runtime.h"
#include "weights/packed_file.h"

namespace qalof::runtime {
namespace llama_decoder_test {

using qalof::testing::random_adapters;
using qalof::testing::same_bytes;
using qalof::testing::TempDir;
using qalof::testing::TinyRuntime;

Json llama_config(bool tied) {
  return {{"model_type", "llama"},      {"vocab_size", 97},         {"max_position_embeddings", 64},
          {"hidden_size", 48},          {"intermediate_size", 80},  {"num_hidden_layers", 2},
          {"num_attention_heads", 6},   {"num_key_value_heads", 2}, {"rope_theta", 300.0},
          {"tie_word_embeddings", tied}};
}

TEST(LlamaDecoder, SequenceGivesTheSameBytesAloneInABatchInChunksAndWithThreads) {
  const TinyRuntime tiny(llama_config(true));
  const auto adapters = random_adapters(tiny.config(), {8, 4});
  SerialFor serial;
  ThreadPool three(3);
  const std::vector<std::int32_t> ids = tiny.ids(40);
  const std::span<const std::int32_t> part = std::span(ids).subspan(5, 23);
  const std::size_t hidden = tiny.config().hidden;
  for (const char* plan : {"32", "16", "8", "4", "w4a8kv4", "w4a16kv8", "3"}) {
    const auto exec = tiny.execution(plan, adapters);
    const std::vector<float> alone = tiny.run(*exec, part, 0, serial);
    std::vector<Sequence> sequences = {{std::span(ids).first(5)}, {part}, {ids}};
    DecoderWorkspace workspace;
    std::vector<float> batch((5 + 23 + 40) * hidden);
    forward(*exec, sequences, workspace, batch.data(), three);
    EXPECT_TRUE(same_bytes(alone, std::span(batch).subspan(5 * hidden, 23 * hidden))) << plan;
    for (const std::size_t chunk : {1, 3, 16})
      EXPECT_TRUE(same_bytes(alone, tiny.run(*exec, part, chunk, three))) << plan << " " << chunk;
  }
}

TEST(LlamaDecoder, SequencesOfTwoExecutionsKeepTheirBytes) {
  const TinyRuntime tiny(llama_config(true));
  const auto eight = tiny.execution("8", random_adapters(tiny.config(), {8})),
             four = tiny.execution("w4a8");
  SerialFor serial;
  const std::vector<std::int32_t> ids = tiny.ids(12);
  const std::size_t hidden = tiny.config().hidden;
  std::vector<Sequence> sequences = {{ids}, {ids, nullptr, four.get()}, {std::span(ids).first(7)}};
  DecoderWorkspace workspace;
  std::vector<float> batch((12 + 12 + 7) * hidden);
  forward(*eight, sequences, workspace, batch.data(), serial);
  const std::span<const float> all(batch);
  EXPECT_TRUE(same_bytes(tiny.run(*eight, ids, 0, serial), all.first(12 * hidden)));
  EXPECT_TRUE(same_bytes(tiny.run(*four, ids, 0, serial), all.subspan(12 * hidden, 12 * hidden)));
}

TEST(LlamaDecoder, PackedFileHasTheDirectorysBytes) {
  for (const bool tied : {true, false}) {
    const Json raw = llama_config(tied);
    const TempDir directory, out;
    qalof::testing::write_model(directory.path(), raw);
    if (!tied) {  // the head stands beside the decoder
      const auto file = io::SafetensorsFile::open(directory.file("model.safetensors"));
      std::vector<io::TensorToWrite> tensors;
      for (const auto& [name, view] : file.tensors())
        tensors.push_back({name, view.dtype, view.shape, view.bytes});
      const std::vector<float> head = qalof::testing::tensor_values("head", 97 * 48, 0.2F);
      tensors.push_back(
          {"lm_head.weight", io::DType::kF32, {97, 48}, std::as_bytes(std::span(head))});
      io::write_safetensors(directory.file("all.safetensors"), tensors, {});
      std::filesystem::rename(directory.file("all.safetensors"),
                              directory.file("model.safetensors"));
    }
    const auto base = weights::BaseModel::load_directory(directory.path());
    const auto adapters = random_adapters(base->config(), {4});
    SerialFor serial;
    weights::PackRequest request;
    request.base = base;
    request.adapters = adapters;
    request.widths = {4, 8};
    weights::write_packed_file(out.file("model.qalof"), request, serial);
    const weights::PackedModel packed = weights::open_packed_file(out.file("model.qalof"));
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 20; ++i) ids.push_back((i * 31 + 5) % 97);
    for (const char* plan : {"8", "4"}) {
      std::vector<std::vector<float>> logits;
      for (const auto& [model, set] :
           {std::pair{base, std::shared_ptr<const weights::AdapterSet>(adapters)},
            std::pair{packed.base, packed.adapters}}) {
        const auto run = Execution::create(
            model, quant::resolve(quant::parse_plan(plan), model->target()), set, serial);
        const Sequence sequence{ids};
        DecoderWorkspace workspace;
        std::vector<float> hidden(ids.size() * 48);
        forward(*run, {&sequence, 1}, workspace, hidden.data(), serial);
        lm_logits(*run, hidden.data(), ids.size(), logits.emplace_back(ids.size() * 97).data(),
                  serial);
      }
      EXPECT_TRUE(same_bytes(logits[0], logits[1])) << plan << " tied " << tied;
    }
  }
}

TEST(LlamaDecoder, AdaptersHaveTheNamesOfEachClassAndComeBack) {
  const TinyRuntime tiny(llama_config(true));
  const auto set = random_adapters(tiny.config(), {4});
  for (const auto& [task, prefix] : {std::pair{weights::HeadKind::kSpan, "transformer."},
                                     std::pair{weights::HeadKind::kLm, "model."},
                                     std::pair{weights::HeadKind::kClass, "model."}}) {
    const TempDir directory;
    weights::save_adapter(directory.path(), *set->by_width.at(4), tiny.config(), task, "base");
    const io::PeftAdapter stored = io::read_peft(directory.path());
    EXPECT_TRUE(
        stored.tensors().contains(std::string(prefix) + "layers.1.mlp.down_proj.lora_A.weight"));
    EXPECT_FALSE(stored.config().fan_in_fan_out);
    EXPECT_EQ(stored.config().target_modules.size(), 7U);
    const weights::AdapterSet loaded = weights::load_adapters(directory.path(), tiny.config());
    const weights::Adapter& adapter = *loaded.by_width.at(0);
    ASSERT_EQ(adapter.linears.size(), 14U);
    for (std::size_t i = 0; i < 14; ++i) {
      ASSERT_NE(adapter.linears[i], nullptr);
      EXPECT_EQ(adapter.linears[i]->a(), set->by_width.at(4)->linears[i]->a());
      EXPECT_EQ(adapter.linears[i]->b(), set->by_width.at(4)->linears[i]->b());
    }
  }
}

TEST(LlamaDecoder, PositionsBeyondTheModelAreRefused) {
  const TinyRuntime tiny(llama_config(true));
  SerialFor serial;
  const auto exec = tiny.execution("32");
  EXPECT_THROW(tiny.run(*exec, tiny.ids(65), 0, serial), Error);
  EXPECT_NO_THROW(tiny.run(*exec, tiny.ids(64), 0, serial));
}

}  // namespace llama_decoder_test
}  // namespace qalof::runtime
