// Classification from a file to an accuracy: training, adapters, packed file, refusals.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "program.h"
#include "quant/random_precision.h"

namespace qalof::cli {
namespace classification_cli_test {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class ClassificationCliTest : public CliTest {
 protected:
  ClassificationCliTest() {
    write_tiny_model();
    // The last word tells the class.
    std::string tsv, csv;
    const char* subjects[] = {"the film", "this play", "a song", "her book", "one more story"};
    const char* ends[] = {"bad", "good", "red"};
    for (const char* subject : subjects) {
      for (int label = 0; label < 3; ++label) {
        if (label < 2) tsv += fmt::format("{} is {}\t{}\n", subject, ends[label], label);
        csv += fmt::format("\"{}\",\"{}\",\"is, it seems, {}\"\n", label + 1, subject, ends[label]);
      }
    }
    write("data.tsv", "sentence\tlabel\n" + tsv);
    write("data.csv", csv);
  }
  void SetUp() override {
#ifndef QALOF_HAS_TRAIN
    GTEST_SKIP() << "built without training";
#endif
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_.file(name)) << text;
  }
  std::string train(const std::string& data, const std::string& output,
                    const std::string& more) const {
    return "train --task classification --threads 1 --model_name_or_path " + dir_.file("model") +
           " --train_file " + dir_.file(data) + " --validation_file " + dir_.file(data) +
           " --per_device_train_batch_size 5 --lora_r 2 --warmup_steps 2 --learning_rate 5e-3 "
           "--output_dir " +
           dir_.file(output) + " --json " + more;
  }
  Json eval(const std::string& model, const std::string& data, const std::string& more) {
    const ProgramRun result =
        run("eval --task classification --json --model_name_or_path " + dir_.file(model) +
            " --validation_file " + dir_.file(data) + " " + more);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.code == 0 ? Json::parse(result.out) : Json();
  }
};

TEST_F(ClassificationCliTest, AdaptersAndPackedFileHaveTheAccuracyOfTraining) {
  const ProgramRun trained =
      run(train("data.csv", "joint", "--method joint --bit_widths 8 4 --max_steps 60"));
  ASSERT_EQ(trained.code, 0) << trained.err;
  const Json scores = Json::parse(trained.out)["eval"];
  ASSERT_EQ(scores.size(), 2U);
  const Json described = Json::parse(slurp(dir_.file("joint/qalof.json")));
  EXPECT_EQ(described["label_names"], (Json{"1", "2", "3"}));
  const Json peft = Json::parse(slurp(dir_.file("joint/w4/adapter_config.json")));
  EXPECT_EQ(peft["task_type"], "SEQ_CLS");
  EXPECT_EQ(peft["modules_to_save"], Json{"score"});
  const ProgramRun packed =
      run("quantize --model_name_or_path " + dir_.file("model") + " --adapter " +
          dir_.file("joint") + " --bit_widths 8 4 --output " + dir_.file("model.qalof"));
  ASSERT_EQ(packed.code, 0) << packed.err;
  for (const Json& score : scores) {
    const std::string width = std::to_string(score["width"].get<int>());
    EXPECT_GE(score["eval_accuracy"].get<double>(), 90.0) << width;
    const Json from_directory =
        eval("model", "data.csv", "--adapter " + dir_.file("joint") + " --precision " + width);
    EXPECT_EQ(from_directory["eval_accuracy"], score["eval_accuracy"]);
    EXPECT_EQ(from_directory["eval_loss"], score["eval_loss"]) << "the same logits";
    EXPECT_EQ(from_directory["eval_samples"], 15);
    // A packed file's embedding is bf16, which a plan below 32 rounds to anyway.
    EXPECT_EQ(eval("model.qalof", "data.csv", "--precision " + width)["eval_loss"],
              score["eval_loss"]);
  }
  const Json some =
      eval("model.qalof", "data.csv", "--max_eval_samples 4 --output_dir " + dir_.file("scores"));
  EXPECT_EQ(some["eval_samples"], 4);
  const Json kept = Json::parse(slurp(dir_.file("scores/eval_predictions.json")));
  EXPECT_EQ(kept["labels"], (Json{0, 1, 2, 0}));
  EXPECT_EQ(kept["predictions"].size(), 4U);
  EXPECT_EQ(kept["label_names"], (Json{"1", "2", "3"}));
}

// One packed file serves every width; a text is answered as at the width drawn for it alone.
TEST_F(ClassificationCliTest, RandomPrecisionDrawsAWidthForEachText) {
  const ProgramRun trained =
      run(train("data.csv", "rpt",
                "--method random --bit_widths 8 6 4 --max_steps 12 --adversarial_steps 2 "
                "--adversarial_epsilon 0.1 --adversarial_norm linf"));
  ASSERT_EQ(trained.code, 0) << trained.err;
  const ProgramRun packed =
      run("quantize --model_name_or_path " + dir_.file("model") + " --adapter " + dir_.file("rpt") +
          " --bit_widths 8 6 4 --output " + dir_.file("rpt.qalof"));
  ASSERT_EQ(packed.code, 0) << packed.err;
  const auto predictions = [&](const std::string& flags, Json* result = nullptr) {
    const Json found =
        eval("rpt.qalof", "data.csv", flags + " --output_dir " + dir_.file("scores"));
    if (result != nullptr) *result = found;
    return Json::parse(slurp(dir_.file("scores/eval_predictions.json")))["predictions"];
  };
  Json found;
  const Json drawn = predictions("--precision random:4,6,8 --seed 3 --threads 1", &found);
  EXPECT_EQ(predictions("--precision random:4,6,8 --seed 3 --threads 2"), drawn);
  EXPECT_EQ(found["precision_seed"], 3);
  EXPECT_THAT(found["precision"].get<std::string>(),
              ::testing::StartsWith("random:w4a4kv4,w6a6kv6,w8a8kv8, seed 3; w4a4kv4, head w4; "));
  int total = 0;
  for (const auto& [precision, count] : found["draws"].items()) total += count.get<int>();
  EXPECT_EQ(total, 15);
  EXPECT_EQ(found["draws"].size(), 3U);
  const quant::PrecisionDraws draws(3, 3);
  const char* widths[] = {"4", "6", "8"};
  Json fixed[3];
  for (int i = 0; i < 3; ++i) fixed[i] = predictions(std::string("--precision ") + widths[i]);
  for (std::size_t i = 0; i < 15; ++i) EXPECT_EQ(drawn[i], fixed[draws.of_request(i)][i]) << i;

  Json system, layers;
  predictions("--precision random:4,8", &system);
  EXPECT_GT(system["precision_seed"].get<std::uint64_t>(), 0U);
  predictions("--precision random:4,6,8 --random_widths layer --seed 3", &layers);
  total = 0;
  for (const auto& [precision, count] : layers["draws"].items()) total += count.get<int>();
  EXPECT_EQ(total, 30) << "texts times layers";
}

TEST_F(ClassificationCliTest, WhereOnePrecisionIsNeededADrawIsRefused) {
  const std::string model = " --model_name_or_path " + dir_.file("model");
  const ProgramRun quantized =
      run("quantize" + model + " --precision random:4,8 --output " + dir_.file("x.qalof"));
  EXPECT_EQ(quantized.code, 3) << quantized.err;
  EXPECT_THAT(quantized.err, HasSubstr("here one precision is needed"));
  const std::string data = " --validation_file " + dir_.file("data.tsv");
  for (const auto& [flags, says] :
       {std::pair{"--precision random:8", "one width leaves nothing to draw"},
        {"--precision random:4,8,4", "w4a4kv4 appears twice"},
        {"--precision 8 --random_widths layer", "--random_widths layer: nothing is drawn"},
        {"--precision random:4,8 --random_widths text", "--random_widths: found text"}}) {
    const ProgramRun bad = run("eval --task classification" + model + data + " " + flags);
    EXPECT_EQ(bad.code, 2) << flags;
    EXPECT_THAT(bad.err, HasSubstr(says));
  }
}

TEST_F(ClassificationCliTest, FullWritesADirectoryThatClassifies) {
  const ProgramRun trained = run(train("data.tsv", "full", "--method full --max_steps 30"));
  ASSERT_EQ(trained.code, 0) << trained.err;
  const Json config = Json::parse(slurp(dir_.file("full/config.json")));
  EXPECT_EQ(config["architectures"], Json{"GPT2ForSequenceClassification"});
  EXPECT_EQ(config["id2label"], (Json{{"0", "0"}, {"1", "1"}}));
  EXPECT_EQ(config["label2id"], (Json{{"0", 0}, {"1", 1}}));
  EXPECT_EQ(eval("full", "data.tsv", "")["eval_accuracy"],
            Json::parse(trained.out)["eval"][0]["eval_accuracy"]);
  const ProgramRun wrong = run("eval --task classification --model_name_or_path " +
                               dir_.file("full") + " --validation_file " + dir_.file("data.csv"));
  EXPECT_EQ(wrong.code, 3);
  EXPECT_THAT(wrong.err, HasSubstr("data.csv: line 3: class 3 of the file, the head has 2"));
}

TEST_F(ClassificationCliTest, BadDataEndsWithItsLineAndCutTextsAreCounted) {
  write("bad.tsv", "fine\t0\nnot fine\n");
  const ProgramRun bad = run(train("bad.tsv", "out", "--max_steps 2"));
  EXPECT_EQ(bad.code, 3);
  EXPECT_THAT(bad.err, HasSubstr("bad.tsv: line 2: 1 fields"));
  EXPECT_FALSE(fs::exists(dir_.file("joint/qalof.json")));
  const ProgramRun cut = run(train("data.tsv", "cut", "--max_steps 2 --max_seq_length 6"));
  ASSERT_EQ(cut.code, 0) << cut.err;
  EXPECT_THAT(cut.err, HasSubstr("texts were cut to 6 tokens"));
  const ProgramRun headless =
      run("eval --task classification --model_name_or_path " + dir_.file("model") +
          " --validation_file " + dir_.file("data.tsv"));
  EXPECT_EQ(headless.code, 3);
  EXPECT_THAT(headless.err, HasSubstr("classification head (score)"));
}

TEST_F(ClassificationCliTest, AStoppedRunGoesOnToTheSameBytes) {
  const std::string method = "--method switch --bit_widths 8 4 --max_steps 6 --save_steps 4 ";
  ASSERT_EQ(run(train("data.tsv", "whole", method)).code, 0);
  ASSERT_EQ(run(train("data.tsv", "again", method)).code, 0);
  for (const std::string step : {"4", "8"}) {
    const ProgramRun resumed =
        run(train("data.tsv", "again",
                  method + "--resume_from_checkpoint " + dir_.file("again/checkpoint-" + step)));
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    for (const char* name : {"w8/adapter_model.safetensors", "w4/adapter_model.safetensors",
                             "metrics.jsonl", "trainer_state.json", "qalof.json"}) {
      EXPECT_TRUE(slurp(dir_.file(std::string("whole/") + name)) ==
                  slurp(dir_.file(std::string("again/") + name)))
          << name << " from " << step;
    }
  }
}

}  // namespace classification_cli_test
}  // namespace qalof::cli
