// What runs write to go on from is read back, odd numbers and texts included.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "app/attack/texts.h"
#include "app/sensitivity/state.h"
#include "app/train/log.h"
#include "support/temp_dir.h"

namespace qalof::app {
namespace journal_test {

using qalof::testing::TempDir;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Journals, ScoresThatAreNotFiniteAreReadBack) {
  const TempDir directory;
  const std::string path = directory.file("state.jsonl");
  const Json identity = {{"model", "m"}};
  {
    SensitivityState state(path, identity, false);
    state.add(0, 1, {{{100, 50.5, std::nan(""), kInfinity}, {0, 0, 1e300, -0.0}}});
  }
  // An empty line and a cut one, as an editor or a full disk leaves them.
  AppendFile(path).append("\r\n\n{\"batch\": 1");
  SensitivityState state(path, identity, false);
  EXPECT_EQ(state.resumed(), 1U);
  const std::vector<tasks::SampleScore>* scores = state.find(0, 1);
  ASSERT_NE(scores, nullptr);
  ASSERT_EQ(scores->size(), 2U);
  EXPECT_EQ((*scores)[0].f1, 50.5);
  EXPECT_TRUE(std::isnan((*scores)[0].loss));
  EXPECT_TRUE(std::isnan((*scores)[0].kl));
  EXPECT_EQ((*scores)[1].loss, 1e300);
  state.add(1, 0, {{{0, 0, 0, 0}}});
  EXPECT_EQ(SensitivityState(path, identity, false).resumed(), 2U);
}

TEST(Journals, TextsOfAnAttackAreReadBack) {
  const TempDir directory;
  const Json identity = {{"model", "m"}};
  AttackRecord record;
  record.original = "\"\\ \n\r\t\x01\u2028\ufeff\U0001f600";
  record.text = "";
  record.losses = {{"first", {{"margin", std::nan("")}}}};
  {
    AttackStore store(directory.path(), identity, false);
    store.add(record);
  }
  AppendFile(directory.file(kAttackTexts)).append("\n \r\n");
  EXPECT_EQ(AttackStore(directory.path(), identity, false).records().size(), 1U);
  const std::vector<AttackRecord> records = read_attack(directory.path());
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].original, record.original);
}

TEST(Journals, EvaluationsThatAreNotFiniteAreReadBack) {
  const auto scored = [](const tasks::Task& task, std::vector<double> values) {
    WidthScore score;
    score.precision = "w4a4kv4";
    score.width = 4;
    score.scores.metrics = task.metrics();
    score.scores.values = std::move(values);
    return score;
  };
  const double nan = std::nan("");
  for (const WidthScore& score : {scored(tasks::Lm(), {800, kInfinity, 5}),
                                  scored(tasks::Classification(), {0, nan, 0, 0})}) {
    const Json written = parse_json(score_json(score).dump(), "scores");
    const WidthScore read = score_of(written, score.scores.metrics, "scores");
    EXPECT_EQ(read.precision, score.precision);
    EXPECT_EQ(read.scores.values[0], score.scores.values[0]);
    EXPECT_FALSE(std::isfinite(read.scores.values[1]));
  }
}

}  // namespace journal_test
}  // namespace qalof::app
