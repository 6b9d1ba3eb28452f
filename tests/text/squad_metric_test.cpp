// Exact match and F1 against recorded pairs of the Python metric and hand-worked cases.
#include "text/squad_metric.h"

#include <gmock/gmock.h>

#include "support/error_of.h"
#include "support/temp_dir.h"
#include "text/fixtures.h"

namespace qalof::text {
namespace squad_metric_test {

using qalof::testing::error_of;
using qalof::testing::read_lines;
using qalof::testing::TempDir;

constexpr double kTolerance = 1e-12;

TEST(SquadMetric, PairsScoreAsInPython) {
  const std::vector<std::string> lines = read_lines("metric.jsonl");
  EXPECT_GE(lines.size(), 500U);
  for (const std::string& line : lines) {
    const Json entry = parse_json(line, "metric.jsonl");
    const std::string prediction = entry["p"];
    std::vector<SquadAnswer> golds;
    for (const Json& gold : entry["g"]) golds.push_back({gold, 0});
    EXPECT_EQ(normalize_answer(prediction), entry["n"]) << line;
    const QuestionScore v1 = score_v1(prediction, golds), v2 = score_v2(prediction, golds);
    EXPECT_EQ(v1.exact, entry["v1"][0]) << line;
    EXPECT_NEAR(v1.f1, entry["v1"][1], kTolerance) << line;
    EXPECT_EQ(v2.exact, entry["v2"][0]) << line;
    EXPECT_NEAR(v2.f1, entry["v2"][1], kTolerance) << line;
  }
}

TEST(SquadMetric, HandWorkedCases) {
  EXPECT_EQ(normalize_answer("The  U.S.A.\u00a0's"), "usa s");
  EXPECT_EQ(normalize_answer("an apple a day, the end"), "apple day end");
  const std::vector<SquadAnswer> golds = {{"the black cat", 0}, {"cat", 0}};
  EXPECT_EQ(score_v1("Cat!", golds).exact, 1);
  EXPECT_NEAR(score_v1("white cat sat", {golds.data(), 1}).f1, 0.4, kTolerance);  // 1 of 3, 1 of 2
  EXPECT_EQ(score_v1("", {}).f1, 0);
  EXPECT_EQ(score_v2("", {}).f1, 1);
  EXPECT_EQ(score_v2("cat", {}).f1, 0);
}

class ScorePredictions : public ::testing::Test {
 protected:
  SquadScores score(const std::string& references, const std::string& predictions,
                    bool v2 = false) {
    std::ofstream(directory_.file("r.json"), std::ios::binary) << references;
    std::ofstream(directory_.file("p.json"), std::ios::binary) << predictions;
    return score_predictions(directory_.file("r.json"), directory_.file("p.json"), v2);
  }
  TempDir directory_;
};

std::string references(const std::string& extra = "") {
  return R"([{"id": "1", "question": "?", "context": "c", "answers": {"text": ["cat"], "answer_start": [0]}},)"
         R"({"id": "2", "question": "?", "context": "c", "answers": {"text": ["dog"], "answer_start": [0]})" +
         extra + "}," +
         R"({"id": "2", "question": "?", "context": "c", "answers": {"text": ["the big dog"], "answer_start": [0]}}])";
}

TEST_F(ScorePredictions, MissingOnesCountInV1AndAreSkippedInV2) {
  const SquadScores v1 = score(references(), R"({"1": "cat", "other": "x"})");
  EXPECT_EQ(v1.total, 3U);
  EXPECT_EQ(v1.missing, 2U);
  EXPECT_NEAR(v1.exact_match, 100.0 / 3, 1e-9);
  for (const bool by_flag : {true, false}) {
    const SquadScores v2 =
        score(references(by_flag ? "" : R"(, "is_impossible": true)"), R"({"1": "cat"})", by_flag);
    EXPECT_EQ(v2.total, 1U);
    EXPECT_EQ(v2.missing, 2U);
    EXPECT_EQ(v2.exact_match, 100);
  }
}

TEST_F(ScorePredictions, OfOneIdV1CountsAllAndV2TheLast) {
  const SquadScores v1 = score(references(), R"({"1": "cat", "2": "dog"})");
  EXPECT_EQ(v1.total, 3U);
  EXPECT_EQ(v1.repeated, 1U);
  EXPECT_NEAR(v1.exact_match, 200.0 / 3, 1e-9);
  const SquadScores v2 = score(references(), R"({"1": "cat", "2": "dog"})", true);
  EXPECT_EQ(v2.total, 2U);
  EXPECT_NEAR(v2.exact_match, 50, 1e-9);
  EXPECT_NEAR(v2.f1, 100 * (1 + 2.0 / 3) / 2, 1e-9);
}

TEST_F(ScorePredictions, IdsThatAreNumbersAreKeysAsPythonWritesThem) {
  const SquadScores scores = score(
      R"([{"id": 7, "question": "?", "context": "c", "answers": {"text": ["cat"], "answer_start": [0]}},)"
      R"( {"id": 7.0, "question": "?", "context": "c", "answers": {"text": ["dog"], "answer_start": [0]}}])",
      "\xef\xbb\xbf"
      R"({"7": "cat", "7.0": "dog"})");
  EXPECT_EQ(scores.exact_match, 100);
  EXPECT_EQ(scores.total, 2U);
  EXPECT_EQ(scores.repeated, 0U);
}

TEST_F(ScorePredictions, PredictionsOfAnotherShapeAreRefused) {
  EXPECT_EQ(error_of([&] { score(references(), "[]"); }).kind, ErrorKind::kBadInput);
  EXPECT_EQ(error_of([&] { score(references(), R"({"1": 3})"); }).kind, ErrorKind::kBadInput);
  EXPECT_THAT(error_of([&] { score(references(), R"({"1": [{"text": "cat"}]})"); }).message,
              ::testing::HasSubstr("n-best files hold lists"));
  EXPECT_THAT(error_of([&] { score(references(), R"({"1": NaN})"); }).message,
              ::testing::HasSubstr("JSON has no NaN, Infinity or None, null stands for them"));
  EXPECT_EQ(error_of([&] { score(references(), R"({"1": "a")"); }).kind, ErrorKind::kCorruptFile);
}

}  // namespace squad_metric_test
}  // namespace qalof::text
