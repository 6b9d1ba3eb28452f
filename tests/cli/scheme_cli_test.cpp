// --scheme and stored LM heads from quantize to eval, on the shipped nano model.
#include <filesystem>

#include "cli/program.h"

namespace qalof::cli {
namespace scheme_cli_test {

class SchemeCliTest : public CliTest {
 protected:
  static std::string directory() { return QALOF_SOURCE_DIR "/assets/nano/model "; }
  Json json_of(const std::string& arguments) {
    const ProgramRun found = run(arguments + " --json");
    EXPECT_EQ(found.code, 0) << arguments << ": " << found.err;
    return parse_json(found.out, "standard output");
  }
  Json generate(const std::string& model, const std::string& flags) {
    return json_of("generate --model_name_or_path " + model +
                   " --prompt 'Nora' --max_new_tokens 12 --temperature 1 " + flags);
  }
  std::string quantize(const std::string& name, const std::string& flags) {
    const std::string output = dir_.file(name);
    last_ = json_of("quantize --model_name_or_path " + directory() + " --output " + output + " " +
                    flags);
    return output;
  }
  Json last_;
};

TEST_F(SchemeCliTest, APackedFileRunsInItsSchemeAndHeadWithTheDirectorysTokens) {
  const std::string packed =
      quantize("g64.qalof", "--bit_widths 8 4 --scheme g64 --lm_head_bits 8 16");
  EXPECT_EQ(last_["scheme"], "g64");
  EXPECT_EQ(last_["lm_head"].size(), 2U);
  const Json found = generate(packed, "--precision 4");
  EXPECT_EQ(found["precision"], "w4a4kv4, scheme g64, lm head 8");
  EXPECT_EQ(found["lm_head_bits"], 8);
  EXPECT_EQ(found["ids"],
            generate(directory(), "--precision 4 --scheme g64 --lm_head_bits 8")["ids"]);
  EXPECT_EQ(generate(packed, "--precision 4 --lm_head_bits 16")["lm_head_bits"], 16);
  EXPECT_EQ(generate(packed, "--precision 4 --scheme g64")["ids"], found["ids"]);
}

TEST_F(SchemeCliTest, RotatedModelsRunFromDirectoriesAndFiles) {
  const std::string packed = quantize("rot.qalof", "--bit_widths 8 4 --scheme tuned");
  EXPECT_EQ(last_["scheme"], "g64-asym+aasym+ag64+mse+rot");
  const Json found = generate(packed, "--precision 4");
  EXPECT_EQ(found["precision"], "w4a4kv4, scheme g64-asym+aasym+ag64+mse+rot");
  EXPECT_EQ(found["ids"], generate(directory(), "--precision 4 --scheme tuned")["ids"]);
  const std::string data = QALOF_SOURCE_DIR "/assets/nano/data/text.txt";
  const std::string calibration =
      " --task lm --line_by_line --calibration_samples 4 --calibration_file " + data;
  quantize("gptq.qalof", "--ptq gptq --precision 4 --scheme rot" + calibration);
  EXPECT_EQ(last_["scheme"], "seed+rot");
  EXPECT_EQ(generate(dir_.file("gptq.qalof"), "")["precision"], "w4a4kv4, scheme seed+rot");
  const ProgramRun smooth =
      run("quantize --ptq smoothquant --precision 8 --scheme rot --output " + dir_.file("x") +
          " --model_name_or_path " + directory() + calibration);
  EXPECT_EQ(smooth.code, 3);
  EXPECT_NE(smooth.err.find("--ptq smoothquant"), std::string::npos);
}

TEST_F(SchemeCliTest, ContradictionsAndWhatAFileLacksAreErrors) {
  const std::string packed = quantize("g32.qalof", "--bit_widths 4 --scheme g32-asym");
  const auto code = [&](const std::string& flags) {
    return run("generate --prompt a --max_new_tokens 2 --model_name_or_path " + flags).code;
  };
  EXPECT_EQ(code(packed + " --scheme seed"), 2);
  EXPECT_EQ(code(packed + " --scheme g32"), 2);
  EXPECT_EQ(code(packed + " --scheme g16"), 2);
  EXPECT_EQ(code(packed + " --precision 8"), 3);
  EXPECT_EQ(code(packed + " --lm_head_bits 32"), 3);
  EXPECT_EQ(code(packed + " --precision 32"), 3);
  EXPECT_EQ(code(packed + " --scheme g32-asym"), 0);
  EXPECT_EQ(code(packed), 0);
  std::ofstream(dir_.file("plan.json"))
      << R"({"format_version": 1, "scheme": "g64", "default": "w4a8kv8"})";
  const std::string plan = directory() + " --precision " + dir_.file("plan.json");
  EXPECT_EQ(code(plan), 0);
  EXPECT_EQ(code(plan + " --scheme g64"), 0);
  EXPECT_EQ(code(plan + " --scheme seed"), 2);
  EXPECT_EQ(code(packed + " --precision " + dir_.file("plan.json")), 2);
  EXPECT_EQ(run("quantize --bit_widths 4 --lm_head_bits 5 --output " + dir_.file("x") +
                " --model_name_or_path " + directory())
                .code,
            2);
  EXPECT_FALSE(std::filesystem::exists(dir_.file("x")));
}

TEST_F(SchemeCliTest, InspectCountsScalesOfTheScheme) {
  const std::string packed =
      quantize("g64.qalof", "--bit_widths 8 4 --scheme g64 --lm_head_bits 8");
  const Json found = json_of("inspect " + packed);
  EXPECT_EQ(found["scheme"], "g64");
  ASSERT_EQ(found["widths"].size(), 2U);
  // The model's inputs are multiples of 64, its outputs of 16: nothing is padded.
  EXPECT_EQ(found["widths"][0]["bits"], 4);
  EXPECT_DOUBLE_EQ(found["widths"][0]["bits_per_weight"].get<double>(), 4.25);
  EXPECT_DOUBLE_EQ(found["widths"][1]["bits_per_weight"].get<double>(), 8.5);
  ASSERT_EQ(found["lm_head"].size(), 1U);
  EXPECT_EQ(found["lm_head"][0]["stored_bits"], 8);
  double bytes = 0;
  for (const Json& width : last_["widths"]) bytes += width["bytes"].get<double>();
  EXPECT_EQ(found["widths"][0]["bytes"].get<double>() + found["widths"][1]["bytes"].get<double>(),
            bytes);
  const ProgramRun text = run("inspect " + packed);
  EXPECT_NE(text.out.find("scheme g64"), std::string::npos);
  EXPECT_NE(text.out.find("4.250"), std::string::npos);
}

TEST_F(SchemeCliTest, EvalOfALanguageModelTellsSchemesAndCachesApart) {
  std::ofstream(dir_.file("text.txt")) << "Hugo lives in Selby. Nora has lost a wool scarf. ";
  const auto loss = [&](const std::string& flags) {
    return json_of("eval --task lm --model_name_or_path " + directory() + " --validation_file " +
                   dir_.file("text.txt") + " " + flags)["eval_loss"]
        .get<double>();
  };
  const double row = loss("--precision w4a8kv16"),
               group = loss("--precision w4a8kv16 --scheme g32");
  EXPECT_NE(row, group);
  EXPECT_NE(loss("--precision w4a8kv8 --scheme g32"), group);
}

}  // namespace scheme_cli_test
}  // namespace qalof::cli
