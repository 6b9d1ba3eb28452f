#include "cli/program.h"

namespace qalof::cli {
namespace {

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

}  // namespace
}  // namespace qalof::cli
