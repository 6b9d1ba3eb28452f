// Windows for question answering against those of Hugging Face's run_qa, and their edge cases.
#include "text/span_features.h"

#include <gmock/gmock.h>

#include "support/error_of.h"
#include "text/fixtures.h"

namespace qalof::text {
namespace span_features_test {

using qalof::testing::error_of;
using qalof::testing::read_lines;
using qalof::testing::text_data;

const TextEncoder& tiny() {
  static const TextEncoder encoder(BpeTokenizer::load(text_data("tiny")));
  return encoder;
}

std::string long_context() {
  std::string text;
  for (int i = 0; i < 60; ++i) text += " the river " + std::to_string(i) + " caf\u00e9 \U0001f600";
  return text;
}

TEST(SpanFeatures, WindowsFitTheModelsPositions) {
  SpanFeatureOptions options;
  EXPECT_FALSE(fit_windows(options, 384));
  EXPECT_EQ(options.doc_stride, 128U);
  EXPECT_TRUE(fit_windows(options, 96));
  EXPECT_EQ(options.max_seq_length, 96U);
  EXPECT_EQ(options.doc_stride, 32U);
}

TEST(SpanFeatures, WindowsAndLabelsEqualThoseOfRunQa) {
  std::size_t windows_seen = 0, labelled = 0;
  for (const std::string& line : read_lines("windows.jsonl")) {
    const Json expected = parse_json(line, "windows.jsonl");
    SpanFeatureOptions options;
    options.max_seq_length = expected["max_seq_length"];
    options.doc_stride = expected["doc_stride"];
    bool was_cut = true;
    const EncodedContext context = encode_context(tiny(), expected["context"]);
    const auto windows = make_windows(tiny(), expected["question"], context, options, &was_cut);
    EXPECT_FALSE(was_cut);
    ASSERT_EQ(windows.size(), expected["windows"].size()) << line;
    for (std::size_t i = 0; i < windows.size(); ++i) {
      const Json& want = expected["windows"][i];
      EXPECT_EQ(Json(windows[i].ids), want["ids"]) << line;
      EXPECT_EQ(windows[i].context_start, want["context_start"]) << line;
      EXPECT_EQ(Json(windows[i].offsets), want["offsets"]) << line;
      const auto label = label_window(windows[i], expected["start"], expected["length"]);
      EXPECT_EQ(Json(label), want["label"]) << line;
      ++windows_seen;
      labelled += label.second > 0 ? 1 : 0;
    }
  }
  EXPECT_GT(windows_seen, 50U);
  EXPECT_GT(labelled, 20U);
}

TEST(SpanFeatures, EveryContextTokenIsInAWindowAndNeighboursOverlap) {
  const EncodedContext context = encode_context(tiny(), long_context());
  for (const std::optional<std::int32_t> separator :
       {std::optional<std::int32_t>(), std::optional<std::int32_t>(0)}) {
    SpanFeatureOptions options{64, 16, separator};
    const auto windows = make_windows(tiny(), "Who?", context, options);
    ASSERT_GT(windows.size(), 3U);
    std::size_t next = 0;
    for (std::size_t i = 0; i < windows.size(); ++i) {
      const SpanWindow& window = windows[i];
      EXPECT_LE(window.ids.size(), 64U);
      EXPECT_EQ(window.ids.size() - window.context_start, window.offsets.size());
      if (separator) {
        EXPECT_EQ(window.ids[window.context_start - 1], *separator);
      }
      const std::size_t first = i == 0 ? 0 : next - 16;
      for (std::size_t k = 0; k < window.offsets.size(); ++k) {
        ASSERT_EQ(window.ids[window.context_start + k], context.encoding.ids[first + k]);
      }
      next = first + window.offsets.size();
    }
    EXPECT_EQ(next, context.encoding.ids.size());
  }
}

TEST(SpanFeatures, AQuestionThatLeavesNoRoomIsCutAndSaid) {
  const EncodedContext context = encode_context(tiny(), long_context());
  std::string question;
  for (int i = 0; i < 200; ++i) question += " who";
  for (const std::size_t length : {40U, 384U}) {
    bool was_cut = false;
    const auto windows =
        make_windows(tiny(), question + question, context, {length, 32, std::nullopt}, &was_cut);
    EXPECT_TRUE(was_cut);
    EXPECT_EQ(windows[0].context_start, std::min<std::size_t>(kCutQuestionTokens, length - 33));
    EXPECT_EQ(windows.back().ids.back(), context.encoding.ids.back());
  }
}

TEST(SpanFeatures, AnEmptyContextHasOneWindow) {
  const auto windows = make_windows(tiny(), "Who?", encode_context(tiny(), ""), {});
  ASSERT_EQ(windows.size(), 1U);
  EXPECT_TRUE(windows[0].offsets.empty());
  EXPECT_EQ(label_window(windows[0], 0, 1), std::make_pair(0, 0));
}

TEST(SpanFeatures, AStrideWithoutRoomIsAUsageError) {
  const EncodedContext context = encode_context(tiny(), "a");
  for (const SpanFeatureOptions options :
       {SpanFeatureOptions{64, 63, {}}, {64, 1000, {}}, {4, 1, {}}, {64, SIZE_MAX, {}}}) {
    EXPECT_EQ(error_of([&] { make_windows(tiny(), "q", context, options); }).kind,
              ErrorKind::kUsage);
  }
}

}  // namespace span_features_test
}  // namespace qalof::text
