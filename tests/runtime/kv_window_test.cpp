// Layers with windows hold the last tokens alone: the bits of the whole text however it is cut,
// past many windows and after tokens are taken back, in less memory.
#include <gtest/gtest.h>

#include "core/file.h"
#include "runtime/generator.h"
#include "runtime/kv_cache.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"

namespace qalof::runtime {
namespace kv_window_test {

using qalof::testing::error_of;
using qalof::testing::same_bytes;
using qalof::testing::TinyRuntime;

// A window of 10 in all layers, as in Mistral.
Json mistral_config() {
  return {{"model_type", "mistral"},     {"vocab_size", 97},
          {"hidden_size", 48},           {"intermediate_size", 80},
          {"num_hidden_layers", 2},      {"num_attention_heads", 6},
          {"num_key_value_heads", 2},    {"max_position_embeddings", 1024},
          {"rope_theta", 300.0},         {"bos_token_id", 96},
          {"tie_word_embeddings", true}, {"eos_token_id", 96},
          {"sliding_window", 10}};
}

// A window of 13 in all layers but every third, as in Gemma 3.
Json gemma_config() {
  return {{"model_type", "gemma3_text"},
          {"vocab_size", 97},
          {"hidden_size", 48},
          {"intermediate_size", 80},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 1},
          {"head_dim", 14},  // padded rows
          {"max_position_embeddings", 1024},
          {"rope_theta", 3000.0},
          {"rope_local_base_freq", 300.0},
          {"query_pre_attn_scalar", 16},
          {"bos_token_id", 96},
          {"eos_token_id", 96},
          {"sliding_window", 13},
          {"sliding_window_pattern", 3}};
}

constexpr std::size_t kLength = 700;

// What a cache that feeds ids in chunks gives for each of them.
struct Fed {
  const TinyRuntime& tiny;
  const Execution& execution;
  KvCache& cache;
  ParallelFor& parallel;
  DecoderWorkspace workspace = {};

  std::vector<float> operator()(std::span<const std::int32_t> ids) {
    std::vector<float> hidden(ids.size() * tiny.config().hidden);
    const Sequence sequence{ids, &cache};
    forward(execution, {&sequence, 1}, workspace, hidden.data(), parallel);
    return hidden;
  }
};

std::span<const float> rows_of(const TinyRuntime& tiny, const std::vector<float>& hidden,
                               std::size_t first, std::size_t count) {
  return std::span(hidden).subspan(first * tiny.config().hidden, count * tiny.config().hidden);
}

TEST(KvWindowTest, ChunksOfEverySizeGiveTheBitsOfTheWholeText) {
  ThreadPool two(2);
  SerialFor serial;
  for (const Json& config : {mistral_config(), gemma_config()}) {
    const TinyRuntime tiny(config);
    const std::vector<std::int32_t> ids = tiny.ids(kLength);
    for (const KvScheme scheme : {KvScheme::kToken, KvScheme::kHead}) {
      for (const char* plan : {"32", "w8a8kv8", "w4a8kv4", "w8a8k16v4"}) {
        const auto execution = tiny.execution(plan, nullptr, {.kv_scheme = scheme});
        const std::vector<float> whole = tiny.run(*execution, ids, 0, serial);
        for (const std::size_t chunk : {std::size_t{1}, std::size_t{7}, std::size_t{96},
                                        std::size_t{97}, std::size_t{300}, kLength}) {
          EXPECT_TRUE(same_bytes(whole, tiny.run(*execution, ids, chunk, two)))
              << config["model_type"] << " " << plan << " in chunks of " << chunk;
        }
      }
    }
  }
}

// Long and short sequences in one pass, with and without caches: each takes its own pieces.
TEST(KvWindowTest, SequencesOfOtherLengthsBesideItChangeNothing) {
  SerialFor serial;
  const TinyRuntime tiny(gemma_config());
  const auto execution = tiny.execution("w8a8kv4");
  const std::vector<std::size_t> lengths = {450, 31, 290, 1};
  std::vector<std::vector<std::int32_t>> texts;
  std::vector<KvCache> caches;
  for (const std::size_t length : lengths) {
    texts.push_back(tiny.ids(length, 2 * length + 1));
    caches.emplace_back(tiny.config(), execution->kv(), length);
  }
  DecoderWorkspace workspace;
  std::vector<std::vector<float>> found(texts.size());
  // Two passes: a part of each, and then the rest.
  for (const bool rest : {false, true}) {
    std::vector<Sequence> sequences;
    std::vector<std::size_t> indices;
    std::size_t rows = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::size_t cut = texts[i].size() / 3;
      const auto ids = rest ? std::span(texts[i]).subspan(cut) : std::span(texts[i]).first(cut);
      if (ids.empty()) continue;
      sequences.push_back({ids, &caches[i]});
      indices.push_back(i);
      rows += ids.size();
    }
    std::vector<float> hidden(rows * tiny.config().hidden);
    forward(*execution, sequences, workspace, hidden.data(), serial);
    auto from = hidden.begin();
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      const auto end =
          from + static_cast<std::ptrdiff_t>(sequences[s].ids.size() * tiny.config().hidden);
      found[indices[s]].insert(found[indices[s]].end(), from, end);
      from = end;
    }
  }
  for (std::size_t i = 0; i < texts.size(); ++i)
    EXPECT_TRUE(same_bytes(found[i], tiny.run(*execution, texts[i], 0, serial))) << lengths[i];
}

TEST(KvWindowTest, TokensAreTakenBackAsFarAsAskedForAndNoFurther) {
  SerialFor serial;
  for (const Json& config : {mistral_config(), gemma_config()}) {
    const TinyRuntime tiny(config);
    const auto execution = tiny.execution("w8a8kv4");
    const std::vector<std::int32_t> ids = tiny.ids(kLength);
    std::vector<float> whole = tiny.run(*execution, ids, 0, serial);
    constexpr std::size_t kBack = 20;
    KvCache cache(tiny.config(), execution->kv(), kLength, kBack);
    Fed feed{tiny, *execution, cache, serial};
    const std::vector<std::int32_t> wrong = tiny.ids(kBack, 5);
    feed(std::span(ids).first(150));
    for (std::size_t at = 150; at < kLength; ++at) {
      // Drafts that are not accepted: all at once, or one at a time.
      const std::size_t drafts = std::min(kBack, kLength - at);
      if (at % 2 == 0) {
        feed(std::span(wrong).first(drafts));
      } else {
        for (std::size_t i = 0; i < drafts; ++i) feed(std::span(wrong).subspan(i, 1));
      }
      ASSERT_TRUE(cache.can_truncate(at));
      cache.truncate(at);
      ASSERT_TRUE(same_bytes(feed(std::span(ids).subspan(at, 1)), rows_of(tiny, whole, at, 1)))
          << config["model_type"] << " at " << at;
    }
    EXPECT_FALSE(cache.can_truncate(100));
    EXPECT_EQ(error_of([&] { cache.truncate(100); }).kind, ErrorKind::kInternal);
    cache.clear();
    EXPECT_TRUE(same_bytes(feed(std::span(ids).first(200)), rows_of(tiny, whole, 0, 200)));
  }
}

TEST(KvWindowTest, CopiesContinueWithTheSameBits) {
  SerialFor serial;
  for (const Json& config : {mistral_config(), gemma_config()}) {
    const TinyRuntime tiny(config);
    const auto execution = tiny.execution("w8a8k16v4");
    const std::vector<std::int32_t> ids = tiny.ids(kLength);
    const std::vector<float> whole = tiny.run(*execution, ids, 0, serial);
    KvCache read(tiny.config(), execution->kv(), 450, 40);
    Fed feed{tiny, *execution, read, serial};
    for (std::size_t at = 0; at < 400; at += 25) feed(std::span(ids).subspan(at, 25));
    // Another capacity, another reach.
    for (const std::size_t back : {std::size_t{0}, std::size_t{200}}) {
      KvCache copy(tiny.config(), execution->kv(), kLength, back);
      copy.copy_from(read, 399);
      Fed go_on{tiny, *execution, copy, serial};
      EXPECT_TRUE(
          same_bytes(go_on(std::span(ids).subspan(399)), rows_of(tiny, whole, 399, kLength - 399)));
    }
    KvCache copy(tiny.config(), execution->kv(), kLength);
    EXPECT_EQ(error_of([&] { copy.copy_from(read, 200); }).kind, ErrorKind::kInternal);
    std::vector<std::byte> bytes(100 * read.token_bytes());
    EXPECT_EQ(error_of([&] { read.copy_out(200, 100, bytes.data()); }).kind, ErrorKind::kInternal);
  }
}

// Drafts, turns of a conversation, and a switch between widths of K and V: the tokens of a
// generation that has none of these.
TEST(KvWindowTest, GenerationsGoOnPastManyWindows) {
  SerialFor serial;
  const auto tokenizer = text::BpeTokenizer::from_files(
      {{"tokenizer.json",
        read_file(QALOF_SOURCE_DIR "/tests/text/data/tiny/tokenizer.json", 1 << 20)}},
      "tiny");
  for (Json config : {mistral_config(), gemma_config()}) {
    SCOPED_TRACE(config["model_type"].get<std::string>());
    config["vocab_size"] = 800;
    const TinyRuntime tiny(config);
    const auto wide = tiny.execution("w8a8kv4"), narrow = tiny.execution("w4a8kv4"),
               other = tiny.execution("w8a8kv8");
    const std::vector<std::int32_t> prompt = tiny.ids(20);
    const GenerateOptions plain{.max_new_tokens = 300, .prefill_chunk = 7};
    const Generation expected = generate(*wide, tokenizer, prompt, plain, serial);
    EXPECT_EQ(expected.ids.size(), 300U);
    EXPECT_LT(expected.kv_bytes, KvCache(tiny.config(), wide->kv(), 319, 200).bytes());
    for (const std::size_t longest : {std::size_t{3}, std::size_t{40}}) {
      GenerateOptions drafting = plain;
      drafting.drafts = {
          .network = narrow.get(), .lookup = true, .longest = longest, .adapts = false};
      const Generation found = generate(*wide, tokenizer, prompt, drafting, serial);
      EXPECT_EQ(found.ids, expected.ids) << longest;
      EXPECT_GT(found.network_drafts.tokens, 0U);
    }
    // Turns: one that ends a little before the last one did, one that continues it, and one that is
    // far shorter.
    KvMemory memory;
    GenerateOptions remembering = plain;
    remembering.memory = &memory;
    EXPECT_EQ(generate(*wide, tokenizer, prompt, remembering, serial).ids, expected.ids);
    remembering.max_new_tokens = 10;
    std::vector<std::int32_t> text = prompt;
    text.insert(text.end(), expected.ids.begin(), expected.ids.end());
    for (const std::size_t length : {text.size() - 30, text.size(), std::size_t{60}}) {
      std::vector<std::int32_t> turn(text.begin(),
                                     text.begin() + static_cast<std::ptrdiff_t>(length));
      turn.push_back(5);
      const Generation found = generate(*wide, tokenizer, turn, remembering, serial);
      EXPECT_EQ(found.kept_tokens > 0, length > 60) << length << " " << found.kept_tokens;
      remembering.memory = nullptr;
      EXPECT_EQ(found.ids, generate(*wide, tokenizer, turn, remembering, serial).ids) << length;
      remembering.memory = &memory;
    }
    GenerateOptions switching = plain;
    switching.execution_at = [&](std::size_t step) -> const Execution& {
      return step < 150 ? *wide : *other;
    };
    const Generation found = generate(*wide, tokenizer, prompt, switching, serial);
    std::vector<std::int32_t> ids = prompt;
    ids.insert(ids.end(), found.ids.begin(), found.ids.begin() + 150);
    EXPECT_TRUE(std::equal(ids.begin() + 20, ids.end(), expected.ids.begin()));
    const Generation rest =
        generate(*other, tokenizer, ids, {.max_new_tokens = 150, .prefill_chunk = 7}, serial);
    EXPECT_TRUE(std::equal(rest.ids.begin(), rest.ids.end(), found.ids.begin() + 150));
  }
}

TEST(KvWindowTest, MemoryIsThatOfTheWindow) {
  const auto config_of = [](const char* family, const char* size) {
    return model::parse_model_config(model::named_model_config(family, size), "test");
  };
  const auto bytes_of = [](const model::ModelConfig& config, std::size_t tokens) {
    const std::vector<std::vector<int>> bits(config.num_layers,
                                             std::vector<int>(config.num_kv_heads, 8));
    return KvCache::bytes_for(config, {KvScheme::kToken, bits, bits}, tokens);
  };
  // A row of 8 bits and a scale, for K and V; 96 rows are those of a piece.
  const model::ModelConfig mistral = config_of("mistral", "7B"),
                           gemma = config_of("gemma3_text", "1B");
  const std::size_t mistral_row = std::size_t{2} * (8 * 128 + 4), gemma_row = 2 * (256 + 4);
  EXPECT_EQ(bytes_of(mistral, 4096), 32 * 4096 * mistral_row);
  EXPECT_EQ(bytes_of(mistral, 32768), 32 * (4095 + 96) * mistral_row);
  EXPECT_EQ(bytes_of(gemma, 500), 26 * 500 * gemma_row);
  EXPECT_EQ(bytes_of(gemma, 32768), (4 * 32768 + 22 * (511 + 96)) * gemma_row);
  const TinyRuntime tiny(gemma_config());
  const auto execution = tiny.execution("w8a8kv8");
  KvCache cache(tiny.config(), execution->kv(), kLength, 5);
  EXPECT_EQ(cache.bytes(), KvCache::bytes_for(tiny.config(), execution->kv(), kLength, 5));
  EXPECT_EQ(cache.held_bytes(), 0U);
  SerialFor serial;
  Fed feed{tiny, *execution, cache, serial};
  feed(tiny.ids(kLength));
  const std::size_t row = 2 * (16 + 4);
  EXPECT_EQ(cache.held_bytes(), (kLength + 2 * (12 + 5 + 96)) * row);
  EXPECT_EQ(cache.held_bytes(), cache.bytes());
}

}  // namespace kv_window_test
}  // namespace qalof::runtime
