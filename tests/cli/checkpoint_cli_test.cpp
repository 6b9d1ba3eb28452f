// Checkpoints as a user meets them: signals, exit codes and what is said.
#include <gmock/gmock.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "program.h"

namespace qalof::cli {
namespace checkpoint_cli_test {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class CheckpointCliTest : public CliTest {
 protected:
  CheckpointCliTest() { write_tiny_model(); }
  void SetUp() override {
#ifndef QALOF_HAS_TRAIN
    GTEST_SKIP() << "built without training";
#endif
  }
  std::string train(const std::string& output, int steps, const std::string& more = "") const {
    return "train --threads 1 --model_name_or_path " + dir_.file("model") + " --train_file " +
           QALOF_SOURCE_DIR
           "/assets/nano/data/train.json --max_train_samples 12 "
           "--max_seq_length 48 --doc_stride 16 --per_device_train_batch_size 2 --lora_r 2 "
           "--warmup_steps 2 --logging_steps 1 --max_steps " +
           std::to_string(steps) + " --output_dir " + dir_.file(output) + " " + more;
  }
  std::string adapter(const std::string& output) const {
    return slurp(dir_.file(output + "/w32/adapter_model.safetensors"));
  }
};

TEST_F(CheckpointCliTest, ASignalSavesAndTheSameCommandGoesOn) {
  constexpr int kSteps = 3'000;
  ASSERT_EQ(run(train("whole", kSteps)).code, 0);
  for (const auto& [signal, code] : {std::pair{"TERM", 143}, {"INT", 130}}) {
    const std::string output = std::string("stopped") + signal;
    // The program is replaced by the trainer, so its process is the one to signal: once it has
    // trained a few steps.
    const std::string wait = "(for i in $(seq 600); do [ $(cat " + dir_.file(output) +
                             "/metrics.jsonl 2>/dev/null | wc -l) -gt 4 ] && break; sleep 0.05; "
                             "done; kill -" +
                             signal + " $$) & exec ";
    const ProgramRun stopped =
        run_behind("sh -c '" + wait + "\"$0\" \"$@\"' ", train(output, kSteps));
    ASSERT_EQ(stopped.code, code) << stopped.err;
    EXPECT_THAT(stopped.err, HasSubstr("the same command resumes"));
    std::size_t checkpoints = 0;
    for (const auto& entry : fs::directory_iterator(dir_.file(output))) {
      checkpoints += entry.path().filename().string().starts_with("checkpoint-") ? 1 : 0;
    }
    EXPECT_EQ(checkpoints, 1U);
    const ProgramRun again = run(train(output, kSteps));
    ASSERT_EQ(again.code, 0) << again.err;
    EXPECT_THAT(again.err, HasSubstr("resuming from"));
    EXPECT_TRUE(adapter("whole") == adapter(output));
    EXPECT_TRUE(slurp(dir_.file("whole/metrics.jsonl")) ==
                slurp(dir_.file(output + "/metrics.jsonl")));
  }
}

TEST_F(CheckpointCliTest, ExitCodesAndSentences) {
  ProgramRun result = run(train("none", 4, "--resume_from_checkpoint " + dir_.file("typo")));
  EXPECT_EQ(result.code, 3);
  EXPECT_THAT(result.err, HasSubstr("typo: no such checkpoint"));
  result = run(train("run", 4, "--save_steps 2"));
  ASSERT_EQ(result.code, 0) << result.err;
  result = run(train("run", 4, "--save_steps 2 --learning_rate 2e-3"));
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("--learning_rate was 0.001 and is now 0.002"));
  // The same number in another form, and flags that change nothing, are the same run.
  result = run(train("run", 4, "--learning_rate 1e-3 --save_steps 4 --threads 2"));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("checkpoint-4 after step 4"));
  EXPECT_EQ(run(train("run", 4, "--resume_from_checkpoint " + dir_.file("run/checkpoint-2"))).code,
            0);
  // Weights grow until nothing is finite.
  result = run(train("wild", 40, "--save_steps 1 --learning_rate 1e30 --max_grad_norm 0"));
  EXPECT_EQ(result.code, 4) << result.err;
  EXPECT_FALSE(fs::exists(dir_.file("wild/qalof.json")));
  EXPECT_TRUE(fs::exists(dir_.file("wild/checkpoint-1/manifest.json")));
}

TEST_F(CheckpointCliTest, AFullDiskAndTooLittleMemoryAreExitFive) {
  ProgramRun result = run(train("run", 4, "--save_steps 2"));
  ASSERT_EQ(result.code, 0) << result.err;
  fs::remove_all(dir_.file("run/checkpoint-4"));
  // Files of at most 8 blocks: adapters fit, the state does not.
  result = run_behind("ulimit -f 8; ", train("run", 4, "--save_steps 2"));
  EXPECT_EQ(result.code, 5) << result.err;
  EXPECT_THAT(result.err, HasSubstr("cannot be written"));
  EXPECT_FALSE(fs::exists(dir_.file("run/checkpoint-4")));
  result = run(train("run", 4, "--save_steps 2"));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("checkpoint-2 after step 2"));
  const std::string nowhere = "/proc/qalof-none";
  result = run(train("x", 4, "--overwrite_output_dir --output_dir " + nowhere));
  EXPECT_EQ(result.code, 5) << result.err;
  EXPECT_THAT(result.err, HasSubstr(nowhere));
  // 2 GB of addresses hold the program, but not this batch.
  result = run_behind("ulimit -v 2000000; ",
                      train("big", 4, "--lora_r 65536 --per_device_train_batch_size 4"));
  EXPECT_EQ(result.code, 5) << result.err;
  EXPECT_THAT(result.err, HasSubstr("memory"));
}

}  // namespace checkpoint_cli_test
}  // namespace qalof::cli
