// quantize --ptq to eval, generate and inspect on the shipped nano model.
#include <filesystem>

#include "cli/program.h"

namespace qalof::cli {
namespace ptq_cli_test {

class PtqCliTest : public CliTest {
 protected:
  Json json_of(const std::string& arguments) {
    const ProgramRun found = run(arguments + " --json");
    EXPECT_EQ(found.code, 0) << arguments << ": " << found.err;
    return parse_json(found.out, "standard output");
  }
  ProgramRun quantize(const std::string& flags) {
    return run("quantize --json --model_name_or_path " QALOF_SOURCE_DIR
               "/assets/nano/model --output " +
               output_ + " " + flags);
  }
  Json last_;
  const std::string output_ = dir_.file("model.qalof");
};

TEST_F(PtqCliTest, EveryMethodWritesAFileThatRunsAndSaysWhatItIs) {
  struct Case {
    const char *flags, *precision;
    double bits;
  };
  const std::string lm =
      " --task lm --validation_file " QALOF_SOURCE_DIR "/assets/nano/data/text.txt";
  const double exact =
      json_of("eval --model_name_or_path " QALOF_SOURCE_DIR "/assets/nano/model" + lm)["eval_loss"];
  for (const Case& c : {Case{"--ptq int8", "w8a8kv16, scheme int8", 8.375},
                        Case{"--ptq llm_int8 --threshold 4", "w8a8kv16, scheme llm_int8-4", 8.375},
                        Case{"--ptq nf4", "w4a16kv16, scheme nf4", 4.5},
                        Case{"--ptq fp4 --double_quant", "w4a16kv16, scheme fp4-dq", 4.14},
                        Case{"--ptq minmax --precision w8a8", "w8a8kv16", 8.375}}) {
    SCOPED_TRACE(c.flags);
    const ProgramRun made = quantize(c.flags);
    ASSERT_EQ(made.code, 0) << made.err;
    EXPECT_NEAR(parse_json(made.out, "")["bits_per_weight"].get<double>(), c.bits, 0.02);
    const std::string model = " --model_name_or_path " + output_;
    const Json generated = json_of("generate --prompt Nora --max_new_tokens 4" + model);
    EXPECT_EQ(generated["precision"], c.precision);
    const Json inspected = json_of("inspect " + output_);
    EXPECT_NEAR(inspected["widths"][0]["bits_per_weight"].get<double>(), c.bits, 0.02);
    const Json scored = json_of("eval" + model + lm);
    EXPECT_EQ(scored["precision"], c.precision);
    // What a row of zeros or a swapped code would leave is far beyond.
    EXPECT_NEAR(scored["eval_loss"].get<double>(), exact, 0.3);
    EXPECT_NE(scored["eval_loss"].get<double>(), exact);
  }
}

TEST_F(PtqCliTest, MethodsThatLookAtActivationsGiveSmallerErrors) {
  const std::string data = QALOF_SOURCE_DIR "/assets/nano/data/";
  const std::string lm = " --task lm --line_by_line --validation_file " + data + "text.txt";
  const std::string calibration =
      " --calibration_samples 16 --max_seq_length 128 --doc_stride 32 --calibration_file " + data;
  const auto loss = [&](const std::string& flags) {
    const ProgramRun made = quantize(flags);
    EXPECT_EQ(made.code, 0) << made.err;
    last_ = parse_json(made.out, "standard output");
    return json_of("eval --model_name_or_path " + output_ + lm)["eval_loss"].get<double>();
  };
  const double nearest = loss("--ptq minmax --precision w3a16");
  const double gptq =
      loss("--ptq gptq --precision w3a16 --task lm --line_by_line" + calibration + "text.txt");
  EXPECT_LT(gptq, nearest);
  EXPECT_EQ(last_["layers"].size(), 16U);
  for (const Json& layer : last_["layers"]) EXPECT_LT(layer["error"], layer["nearest_error"]);
  EXPECT_EQ(json_of("inspect " + output_)["details"]["method"], "gptq");
  const double plain = loss("--ptq minmax --precision w8a4");
  // Rotations that leave the norms where they are go with it.
  for (const char* scheme : {"minmax", "rot-heads+rot-mlp"}) {
    const std::string flags =
        std::string("--ptq smoothquant --precision w8a4 --scheme ") + scheme + calibration;
    EXPECT_LT(loss(flags + "train.json"), plain) << scheme;
  }
  // Adapters of the model do not fit smoothed activations.
  EXPECT_EQ(run("eval --model_name_or_path " + output_ + lm + " --adapter " + dir_.path()).code, 2);
}

TEST_F(PtqCliTest, ContradictionsAreUsageErrors) {
  for (const char* flags :
       {"--ptq awq", "--ptq nf4 --bit_widths 8", "--ptq nf4 --precision w4a8",
        "--ptq int8 --scheme g64", "--ptq int8 --double_quant", "--ptq nf4 --threshold 5",
        "--ptq gptq", "--ptq smoothquant", "--ptq nf4 --calibration_file x",
        "--ptq gptq --bit_widths 8 4 --calibration_file x",
        "--ptq gptq --scheme nf4 --calibration_file " QALOF_SOURCE_DIR
        "/assets/nano/data/train.json",
        "--ptq llm_int8 --threshold 0", "--ptq llm_int8 --threshold nan", "--ptq minmax"}) {
    const ProgramRun found = quantize(flags);
    EXPECT_EQ(found.code, 2) << flags << found.err;
    EXPECT_FALSE(std::filesystem::exists(output_)) << flags;
  }
}

}  // namespace ptq_cli_test
}  // namespace qalof::cli
