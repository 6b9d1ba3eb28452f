// Learned quantizer values and merged adapters from train to generate, without a flag, and into a
// packed file.
#include <filesystem>

#include "cli/program.h"
#include "core/file.h"

namespace qalof::cli {
namespace learned_cli_test {

class LearnedCliTest : public CliTest {
 protected:
  static std::string model() { return QALOF_SOURCE_DIR "/assets/nano/model "; }
  Json generate(const std::string& source) {
    const ProgramRun found =
        run("generate --prompt 'Nora' --max_new_tokens 12 --precision 4 --json "
            "--model_name_or_path " +
            source);
    EXPECT_EQ(found.code, 0) << found.err;
    return found.code == 0 ? parse_json(found.out, "standard output") : Json();
  }
};

TEST_F(LearnedCliTest, WhatWasLearnedRunsInDirectoriesAndPackedFiles) {
#ifndef QALOF_HAS_TRAIN
  GTEST_SKIP() << "no qalof-train";
#endif
  const std::string out = dir_.file("trained"), packed = dir_.file("packed");
  const ProgramRun trained =
      run("train --threads 1 --method switch --bit_widths 8 4 --max_steps 3 --warmup_steps 0 "
          "--max_train_samples 12 --max_seq_length 64 --doc_stride 16 --learning_rate 0.02 "
          "--adapter_form merged --learn_steps all --train_file " QALOF_SOURCE_DIR
          "/assets/nano/data/train.json --output_dir " +
          out + " --model_name_or_path " + model());
  ASSERT_EQ(trained.code, 0) << trained.err;
  const Json described = read_json_file(out + "/qalof.json");
  EXPECT_EQ(described["adapter_form"], "merged");
  EXPECT_EQ(described["quantizers"], (Json{{"8", "w8"}, {"4", "w4"}}));
  const Json found = generate(model() + "--adapter " + out);
  EXPECT_EQ(found["precision"], "w4a4kv4, adapter w4 merged, learned quantizers w4, head w4");

  ASSERT_EQ(run("quantize --bit_widths 8 4 --adapter " + out + " --output " + packed +
                " --model_name_or_path " + model())
                .code,
            0);
  const Json again = generate(packed);
  EXPECT_EQ(again["ids"], found["ids"]);
  EXPECT_EQ(again["precision"], "w4a4kv4, learned quantizers w4, head w4");
  // Weights of adapters take no others, and their values serve no other scheme.
  EXPECT_EQ(run("generate --prompt a --adapter " + out + " --model_name_or_path " + packed).code,
            2);
  EXPECT_EQ(run("generate --prompt a --precision 4 --scheme g64 --adapter " + out +
                " --model_name_or_path " + model())
                .code,
            3);
  std::filesystem::remove(out + "/w4/quant.safetensors");
  EXPECT_NE(run("generate --prompt a --adapter " + out + " --model_name_or_path " + model())
                .err.find("quant.safetensors"),
            std::string::npos);
}

}  // namespace learned_cli_test
}  // namespace qalof::cli
