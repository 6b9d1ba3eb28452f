// Answers from logits and prediction files against those of Hugging Face's run_qa, ties and limits
// included.
#include "text/squad_postprocess.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <limits>

#include "support/error_of.h"
#include "support/temp_dir.h"
#include "text/fixtures.h"
#include "text/python_json.h"
#include "text/unicode.h"

namespace qalof::text {
namespace squad_postprocess_test {

using qalof::testing::error_of;
using qalof::testing::TempDir;
using qalof::testing::text_data;

// exp of another library may differ in the last bits.
constexpr double kProbabilityTolerance = 1e-12;

void add_windows(const Json& example, SpanDecoder* decoder) {
  for (const Json& entry : example["windows"]) {
    SpanWindow window;
    window.context_start = entry["context_start"];
    window.ids.resize(entry["start_logits"].size());
    window.offsets = entry["offsets"].get<decltype(window.offsets)>();
    std::vector<float> logits;
    for (std::size_t i = 0; i < window.ids.size(); ++i) {
      logits.push_back(entry["start_logits"][i]);
      logits.push_back(entry["end_logits"][i]);
    }
    decoder->add(window, logits);
  }
}

TEST(SpanDecoder, AnswersAndFilesEqualThoseOfRunQa) {
  const Json fixture = read_json_file(text_data("postprocess.json"));
  for (const Json& expected : fixture["expected"]) {
    SpanDecodeOptions options;
    options.version_2_with_negative = expected["v2"];
    options.n_best_size = expected["n_best_size"];
    options.max_answer_length = expected["max_answer_length"];
    options.null_score_diff_threshold = expected["threshold"];
    const TempDir directory;
    PredictionWriter writer(directory.path(), "eval_", options.version_2_with_negative);
    SpanDecoder decoder(options);
    for (const Json& example : fixture["cases"]) {
      const std::string id = example["id"];
      add_windows(example, &decoder);
      const SpanPrediction prediction = decoder.finish(example["context"].get<std::string>());
      writer.add(id, prediction, {});
      const Json& n_best = expected["n_best"][id];
      ASSERT_EQ(prediction.n_best.size(), n_best.size()) << id;
      for (std::size_t i = 0; i < n_best.size(); ++i) {
        EXPECT_EQ(prediction.n_best[i].text, n_best[i]["text"]) << id;
        EXPECT_EQ(prediction.n_best[i].start_logit, n_best[i]["start_logit"]) << id;
        EXPECT_EQ(prediction.n_best[i].end_logit, n_best[i]["end_logit"]) << id;
        EXPECT_NEAR(prediction.n_best[i].probability, n_best[i]["probability"],
                    kProbabilityTolerance)
            << id;
      }
    }
    EXPECT_THROW(read_file(directory.file("eval_predictions.json"), 1U << 20), Error);
    writer.finish();
    EXPECT_EQ(read_file(directory.file("eval_predictions.json"), 1U << 20),
              expected["predictions"]);
    EXPECT_EQ(read_json_file(directory.file("eval_nbest_predictions.json")).size(),
              fixture["cases"].size());
    if (options.version_2_with_negative) {
      EXPECT_EQ(read_file(directory.file("eval_null_odds.json"), 1U << 20), expected["null_odds"]);
    }
  }
}

SpanWindow window_of(std::size_t question,
                     std::vector<std::pair<std::uint32_t, std::uint32_t>> offsets) {
  SpanWindow window;
  window.context_start = question;
  window.ids.resize(question + offsets.size());
  window.offsets = std::move(offsets);
  return window;
}

TEST(PredictionWriter, FilesAreAsPythonWritesThem) {
  const TempDir directory;
  PredictionWriter writer(directory.path(), "", false);
  SpanDecoder decoder({});
  writer.add("none", decoder.finish("x"), {0, 0.5});
  decoder.add(window_of(0, {{0, 1}}), std::vector<float>{0.1F, -2});
  writer.add("one", decoder.finish("\u00e9"), {1, 1});
  writer.finish();
  EXPECT_EQ(read_file(directory.file("nbest_predictions.json"), 4096),
            R"({
    "none": [
        {
            "text": "empty",
            "start_logit": 0.0,
            "end_logit": 0.0,
            "probability": 1.0
        }
    ],
    "one": [
        {
            "start_logit": 0.10000000149011612,
            "end_logit": -2.0,
            "text": "\u00e9",
            "probability": 1.0
        }
    ]
}
)");
  EXPECT_EQ(read_file(directory.file("scores.json"), 4096),
            "{\n    \"none\": [0.0, 50.0],\n    \"one\": [100.0, 100.0]\n}\n");
}

TEST(PredictionWriter, OddIdsAndTextsAreReadBack) {
  const TempDir directory;
  std::string long_id;
  while (long_id.size() + 4 < (std::size_t{64} << 10)) long_id += "\U0001f600";
  const std::vector<std::string> ids = {
      "",    " ",         "7",    "\"\\/\b\f\n\r\t", "\x01\x7f", "\u2028\ufeff\u4e2d",
      "NaN", "</script>", long_id};
  Json references = Json::array();
  PredictionWriter writer(directory.path(), "", true);
  SpanDecoder decoder({});
  for (const std::string& id : ids) {
    const std::string context = id.empty() ? "x" : id;
    const auto size = static_cast<std::uint32_t>(count_code_points(context));
    decoder.add(window_of(0, {{0, size}}), std::vector<float>{8e37F, -8e37F});
    const SpanPrediction prediction = decoder.finish(context);
    EXPECT_EQ(prediction.text, context);
    writer.add(id, prediction, {1, 1});
    references.push_back({{"id", id},
                          {"context", context},
                          {"question", id},
                          {"answers", {{"text", {context}}, {"answer_start", {0}}}}});
  }
  writer.finish();
  write_file_atomic(directory.file("references.json"), references.dump());
  const SquadScores scores = score_predictions(directory.file("references.json"),
                                               directory.file("predictions.json"), false);
  EXPECT_EQ(scores.total, ids.size());
  EXPECT_EQ(scores.missing, 0U);
  EXPECT_EQ(scores.exact_match, 100);
  for (const char* file : {"nbest_predictions.json", "scores.json", "null_odds.json"})
    EXPECT_EQ(read_json_file(directory.file(file)).size(), ids.size()) << file;
}

TEST(PredictionWriter, NoQuestionsGiveAnEmptyObject) {
  const TempDir directory;
  PredictionWriter writer(directory.path(), "eval_", true);
  writer.finish();
  EXPECT_EQ(read_file(directory.file("eval_predictions.json"), 99), "{}\n");
}

TEST(SpanDecoder, OnlyEmptyTextsAreNoCrashInV2) {
  SpanDecodeOptions options;
  options.version_2_with_negative = true;
  SpanDecoder decoder(options);
  decoder.add(window_of(1, {{2, 2}, {2, 2}}), std::vector<float>{0, 0, 5, 5, 4, 4});
  const SpanPrediction prediction = decoder.finish("abcdef");
  EXPECT_EQ(prediction.n_best.front().text, "empty");
}

TEST(SpanDecoder, TokensBehindTheContextAnswerNothing) {
  SpanDecoder decoder({});
  SpanWindow window = window_of(1, {{0, 1}, {1, 2}});
  window.ids.resize(5);
  decoder.add(window, std::vector<float>{0, 0, 2, 0, 1, 3, 9, 9, 9, 9});
  const SpanPrediction prediction = decoder.finish("abc");
  EXPECT_EQ(prediction.text, "ab");
  EXPECT_EQ(prediction.n_best.size(), 3U);
}

TEST(SpanDecoder, TiesGoToTheLowerIndex) {
  SpanDecoder decoder({});
  decoder.add(window_of(0, {{0, 1}, {1, 2}, {2, 3}}), std::vector<float>(6, 1.0F));
  EXPECT_EQ(decoder.finish("abc").text, "a");
}

TEST(SpanDecoder, LengthIsInTokensAndInclusive) {
  SpanDecodeOptions options;
  options.max_answer_length = 2;
  SpanDecoder decoder(options);
  decoder.add(window_of(0, {{0, 1}, {1, 2}, {2, 3}}), std::vector<float>{9, 0, 0, 5, 0, 9});
  EXPECT_EQ(decoder.finish("abc").text, "ab");
}

TEST(SpanDecoder, LogitsThatAreNotFiniteAreRefused) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    SpanDecoder decoder({});
    const auto error = error_of([&] {
      decoder.add(window_of(0, {{0, 1}}), std::vector<float>{bad, 0});
    });
    EXPECT_EQ(error.kind, ErrorKind::kDiverged);
  }
}

TEST(PythonJson, FloatsAndStringsAreAsPythonWritesThem) {
  const Json fixture = read_json_file(text_data("python_json.json"));
  for (const Json& entry : fixture["floats"]) {
    const std::uint64_t bits = std::stoull(entry[0].get<std::string>(), nullptr, 16);
    EXPECT_EQ(python_json_float(std::bit_cast<double>(bits)), entry[1]) << entry;
  }
  for (const Json& entry : fixture["strings"]) {
    EXPECT_EQ(python_json_string(entry[0].get<std::string>()), entry[1]);
  }
  EXPECT_EQ(python_json_float(NAN), "NaN");
  EXPECT_EQ(python_json_float(-INFINITY), "-Infinity");
}

}  // namespace squad_postprocess_test
}  // namespace qalof::text
