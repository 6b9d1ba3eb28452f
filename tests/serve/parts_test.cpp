// The parts without threads: prefix cache, elastic policy, keys, names.
#include <gmock/gmock.h>

#include <fstream>

#include "serve/elastic.h"
#include "serve/prefix_cache.h"
#include "serving.h"
#include "support/error_of.h"

namespace qalof::serve {
namespace parts_test {

using qalof::testing::error_of;
using qalof::testing::same_bytes;
using qalof::testing::TempDir;
using qalof::testing::TinyRuntime;

class PrefixCacheTest : public ::testing::Test {
 protected:
  // A cache that was fed ids.
  runtime::KvCache read(const runtime::Execution& execution, std::span<const std::int32_t> ids,
                        runtime::KvCache cache) {
    runtime::DecoderWorkspace workspace;
    hidden_.resize(ids.size() * tiny_.config().hidden);
    const runtime::Sequence sequence{ids, &cache};
    runtime::forward(execution, {&sequence, 1}, workspace, hidden_.data(), serial_);
    return cache;
  }
  runtime::KvCache empty(const runtime::Execution& execution) {
    return runtime::KvCache(tiny_.config(), execution.kv(), 64);
  }
  TinyRuntime tiny_;
  SerialFor serial_;
  std::vector<float> hidden_;
};

TEST_F(PrefixCacheTest, ARestoredBeginningContinuesWithTheSameBits) {
  for (const char* plan : {"w8a8kv8", "w4a8kv4", "w8a8k16v4", "32"}) {
    for (const runtime::KvScheme scheme : {runtime::KvScheme::kToken, runtime::KvScheme::kHead}) {
      const auto execution = tiny_.execution(plan, nullptr, {.kv_scheme = scheme});
      const std::vector<std::int32_t> ids = tiny_.ids(40);
      const std::vector<float> whole = tiny_.run(*execution, ids, 0, serial_);
      PrefixCache prefixes;
      prefixes.keep("a", ids, read(*execution, ids, empty(*execution)), 1 << 20);
      EXPECT_EQ(prefixes.blocks(), 1U);
      runtime::KvCache cache = empty(*execution);
      ASSERT_EQ(prefixes.restore("a", ids, cache), 32U);
      EXPECT_EQ(cache.length(), 32U);
      read(*execution, std::span(ids).subspan(32), std::move(cache));
      EXPECT_TRUE(same_bytes(hidden_, std::span(whole).subspan(32 * tiny_.config().hidden)))
          << plan;
    }
  }
}

// What a window has passed is not kept; what was kept in time is found.
TEST_F(PrefixCacheTest, WindowsKeepWhatTheyStillHold) {
  Json config = qalof::testing::tiny_llama_config();
  config["model_type"] = "mistral";
  config["sliding_window"] = 6;
  config["max_position_embeddings"] = 512;
  const TinyRuntime tiny(config);
  const auto execution = tiny.execution("w8a8kv4");
  const std::vector<std::int32_t> ids = tiny.ids(300);
  const std::vector<float> whole = tiny.run(*execution, ids, 0, serial_);
  runtime::DecoderWorkspace workspace;
  std::vector<float> hidden(ids.size() * tiny.config().hidden);
  const auto feed = [&](runtime::KvCache& cache, std::size_t first, std::size_t count) {
    const runtime::Sequence sequence{std::span(ids).subspan(first, count), &cache};
    runtime::forward(*execution, {&sequence, 1}, workspace, hidden.data(), serial_);
  };
  PrefixCache late, in_time;
  runtime::KvCache cache(tiny.config(), execution->kv(), 300, 20 + kPrefixBlockTokens);
  for (std::size_t at = 0; at < 300; at += 20) {
    feed(cache, at, 20);
    in_time.keep("a", ids, cache, 1 << 20);
  }
  late.keep("a", ids, cache, 1 << 20);
  EXPECT_EQ(late.blocks(), 0U);
  EXPECT_EQ(late.bytes(), 0U);
  EXPECT_EQ(in_time.blocks(), 9U);
  for (const std::size_t shared : {std::size_t{40}, std::size_t{170}, std::size_t{300}}) {
    runtime::KvCache restored(tiny.config(), execution->kv(), 300);
    const std::size_t found = in_time.restore("a", std::span(ids).first(shared), restored);
    EXPECT_EQ(found, (shared - 1) / kPrefixBlockTokens * kPrefixBlockTokens);
    feed(restored, found, 300 - found);
    EXPECT_TRUE(same_bytes(std::span(hidden).first((300 - found) * tiny.config().hidden),
                           std::span(whole).subspan(found * tiny.config().hidden)))
        << shared;
  }
}

TEST_F(PrefixCacheTest, OtherKeysAndOtherTokensShareNothing) {
  const auto execution = tiny_.execution("8");
  const std::vector<std::int32_t> ids = tiny_.ids(40);
  PrefixCache prefixes;
  prefixes.keep("a", ids, read(*execution, ids, empty(*execution)), 1 << 20);
  std::vector<std::int32_t> other = ids;
  other[31] = (other[31] + 1) % 97;
  runtime::KvCache cache = empty(*execution);
  EXPECT_EQ(prefixes.restore("b", ids, cache), 0U);
  EXPECT_EQ(prefixes.restore("a", other, cache), 0U);
  // One token must be left to be fed.
  EXPECT_EQ(prefixes.restore("a", std::span(ids).first(32), cache), 0U);
  EXPECT_EQ(prefixes.restore("a", std::span(ids).first(33), cache), 32U);
}

TEST_F(PrefixCacheTest, RoomIsKeptAndTheOldestGoesFirst) {
  const auto execution = tiny_.execution("8");
  PrefixCache prefixes;
  std::vector<std::vector<std::int32_t>> texts;
  for (std::size_t i = 0; i < 4; ++i) texts.push_back(tiny_.ids(64, 2 * i + 3));
  prefixes.keep("a", texts[0], read(*execution, texts[0], empty(*execution)), 1 << 20);
  const std::size_t two_blocks = prefixes.bytes();
  ASSERT_EQ(prefixes.blocks(), 2U);
  const std::size_t room = 2 * two_blocks;
  prefixes.keep("a", texts[1], read(*execution, texts[1], empty(*execution)), room);
  EXPECT_EQ(prefixes.blocks(), 4U);
  runtime::KvCache cache = empty(*execution);
  EXPECT_EQ(prefixes.restore("a", texts[0], cache), 32U);  // now the younger
  prefixes.keep("a", texts[2], read(*execution, texts[2], empty(*execution)), room);
  EXPECT_LE(prefixes.bytes(), room);
  // The second blocks of the first two texts went; now their first ones differ in age.
  cache.clear();
  EXPECT_EQ(prefixes.restore("a", texts[0], cache), 32U);
  prefixes.keep("a", texts[3], read(*execution, texts[3], empty(*execution)), room);
  cache.clear();
  EXPECT_EQ(prefixes.restore("a", texts[1], cache), 0U);
  EXPECT_EQ(prefixes.restore("a", texts[0], cache), 32U);
  prefixes.shrink(two_blocks / 2);
  EXPECT_EQ(prefixes.blocks(), 1U);
  prefixes.shrink(0);
  EXPECT_EQ(prefixes.bytes(), 0U);
  // What does not fit at all is not kept.
  prefixes.keep("a", texts[3], read(*execution, texts[3], empty(*execution)), 10);
  EXPECT_EQ(prefixes.blocks(), 0U);
}

TEST(ElasticTest, RisesWithWaitsAndComesBackWhenCalm) {
  using Clock = Elastic::Clock;
  Elastic elastic(3, std::chrono::milliseconds(500));
  Clock::time_point now = Clock::now();
  EXPECT_EQ(elastic.update(now, 0), 0U);
  EXPECT_EQ(elastic.update(now, 0.2), 0U);
  EXPECT_EQ(elastic.update(now, 0.3), 1U);
  EXPECT_EQ(elastic.update(now, 0.9), 1U);  // not twice at once
  now += std::chrono::milliseconds(300);
  EXPECT_EQ(elastic.update(now, 0.9), 2U);
  now += std::chrono::seconds(1);
  EXPECT_EQ(elastic.update(now, 0.9), 2U);  // there is no third
  const Clock::time_point calm = now;
  std::size_t level = 2;
  while (level > 0 && now < calm + std::chrono::seconds(10)) {
    now += std::chrono::milliseconds(100);
    level = elastic.update(now, 0);
  }
  EXPECT_EQ(level, 0U);
  EXPECT_GE(now - calm, std::chrono::seconds(2));
}

TEST(ElasticTest, AQueueThatIsWorkedOffIsForgotten) {
  using Clock = Elastic::Clock;
  Elastic elastic(2, std::chrono::milliseconds(500));
  Clock::time_point now = Clock::now();
  for (int i = 0; i < 50; ++i) elastic.first_token(now, 20);
  EXPECT_EQ(elastic.update(now, 0), 1U);  // they came too late, though none waits any more
  const Clock::time_point over = now;
  std::size_t level = 1;
  while (level > 0 && now < over + std::chrono::seconds(10)) {
    now += std::chrono::milliseconds(100);
    elastic.first_token(now, 0.05);
    level = elastic.update(now, 0);
  }
  EXPECT_EQ(level, 0U);
  EXPECT_LE(now - over, std::chrono::seconds(4));
}

TEST(ElasticTest, OneLevelIsNone) {
  Elastic elastic(1, std::chrono::milliseconds(500));
  EXPECT_EQ(elastic.update(Elastic::Clock::now(), 1000), 0U);
}

TEST(ApiKeysTest, TakesTheKeysOfTheFileAndNoOthers) {
  const TempDir dir;
  std::ofstream(dir.file("keys")) << "# ours\nabcdefghijklmnop\r\n\nqrstuvwxyz0123456\n";
  const ApiKeys keys = ApiKeys::read(dir.file("keys"));
  EXPECT_FALSE(keys.is_open());
  EXPECT_TRUE(keys.accepts("Bearer abcdefghijklmnop"));
  EXPECT_TRUE(keys.accepts("bearer  qrstuvwxyz0123456"));
  EXPECT_TRUE(keys.accepts("Basic YW55OmFiY2RlZmdoaWprbG1ub3A="));  // any:abcdefghijklmnop
  for (const char* wrong : {"", "Bearer", "Bearer ", "abcdefghijklmnop", "Bearer abcdefghijklmno",
                            "Bearer abcdefghijklmnopq", "Bearer # ours", "Digest abcdefghijklmnop",
                            "Basic !!!!", "Basic YWJjZGVmZ2hpamtsbW5vcA==", "Basic Og==", "Basic"})
    EXPECT_FALSE(keys.accepts(wrong)) << wrong;
  EXPECT_TRUE(ApiKeys().accepts(""));
}

TEST(ApiKeysTest, FilesWithoutProperKeysAreRefused) {
  const TempDir dir;
  const auto message = [&](const std::string& text) {
    std::ofstream(dir.file("keys")) << text;
    return error_of([&] { ApiKeys::read(dir.file("keys")); }).message;
  };
  EXPECT_THAT(message("# nothing\n"), ::testing::HasSubstr("holds no key"));
  EXPECT_THAT(message("\nshort\n"), ::testing::HasSubstr("keys:2: a key has at least 16"));
  EXPECT_THAT(message("abcdefgh ijklmnopq\n"), ::testing::HasSubstr("visible ASCII"));
}

TEST(ServiceTest, AHostThatOthersReachNeedsKeys) {
  ServiceOptions options;
  options.host = "0.0.0.0";
  options.port = 0;
  EXPECT_THAT(error_of([&] { const Service service(options); }).message,
              ::testing::HasSubstr("--api_key_file is needed"));
  options.host = "example.org";
  EXPECT_THAT(error_of([&] { const Service service(options); }).message,
              ::testing::HasSubstr("expected an IP address or localhost"));
}

TEST(CatalogTest, NamesAreChecked) {
  Observer quiet;
  ThreadPool pool(1);
  const auto message = [&](const CatalogOptions& options) {
    return error_of([&] { const Catalog catalog(options, Limits{}, pool, quiet); }).message;
  };
  CatalogOptions options;
  options.model.model = kNanoModel;
  options.adapters = {"=x"};
  EXPECT_THAT(message(options), ::testing::HasSubstr("--adapter: the name "));
  options.adapters = {"a/b=x"};
  EXPECT_THAT(message(options), ::testing::HasSubstr("the name a/b has other characters"));
  options.adapters = {"nameless"};
  EXPECT_THAT(message(options), ::testing::HasSubstr("expected NAME=PATH"));
  options.adapters = {"model=x"};
  EXPECT_THAT(message(options), ::testing::HasSubstr("is the base's own"));
  options.adapters = {};
  options.precisions = {"9"};
  EXPECT_THAT(message(options), ::testing::HasSubstr("precision \"9\""));
  options.precisions = {};
  options.elastic = {"8", "4"};
  options.model.precision = "8";
  EXPECT_THAT(message(options), ::testing::HasSubstr("give one of them"));
}

}  // namespace parts_test
}  // namespace qalof::serve
