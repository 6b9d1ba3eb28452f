// qalof sensitivity from the command line: flags that contradict each other, models without a head,
// the hand-over to the trainer, and plans from a file.
#include <fmt/format.h>

#include "cli/program.h"

namespace qalof::cli {
namespace sensitivity_cli_test {

using SensitivityCli = CliTest;

constexpr const char* kNano =
    " --model_name_or_path " QALOF_SOURCE_DIR
    "/assets/nano/model --validation_file " QALOF_SOURCE_DIR "/assets/nano/data/validation.json";

TEST_F(SensitivityCli, BadFlagsAreUsageErrorsInOneSentence) {
  const ProgramRun unknown =
      run(std::string("sensitivity --granularity head") + kNano + " --quiet");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_EQ(unknown.err,
            "qalof: --granularity: found head, expected sublayer, layer, block or kind\n");
  const ProgramRun low = run(std::string("sensitivity --high 4 --low 4") + kNano + " --quiet");
  EXPECT_EQ(low.code, 2);
  EXPECT_EQ(low.err, "qalof: --low: found 4, expected 2..8 and less than --high w4a4kv4\n");
}

TEST_F(SensitivityCli, AModelWithoutAHeadIsRefused) {
  const ProgramRun result = run(std::string("sensitivity --max_eval_samples 2") + kNano);
  EXPECT_EQ(result.code, 3);
  EXPECT_NE(result.err.find("holds a head of --task qa"), std::string::npos) << result.err;
}

#ifdef QALOF_HAS_TRAIN
TEST_F(SensitivityCli, EstimatesAreHandedToTheTrainer) {
  const ProgramRun result = run(std::string("sensitivity --by fisher --kv") + kNano + " --quiet");
  EXPECT_EQ(result.code, 3);
  EXPECT_EQ(result.err,
            "qalof: --kv: K and V are measured, not estimated; expected --by measured\n");
}
#endif

TEST_F(SensitivityCli, PlansFromAFileUnderABudget) {
  constexpr std::pair<const char*, int> kKinds[] = {{"attn.c_attn", 128 * 384},
                                                    {"attn.c_proj", 128 * 128},
                                                    {"mlp.c_fc", 128 * 512},
                                                    {"mlp.c_proj", 512 * 128}};
  Json units = Json::array();
  for (int block = 0; block < 4; ++block) {
    for (const auto& [kind, parameters] : kKinds) {
      const std::string name = fmt::format("h.{}.{}", block, kind);
      const double kl = 0.1 * (block + 1);
      units.push_back({{"name", name},
                       {"modules", {name}},
                       {"part", "both"},
                       {"parameters", parameters},
                       {"costs", {{{"bits", 4}, {"kl", kl}, {"delta_f1", -kl}}}}});
    }
  }
  const std::string from = dir_.file("sensitivity.json"), plan = dir_.file("plan.json");
  std::ofstream(from) << Json{
      {"by", "measured"}, {"high", {{"precision", "w8a8kv8"}}}, {"units", units}};
  const std::string common = "sensitivity --quiet --json --model_name_or_path " QALOF_SOURCE_DIR
                             "/assets/nano/model --from " +
                             from + " ";
  const ProgramRun bits = run(common + "--target_bits 6 --output_plan " + plan);
  ASSERT_EQ(bits.code, 0) << bits.err;
  const Json result = Json::parse(bits.out);
  EXPECT_EQ(result["budget"]["cost"], "kl");
  EXPECT_LE(result["budget"]["mean_weight_bits"], 6.0);
  EXPECT_GT(result["budget"]["mean_weight_bits"], 5.5);
  EXPECT_EQ(Json::parse(slurp(plan)), result["plan"]);
  EXPECT_EQ(result["plan"]["head"], 8);
  const ProgramRun exact = run(common + "--max_f1_loss 0.2");
  ASSERT_EQ(exact.code, 0) << exact.err;
  // Two units of the first block: the largest.
  EXPECT_EQ(Json::parse(exact.out)["plan"]["modules"],
            (Json{{"h.0.mlp.c_fc", "w4a4"}, {"h.0.mlp.c_proj", "w4a4"}}));
  // Codes and an f32 scale per row: all at 4 bits, and one byte less.
  const std::uint64_t smallest = 4 * (196608 / 2 + 4 * (384 + 128 + 512 + 128));
  const ProgramRun fits = run(common + fmt::format("--target_size {}", smallest));
  ASSERT_EQ(fits.code, 0) << fits.err;
  EXPECT_EQ(Json::parse(fits.out)["budget"]["bytes"], smallest);
  const ProgramRun small = run(common + fmt::format("--target_size {}", smallest - 1));
  EXPECT_EQ(small.code, 2);
  EXPECT_NE(small.err.find(fmt::format("has {}", smallest)), std::string::npos) << small.err;
  const ProgramRun two = run(common + "--target_bits 6 --max_f1_loss 1");
  EXPECT_EQ(two.code, 2);
  const ProgramRun several = run(common + "--target_bits 5 6 --output_dir " + dir_.file("plans"));
  ASSERT_EQ(several.code, 0) << several.err;
  const Json plans = Json::parse(several.out);
  ASSERT_EQ(plans["plan"].size(), 2U);
  EXPECT_EQ(Json::parse(slurp(dir_.file("plans") + "/plan_6.json")), result["plan"]);
  EXPECT_EQ(Json::parse(slurp(dir_.file("plans") + "/plan_5.json")), plans["plan"][0]);
  EXPECT_LE(plans["budget"][0]["mean_weight_bits"], 5.0);
  EXPECT_EQ(run(common + "--target_bits 5 6 --output_plan " + plan).err,
            "qalof: --output_plan: one file for 2 plans; --output_dir gets plan_BITS.json of "
            "each\n");
  EXPECT_EQ(run(common + "--target_bits 5 --compare uniform").err,
            "qalof: --refine, --compare and --measure: need --validation_file, on which plans are "
            "measured\n");
  EXPECT_EQ(run(common + "--compare uniform").err,
            "qalof: --from: needs --target_bits, --target_size or --max_f1_loss\n");
  EXPECT_NE(run(common + "--target_bits 5 --target_kv_bits 6").err.find("--kv_heads"),
            std::string::npos);
  const ProgramRun none = run(common);
  EXPECT_EQ(none.code, 2);
  EXPECT_EQ(none.err, "qalof: --from: needs --target_bits, --target_size or --max_f1_loss\n");
}

}  // namespace sensitivity_cli_test
}  // namespace qalof::cli
