// Models that should not fit memory: what a command's process holds at most.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/program.h"

namespace qalof::cli {
namespace large_model_cli_test {

class LargeModelCliTest : public CliTest {
 protected:
  // The largest resident size of a command, in bytes; 0 where it fails.
  std::uint64_t peak_of(const std::string& arguments) {
    const std::string command = "exec " QALOF_BINARY_DIR "/qalof " + arguments + " >/dev/null";
    const pid_t child = ::fork();
    if (child == 0) {
      ::execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char*>(nullptr));
      ::_exit(127);
    }
    int status = -1;
    rusage usage{};
    ::wait4(child, &status, 0, &usage);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << arguments;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0
               ? static_cast<std::uint64_t>(usage.ru_maxrss) * 1024
               : 0;
  }
};

TEST_F(LargeModelCliTest, QuantizeHoldsLessThanHalfOfTheModel) {
  // 24.9 million weights: 100 MB as floats. The file of three widths is as large as half of them.
  const Json config = {
      {"model_type", "llama"},         {"vocab_size", 8000},         {"hidden_size", 512},
      {"intermediate_size", 2048},     {"num_hidden_layers", 5},     {"num_attention_heads", 8},
      {"max_position_embeddings", 64}, {"tie_word_embeddings", true}};
  std::ofstream(dir_.file("config.json")) << config.dump();
  const std::string model = dir_.file("model");
  ASSERT_EQ(run("init --config_name " + dir_.file("config.json") + " --output_dir " + model).code,
            0);
  const std::uint64_t floats = std::filesystem::file_size(model + "/model.safetensors");
  ASSERT_GT(floats, 95'000'000U);
  for (const char* flags : {"--bit_widths 8 4 2", "--bit_widths 8 4 --scheme g64"}) {
    const std::uint64_t peak = peak_of("quantize --model_name_or_path " + model + " --output " +
                                       dir_.file("packed") + " " + flags);
    EXPECT_GT(peak, 0U);
    EXPECT_LE(peak, floats / 2) << flags;
  }
  EXPECT_EQ(run("inspect " + dir_.file("packed")).code, 0);
}

TEST_F(LargeModelCliTest, AnLmHeadOfItsOwnIsNeverHeldAsFloats) {
  // The embedding and the head are 82 MB each as floats, the rest 17 MB.
  const Json config = {
      {"model_type", "llama"},         {"vocab_size", 40000},         {"hidden_size", 512},
      {"intermediate_size", 2048},     {"num_hidden_layers", 1},      {"num_attention_heads", 8},
      {"max_position_embeddings", 64}, {"tie_word_embeddings", false}};
  std::ofstream(dir_.file("config.json")) << config.dump();
  const std::string model = dir_.file("model");
  ASSERT_EQ(run("init --config_name " + dir_.file("config.json") + " --output_dir " + model).code,
            0);
  const std::uint64_t floats = std::filesystem::file_size(model + "/model.safetensors");
  ASSERT_GT(floats, 175'000'000U);
  const std::uint64_t peak = peak_of("quantize --model_name_or_path " + model + " --output " +
                                     dir_.file("packed") + " --bit_widths 4 --lm_head_bits 8 4");
  EXPECT_GT(peak, 0U);
  EXPECT_LE(peak, floats / 2);
}

}  // namespace large_model_cli_test
}  // namespace qalof::cli
