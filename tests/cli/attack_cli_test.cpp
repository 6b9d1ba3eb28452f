// An attack from files to an accuracy: what it finds, resuming, scoring of saved texts, refusals.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "core/statistics.h"
#include "program.h"
#include "support/tiny_model.h"

namespace qalof::cli {
namespace attack_cli_test {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class AttackCliTest : public CliTest {
 protected:
  void SetUp() override {
#ifndef QALOF_HAS_TRAIN
    GTEST_SKIP() << "built without training";
#endif
    Json config = qalof::testing::tiny_config();
    config["vocab_size"] = 640;
    config["bos_token_id"] = config["eos_token_id"] = 0;
    make_model("model", config, 1);
    make_model("lm", config, 2);
    // The last word tells the class.
    std::string tsv = "sentence\tlabel\n";
    for (const char* subject : {"the film", "this play", "a song", "her book", "one more story"}) {
      tsv += fmt::format("{} is bad\t0\n{} is good\t1\n", subject, subject);
    }
    std::ofstream(dir_.file("data.tsv")) << tsv;
    const ProgramRun trained =
        run("train --task classification --method joint --bit_widths 8 4 --threads 1 "
            "--per_device_train_batch_size 5 --lora_r 2 --warmup_steps 2 --learning_rate 1e-2 "
            "--max_steps 40 --model_name_or_path " +
            dir_.file("model") + " --train_file " + dir_.file("data.tsv") + " --output_dir " +
            dir_.file("adapter"));
    ASSERT_EQ(trained.code, 0) << trained.err;
  }
  void make_model(const std::string& name, const Json& config, std::uint64_t seed) {
    qalof::testing::write_model(dir_.file(name), config, seed);
    for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
      fs::copy(std::string(QALOF_SOURCE_DIR "/assets/nano/model/") + file,
               dir_.file(name + "/" + file));
  }
  std::string classifier() const {
    return " --model_name_or_path " + dir_.file("model") + " --adapter " + dir_.file("adapter") +
           " ";
  }
  ProgramRun attack(const std::string& output, const std::string& more) {
    return run("attack --json --validation_file " + dir_.file("data.tsv") + " --reference_model " +
               dir_.file("lm") + classifier() +
               "--iterations 12 --gumbel_samples 3 --queries 30 --batch_size 3 --output_dir " +
               dir_.file(output) + " " + more);
  }
  ProgramRun rescore(const std::string& output, const std::string& more) {
    return run("attack --json --rescore " + dir_.file(output) + classifier() + more);
  }
};

TEST_F(AttackCliTest, LowersAccuracyAndRescoringGivesTheSameFigures) {
  const ProgramRun found = attack("a8", "--precision 8 --precisions 8,4");
  ASSERT_EQ(found.code, 0) << found.err;
  const Json scores = Json::parse(found.out);
  EXPECT_EQ(scores["samples"], 10);
  EXPECT_GE(scores["clean_accuracy"].get<double>(), 90);
  EXPECT_LE(scores["adversarial_accuracy"].get<double>(), 50);
  EXPECT_EQ(scores["adversarial_accuracy"].get<double>(),
            100 - 10 * (scores["fooled"].get<double>() + 10 - scores["attacked"].get<double>()));
  // An accuracy of 0 is the lower end of its interval.
  const Interval interval = wilson_interval(scores["adversarial_accuracy"].get<double>() / 100, 10);
  EXPECT_DOUBLE_EQ(scores["ci95"][0].get<double>(), 100 * interval.low);
  EXPECT_DOUBLE_EQ(scores["ci95"][1].get<double>(), 100 * interval.high);
  ASSERT_EQ(scores["per_precision"].size(), 2U) << "8 is the attacked one";
  const ProgramRun again = rescore("a8", "--precision 4 --precisions 8");
  ASSERT_EQ(again.code, 0) << again.err;
  const Json other = Json::parse(again.out);
  EXPECT_EQ(other["per_precision"][0], scores["per_precision"][1]);
  EXPECT_EQ(other["per_precision"][1], scores["per_precision"][0]);
  EXPECT_EQ(other["adversarial_accuracy"], scores["per_precision"][1]["adversarial_accuracy"]);

  const Json random = Json::parse(
      rescore("a8/attack.jsonl", "--defence rpi --precisions 8,4 --draws 40 --seed 3").out);
  EXPECT_EQ(random["adversarial_draws"].size(), 40U);
  // Draws are of the two precisions alone, so that their mean is near those precisions' own: where
  // they differ on all 10 texts, a draw's accuracy has a deviation of 100 sqrt(1/4 / 10), and the
  // mean of 40 of them a quarter of this tolerance.
  const double mean = (other["per_precision"][0]["adversarial_accuracy"].get<double>() +
                       other["per_precision"][1]["adversarial_accuracy"].get<double>()) /
                      2;
  EXPECT_NEAR(random["adversarial_accuracy"].get<double>(), mean, 10);
}

TEST_F(AttackCliTest, AStoppedAttackGoesOnToTheSameBytesOnAnyNumberOfThreads) {
  const std::string flags = "--adaptive --defence rpi --precisions 8,4 --precision 8 ";
  const ProgramRun whole = attack("whole", flags + "--threads 2");
  ASSERT_EQ(whole.code, 0) << whole.err;
  const std::string texts = slurp(dir_.file("whole/attack.jsonl"));
  ASSERT_EQ(std::count(texts.begin(), texts.end(), '\n'), 10);
  // As if it had been killed while it wrote the fifth sample.
  fs::copy(dir_.file("whole"), dir_.file("again"));
  fs::remove(dir_.file("again/attack_results.json"));
  std::size_t end = 0;
  for (int line = 0; line < 4; ++line) end = texts.find('\n', end) + 1;
  std::ofstream(dir_.file("again/attack.jsonl")) << texts.substr(0, end + 17);
  const ProgramRun resumed = attack("again", flags + "--threads 1");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_THAT(resumed.err, HasSubstr("resuming after 4 samples"));
  for (const char* name : {"attack.json", "attack.jsonl", "attack_results.json"})
    EXPECT_EQ(slurp(dir_.file(std::string("again/") + name)),
              slurp(dir_.file(std::string("whole/") + name)))
        << name;
  const ProgramRun other = attack("again", flags + "--seed 7");
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, HasSubstr("attack.json: is of another run (seed was 42 and is now 7)"));
  EXPECT_EQ(attack("again", flags + "--seed 7 --num_samples 2 --overwrite_output_dir").code, 0);
  EXPECT_NE(slurp(dir_.file("again/attack.jsonl")), texts.substr(0, texts.find('\n', end) + 1));
}

TEST_F(AttackCliTest, RefusesWithASentence) {
  auto refused = [&](const ProgramRun& result, int code, const std::string& words) {
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_THAT(result.err, HasSubstr(words));
  };
  refused(attack("b", "--adaptive --precisions 8"), 2,
          "--adaptive: found 1 --precisions, expected at least 2");
  refused(attack("b", "--defence rpi"), 2,
          "--defence rpi: found 0 --precisions, expected at least 2");
  refused(attack("b", "--defence magic"), 2, "--defence: found magic, expected none or rpi");
  refused(attack("b", "--expectation half"), 2, "--expectation: found half, expected all or one");
  refused(run("attack" + classifier()), 2, "--reference_model is missing");
  Json config = qalof::testing::tiny_config();
  config["vocab_size"] = 641;
  make_model("wide", config, 2);
  refused(attack("b", "--reference_model " + dir_.file("wide")), 3, "640 embeddings");
  refused(rescore("nowhere", ""), 3, "nowhere");
  refused(rescore("nowhere", "--adaptive"), 2,
          "--adaptive: is for a search, which --rescore leaves out");
  std::ofstream(dir_.file("bad.jsonl")) << "{\"index\": 0}\n";
  refused(rescore("bad.jsonl", ""), 3, "bad.jsonl: line 1: ");
  std::ofstream(dir_.file("cut.jsonl")) << "{\"index\": 0";
  refused(rescore("cut.jsonl", ""), 3, "cut.jsonl: its last line is cut off");
  EXPECT_FALSE(fs::exists(dir_.file("b/attack.jsonl")));
}

}  // namespace attack_cli_test
}  // namespace qalof::cli
