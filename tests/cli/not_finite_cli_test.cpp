// Numbers that are not finite or cannot be, as a script sees them: exit codes and one sentence.
#include <gmock/gmock.h>

#include <filesystem>

#include "program.h"
#include "support/tiny_model.h"
#include "support/tiny_runtime.h"
#include "text/bpe_tokenizer.h"
#include "weights/adapter.h"
#include "weights/base_model.h"

namespace qalof::cli {
namespace not_finite_cli_test {

using ::testing::HasSubstr;

class NotFiniteCli : public CliTest {
 protected:
  NotFiniteCli() {
    Json config = qalof::testing::tiny_config();
    config["vocab_size"] = 640;
    config["bos_token_id"] = config["eos_token_id"] = 0;
    qalof::testing::write_model(dir_.file("model"), config);
    text::copy_tokenizer_files(QALOF_SOURCE_DIR "/assets/nano/model", dir_.file("model"));
    std::ofstream(dir_.file("text.txt")) << "Anna has a red ball. Ben has a blue hat.\n";
  }
  std::string broken() const {
    const auto base = weights::BaseModel::load_directory(dir_.file("model"));
    weights::Adapter adapter = qalof::testing::overflowing_adapter(*base);
    weights::save_adapter(dir_.file("broken"), adapter, base->config(), weights::HeadKind::kLm,
                          "tiny");
    return dir_.file("broken");
  }
  void expect_refused(const std::string& command, int code, const std::string& words) {
    const ProgramRun run = this->run(command);
    EXPECT_EQ(run.code, code) << command << run.err;
    EXPECT_THAT(run.err, HasSubstr(words));
    EXPECT_EQ(run.out, "") << "nothing that a script could take for a result";
  }
  std::string model() const { return " --model_name_or_path " + dir_.file("model"); }
};

TEST_F(NotFiniteCli, LossesAndTokensEndWithExitCodeFour) {
  const std::string network = model() + " --adapter " + broken() + " --precision 32 --quiet";
  expect_refused("eval --task lm --json --validation_file " + dir_.file("text.txt") + network, 4,
                 "text.txt: token 2 of ");
  expect_refused("generate --prompt red" + network, 4, "token 1 of the text");
}

TEST_F(NotFiniteCli, NumbersThatCannotBeEndWithExitCodeTwo) {
  expect_refused("attack --rescore x --draws 0" + model(), 2,
                 "--draws: found 0, expected 1..1000000");
#ifdef QALOF_HAS_TRAIN
  const std::string train = "train --task lm --method lora --train_file " + dir_.file("text.txt") +
                            model() + " --output_dir " + dir_.file("run");
  for (const char* flags : {"--num_train_epochs 0",
                            "--num_train_epochs 1e300",
                            "--learning_rate 0",
                            "--learning_rate nan",
                            "--learning_rate 1e300",
                            "--max_steps -1",
                            "--eval_steps -1",
                            "--save_steps -1",
                            "--logging_steps 0",
                            "--lora_r 0",
                            "--per_device_train_batch_size 0",
                            "--per_device_train_batch_size 9000000000000000000",
                            "--gradient_accumulation_steps 0",
                            "--max_seq_length 0",
                            "--kd_temperature 0",
                            "--max_grad_norm -1",
                            "--weight_decay -1",
                            "--warmup_steps -1",
                            "--lora_alpha 1e300",
                            "--teacher_cache_mb 9000000000000000000"}) {
    const std::string flag = flags;
    expect_refused(train + " " + flag, 2, flag.substr(0, flag.find(' ')) + ": found ");
    EXPECT_FALSE(std::filesystem::exists(dir_.file("run"))) << flags;
  }
  expect_refused("bench train --repeats 2147483647" + model(), 2, "--repeats: found 2147483647");
#endif
}

#ifdef QALOF_HAS_TRAIN
TEST_F(NotFiniteCli, DivergedTrainingWritesNoAdapter) {
  expect_refused(
      "train --quiet --task lm --method full --learning_rate 1e30 --warmup_steps 0 "
      "--max_steps 3 --train_file " +
          dir_.file("text.txt") + model() + " --output_dir " + dir_.file("run"),
      4, "no weights are written");
  EXPECT_FALSE(std::filesystem::exists(dir_.file("run/model.safetensors")));
}

// Off a terminal a short run leaves no line of progress but that of its end.
TEST_F(NotFiniteCli, LogsOfShortRunsAreShort) {
  const ProgramRun run = this->run(
      "train --task lm --method lora --logging_steps 1 --max_steps 5 "
      "--warmup_steps 1 --train_file " +
      dir_.file("text.txt") + model() + " --output_dir " + dir_.file("run"));
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("train w32 5/5  loss "));
  EXPECT_THAT(run.err, ::testing::Not(HasSubstr("train w32 4/5")));
  EXPECT_THAT(run.err, ::testing::Not(HasSubstr("\r")));
}
#endif

}  // namespace not_finite_cli_test
}  // namespace qalof::cli
