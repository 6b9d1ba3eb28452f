// The KV cache: its size, the same bits however tokens are written, truncation, and refusals.
#include "runtime/kv_cache.h"

#include <gtest/gtest.h>

#include "kernels/isa.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"

namespace qalof::runtime {
namespace kv_cache_test {

using qalof::testing::same_bytes;
using qalof::testing::tiny_config;
using qalof::testing::TinyRuntime;

KvPrecision uniform(const model::ModelConfig& config, int bits, KvScheme scheme) {
  const std::vector<std::vector<int>> all(config.num_layers,
                                          std::vector<int>(config.num_kv_heads, bits));
  return {scheme, all, all};
}

TEST(KvCacheTest, Gpt2With1024PositionsIsAsSmallAsPromised) {
  const model::ModelConfig config =
      model::parse_model_config(model::named_model_config("gpt2", "124M"), "test");
  const std::size_t elements = std::size_t{2} * 12 * 768 * 1024,
                    tokens = std::size_t{2} * 12 * 1024;
  for (const KvScheme scheme : {KvScheme::kToken, KvScheme::kHead}) {
    const std::size_t scales = tokens * (scheme == KvScheme::kToken ? 1 : 12) * 4;
    EXPECT_EQ(KvCache(config, uniform(config, 8, scheme), 1024).bytes(), elements + scales);
    EXPECT_EQ(KvCache(config, uniform(config, 4, scheme), 1024).bytes(), elements / 2 + scales);
    EXPECT_LE(KvCache(config, uniform(config, 8, scheme), 1024).bytes(), 21'000'000U);
    EXPECT_LE(KvCache(config, uniform(config, 4, scheme), 1024).bytes(), 12'000'000U);
  }
  EXPECT_EQ(KvCache(config, uniform(config, 16, KvScheme::kToken), 1024).bytes(), elements * 2);
  EXPECT_EQ(KvCache(config, uniform(config, 32, KvScheme::kToken), 1024).bytes(), elements * 4);
}

// Every way to cut a sequence, at every width and scheme, on every instruction set.
TEST(KvCacheTest, WholeChunksAndTokenByTokenGiveTheSameBits) {
  ThreadPool three(3);
  SerialFor serial;
  Json odd_heads = tiny_config();
  odd_heads["n_embd"] = 30;  // heads of 15: padded rows
  const kernels::Isa before = kernels::active_isa();
  for (const kernels::Isa isa : kernels::available_isas()) {
    kernels::force_isa(isa);
    for (const Json& config : {tiny_config(), odd_heads}) {
      const TinyRuntime tiny(config);
      const std::vector<std::int32_t> ids = tiny.ids(40);
      for (const KvScheme scheme : {KvScheme::kToken, KvScheme::kHead}) {
        for (
            const char* plan :
            {"w8a8kv2", "w8a8kv3", "w8a8kv4", "w8a8kv5", "w8a8kv8", "w8a8kv16", "w8a8kv32",
             "w8a8k4v8", "w8a8k16v4",
             R"({"format_version": 1, "default": "w8a8kv8", "kv": {"0": {"k": [4, 8], "v": [32, 3]},
                  "1": {"k": [16, 4], "v": [4, 4]}}})"}) {
          const auto execution = tiny.execution(plan, nullptr, {.kv_scheme = scheme});
          const std::vector<float> whole = tiny.run(*execution, ids, 0, serial);
          for (const std::size_t chunk : {1, 7, 25, 40}) {
            EXPECT_TRUE(same_bytes(whole, tiny.run(*execution, ids, chunk, three)))
                << plan << " " << to_string(scheme) << " in chunks of " << chunk;
          }
        }
      }
    }
  }
  kernels::force_isa(before);
}

TEST(KvCacheTest, SchemesDifferAndOneHeadMakesThemEqual) {
  SerialFor serial;
  const TinyRuntime tiny;
  const std::vector<std::int32_t> ids = tiny.ids(20);
  const auto run = [&](const TinyRuntime& model, KvScheme scheme) {
    return model.run(*model.execution("w8a8kv4", nullptr, {.kv_scheme = scheme}), ids, 1, serial);
  };
  EXPECT_FALSE(same_bytes(run(tiny, KvScheme::kToken), run(tiny, KvScheme::kHead)));
  Json one_head = tiny_config();
  one_head["n_head"] = 1;
  const TinyRuntime single(one_head);
  EXPECT_TRUE(same_bytes(run(single, KvScheme::kToken), run(single, KvScheme::kHead)));
}

TEST(KvCacheTest, TruncatedCacheContinuesAsIfTheRestHadNeverBeen) {
  SerialFor serial;
  const TinyRuntime tiny;
  const auto execution = tiny.execution("w8a8kv4");
  const std::vector<std::int32_t> first = tiny.ids(12), other = tiny.ids(9, 5);
  DecoderWorkspace workspace;
  KvCache cache(tiny.config(), execution->kv(), 32);
  std::vector<float> hidden(32 * tiny.config().hidden), again = hidden;
  const auto append = [&](KvCache& to, std::span<const std::int32_t> ids, float* out) {
    const Sequence sequence{ids, &to};
    forward(*execution, {&sequence, 1}, workspace, out, serial);
  };
  append(cache, first, hidden.data());
  append(cache, tiny.ids(15, 3), hidden.data());
  cache.truncate(12);
  append(cache, other, hidden.data());
  KvCache fresh(tiny.config(), execution->kv(), 32);
  append(fresh, first, again.data());
  append(fresh, other, again.data());
  const std::size_t count = 9 * tiny.config().hidden;
  EXPECT_TRUE(same_bytes(std::span(hidden).first(count), std::span(again).first(count)));
  EXPECT_EQ(qalof::testing::error_of([&] { cache.truncate(22); }).kind, ErrorKind::kInternal);
}

TEST(KvCacheTest, CacheOfOtherWidthsIsRefused) {
  SerialFor serial;
  const TinyRuntime tiny;
  const auto four = tiny.execution("w8a8kv4"), eight = tiny.execution("w8a8kv8");
  KvCache cache(tiny.config(), four->kv(), 8);
  DecoderWorkspace workspace;
  const std::vector<std::int32_t> ids = tiny.ids(3);
  std::vector<float> hidden(3 * tiny.config().hidden);
  const Sequence sequence{ids, &cache};
  const auto thrown = qalof::testing::error_of([&] {
    forward(*eight, {&sequence, 1}, workspace, hidden.data(), serial);
  });
  EXPECT_EQ(thrown.message, "sequence 0: its KV cache was made for other widths");
}

}  // namespace kv_cache_test
}  // namespace qalof::runtime
