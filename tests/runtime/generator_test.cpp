// Generation: tokens equal recomputation of the whole sequence, streaming is valid UTF-8, stop
// conditions end it, and nothing is allocated per token.
#include "runtime/generator.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/file.h"
#include "support/count_allocations.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"
#include "text/unicode.h"

namespace qalof::runtime {
namespace generator_test {

using qalof::testing::tiny_config;
using qalof::testing::TinyRuntime;

Json config_with_vocabulary(std::size_t vocabulary) {
  Json config = tiny_config();
  config["vocab_size"] = vocabulary;
  return config;
}

class GeneratorTest : public ::testing::Test {
 protected:
  GeneratorTest()
      : tiny_(config_with_vocabulary(800)),
        tokenizer_(text::BpeTokenizer::from_files(
            {{"tokenizer.json",
              read_file(QALOF_SOURCE_DIR "/tests/text/data/tiny/tokenizer.json", 1 << 20)}},
            "tiny")),
        prompt_(tiny_.ids(11)) {}

  Generation run(const std::string& plan, const GenerateOptions& options,
                 const TextCallback& on_text = nullptr) {
    return generate(*tiny_.execution(plan), tokenizer_, prompt_, options, serial_, on_text);
  }

  TinyRuntime tiny_;
  SerialFor serial_;
  text::BpeTokenizer tokenizer_;
  std::vector<std::int32_t> prompt_;
};

// What choosing from the whole sequence, computed anew for every token, gives.
TEST_F(GeneratorTest, TokensAreThoseOfTheWholeSequenceComputedAnew) {
  for (const char* plan : {"32", "16", "8", "4", "w4a8k8v4"}) {
    for (const double temperature : {0.0, 1.5}) {
      const auto execution = tiny_.execution(plan);
      const SamplingOptions sampling{.temperature = temperature, .top_k = 50, .seed = 7};
      Sampler sampler(sampling);
      std::vector<std::int32_t> ids = prompt_, expected;
      std::vector<float> logits(800);
      for (std::uint64_t step = 0; step < 20; ++step) {
        const std::vector<float> hidden = tiny_.run(*execution, ids, 0, serial_);
        lm_logits(*execution, hidden.data() + (ids.size() - 1) * tiny_.config().hidden, 1,
                  logits.data(), serial_);
        expected.push_back(sampler.sample(logits, step));
        ids.push_back(expected.back());
      }
      const Generation found = run(plan, {.max_new_tokens = 20, .sampling = sampling});
      EXPECT_EQ(found.ids, expected) << plan;
      EXPECT_EQ(found.reason, StopReason::kLength);
    }
  }
}

TEST_F(GeneratorTest, ChunksAndThreadsDoNotChangeTheTokens) {
  ThreadPool three(3);
  GenerateOptions options{.max_new_tokens = 30, .sampling = {.temperature = 1, .seed = 1}};
  const auto execution = tiny_.execution("4");
  const Generation expected = run("4", options);
  for (const std::size_t chunk : {1, 4, 11, 500}) {
    options.prefill_chunk = chunk;
    EXPECT_EQ(generate(*execution, tokenizer_, prompt_, options, three).ids, expected.ids);
  }
  EXPECT_EQ(expected.prompt_tokens, 11U);
  EXPECT_EQ(expected.kv_bytes, KvCache(tiny_.config(), execution->kv(), 40).bytes());
}

TEST_F(GeneratorTest, StreamedPiecesAreUtf8AndMakeTheText) {
  std::string streamed;
  std::size_t pieces = 0;
  const Generation found =
      run("8", {.max_new_tokens = 50, .sampling = {.temperature = 5, .seed = 2}},
          [&](std::string_view piece) {
            EXPECT_EQ(text::find_invalid_utf8(piece), std::string::npos);
            streamed += piece;
            ++pieces;
            return true;
          });
  EXPECT_EQ(streamed, found.text);
  EXPECT_GT(pieces, 20U);
  EXPECT_EQ(found.ids.size(), 50U);
}

TEST_F(GeneratorTest, StopTokensStopStringsAndTheCallbackEndIt) {
  GenerateOptions options{.max_new_tokens = 40, .sampling = {.temperature = 1, .seed = 3}};
  const Generation all = run("8", options);
  options.stop_ids = {-1, all.ids[9]};
  const Generation token = run("8", options);
  EXPECT_EQ(token.reason, StopReason::kStopToken);
  EXPECT_LE(token.ids.size(), 9U);
  EXPECT_EQ(token.ids,
            std::vector<std::int32_t>(
                all.ids.begin(), all.ids.begin() + static_cast<std::ptrdiff_t>(token.ids.size())));
  options.stop_ids.clear();
  const std::vector<std::uint32_t> points = text::to_code_points(all.text);
  std::string stop;
  text::append_utf8(points[points.size() / 2], &stop);
  text::append_utf8(points[points.size() / 2 + 1], &stop);
  options.stop_strings = {stop};
  const Generation string = run("8", options);
  EXPECT_EQ(string.reason, StopReason::kStopString);
  EXPECT_EQ(string.text, all.text.substr(0, all.text.find(stop)));
  options.stop_strings.clear();
  int left = 3;
  const Generation cancelled = run("8", options, [&](std::string_view) { return --left > 0; });
  EXPECT_EQ(cancelled.reason, StopReason::kCancelled);
  EXPECT_LT(cancelled.ids.size(), 10U);
  EXPECT_TRUE(all.text.starts_with(cancelled.text));
}

TEST_F(GeneratorTest, PositionsEndItAndBadRequestsAreRefused) {
  const Generation found = run("8", {.max_new_tokens = 500});
  EXPECT_EQ(found.reason, StopReason::kPositions);
  EXPECT_EQ(found.ids.size(), 64U - 11 + 1);
  const auto kind = [&](const std::vector<std::int32_t>& prompt, const GenerateOptions& options) {
    return qalof::testing::error_of(
               [&] { generate(*tiny_.execution("8"), tokenizer_, prompt, options, serial_); })
        .kind;
  };
  EXPECT_EQ(kind({}, {}), ErrorKind::kBadInput);
  EXPECT_EQ(kind(tiny_.ids(65), {}), ErrorKind::kBadInput);
  EXPECT_EQ(kind({1, 900}, {}), ErrorKind::kBadInput);
  EXPECT_EQ(kind({1}, {.max_new_tokens = 0}), ErrorKind::kUsage);
}

TEST_F(GeneratorTest, TokensBeyondTheTokenizersVocabularyAreNeverChosen) {
  const TinyRuntime padded(config_with_vocabulary(1600));
  const Generation found =
      generate(*padded.execution("8"), tokenizer_, padded.ids(5),
               {.max_new_tokens = 40, .sampling = {.temperature = 50, .seed = 3}}, serial_);
  for (const std::int32_t id : found.ids) EXPECT_LT(id, 800);
}

TEST_F(GeneratorTest, NothingIsAllocatedPerToken) {
  const auto allocated_by_twenty_tokens = [&](const char* plan, int head, ParallelFor& pool) {
    const auto execution =
        tiny_.execution(plan, nullptr, {.kv_scheme = KvScheme::kHead, .lm_head = {{head}}});
    GenerateOptions options{.max_new_tokens = 45,
                            .sampling = {.temperature = 1, .top_p = 0.9, .seed = 4},
                            .stop_strings = {"§§§§"}};
    std::size_t tokens = 0, before = 0, peak = std::numeric_limits<std::size_t>::max();
    generate(*execution, tokenizer_, prompt_, options, pool, [&](std::string_view) {
      ++tokens;
      if (tokens == 10) {
        before = qalof::testing::allocated_bytes;
        qalof::testing::peak_bytes = before;
      }
      if (tokens == 30) peak = qalof::testing::peak_bytes - before;
      return true;
    });
    return peak;
  };
  // A worker that gets its first task late makes its own scratch memory then, once.
  constexpr std::size_t kWorkersScratch = 64 * 1024;
  ThreadPool two(2);
  for (const char* plan : {"32", "16", "8", "4", "w8a16kv4"}) {
    for (const int head : {8, 4, 16}) {
      EXPECT_EQ(allocated_by_twenty_tokens(plan, head, serial_), 0U) << plan << " lm head " << head;
      EXPECT_LE(allocated_by_twenty_tokens(plan, head, two), kWorkersScratch) << plan;
    }
  }
}

// Token 6 is the first that the second execution makes.
TEST_F(GeneratorTest, AnotherExecutionContinuesOnTheStoredKeysAndValues) {
  const auto wide = tiny_.execution("w8a8kv8"), narrow = tiny_.execution("w2a8kv8");
  DecoderWorkspace workspace;
  std::vector<float> hidden(prompt_.size() * tiny_.config().hidden), logits(800);
  KvCache cache(tiny_.config(), wide->kv(), prompt_.size() + 12);
  Sampler greedy{SamplingOptions{}};
  std::vector<std::int32_t> fed = prompt_, expected;
  for (std::size_t step = 0; step < 12; ++step) {
    const Execution& execution = step < 6 ? *wide : *narrow;
    const Sequence sequence{fed, &cache};
    forward(execution, {&sequence, 1}, workspace, hidden.data(), serial_);
    lm_logits(execution, hidden.data() + (fed.size() - 1) * tiny_.config().hidden, 1, logits.data(),
              serial_);
    expected.push_back(greedy.sample(logits, step));
    fed = {expected.back()};
  }
  GenerateOptions options{.max_new_tokens = 12};
  options.execution_at = [&](std::size_t step) -> const Execution& {
    return step < 6 ? *wide : *narrow;
  };
  EXPECT_EQ(generate(*wide, tokenizer_, prompt_, options, serial_).ids, expected);
  EXPECT_NE(run("w8a8kv8", {.max_new_tokens = 12}).ids, expected);
}

TEST_F(GeneratorTest, AnotherPrecisionOfKeysAndValuesReadsTheTextAnew) {
  const auto wide = tiny_.execution("8"), narrow = tiny_.execution("w8a8kv2");
  GenerateOptions options{.max_new_tokens = 12, .prefill_chunk = 4};
  options.execution_at = [&](std::size_t step) -> const Execution& {
    return step < 6 ? *wide : *narrow;
  };
  const Generation found = generate(*wide, tokenizer_, prompt_, options, serial_);
  const std::vector<std::int32_t> first(found.ids.begin(), found.ids.begin() + 6);
  EXPECT_EQ(first, run("8", {.max_new_tokens = 6}).ids);
  std::vector<std::int32_t> text = prompt_;
  text.insert(text.end(), first.begin(), first.end());
  const Generation rest = generate(*narrow, tokenizer_, text, {.max_new_tokens = 6}, serial_);
  EXPECT_EQ(std::vector<std::int32_t>(found.ids.begin() + 6, found.ids.end()), rest.ids);
  EXPECT_EQ(found.kv_bytes, run("8", {.max_new_tokens = 12}).kv_bytes) << "the largest";
}

}  // namespace generator_test
}  // namespace qalof::runtime
