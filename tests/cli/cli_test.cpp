// The program itself: exit codes, streams and JSON as scripts see them.
#include "cli/program.h"
#include "support/tiny_model.h"

namespace qalof::cli {
namespace cli_test {

TEST_F(CliTest, HelpGoesToStandardOutput) {
  for (const char* arguments : {"--help", "-h", "eval -h", "init --help"}) {
    const ProgramRun help = run(arguments);
    EXPECT_EQ(help.code, 0) << arguments;
    EXPECT_NE(help.out.find("Usage"), std::string::npos) << arguments;
    EXPECT_EQ(help.err, "") << arguments;
  }
}

TEST_F(CliTest, UnknownNamesAreUsageErrorsWithTheNearestName) {
  const ProgramRun command = run("evla");
  EXPECT_EQ(command.code, 2);
  EXPECT_NE(command.err.find("nearest known command eval"), std::string::npos) << command.err;
  const ProgramRun flag = run("eval --model_name x --validation_file y");
  EXPECT_EQ(flag.code, 2);
  EXPECT_NE(flag.err.find("--model_name_or_path"), std::string::npos) << flag.err;
  EXPECT_EQ(run("").code, 2);
  EXPECT_EQ(run("eval").code, 2);
}

TEST_F(CliTest, MissingFilesAndBadPrecisionHaveTheirExitCodes) {
  const ProgramRun missing = run("eval --model_name_or_path " + dir_.file("none") +
                                 " --validation_file " + dir_.file("in"));
  EXPECT_EQ(missing.code, 3);
  EXPECT_EQ(std::count(missing.err.begin(), missing.err.end(), '\n'), 1) << missing.err;
  EXPECT_EQ(missing.out, "");
  qalof::testing::write_model(dir_.file("model"));
  EXPECT_EQ(run("inspect " + dir_.file("none")).code, 3);
}

TEST_F(CliTest, HyphensConfigFilesAndPrecedence) {
  std::ofstream(dir_.file("config.json"))
      << R"({"model_type":"gpt2","vocab_size":300,"n_positions":32,"n_embd":16,"n_layer":1,"n_head":2})";
  std::ofstream(dir_.file("run.toml"))
      << "config_name = \"" << dir_.file("config.json") << "\"\nseed = 3\noutput-dir = \""
      << dir_.file("a") << "\"\n";
  const ProgramRun first = run("init --config " + dir_.file("run.toml") + " --json");
  ASSERT_EQ(first.code, 0) << first.err;
  const Json json = parse_json(first.out, "standard output");
  EXPECT_EQ(json["parameters"],
            300 * 16 + 32 * 16 + 16 * (4 + 2) + 12 * 16 * 16 + (3 + 1 + 4 + 1) * 16);
  const ProgramRun second = run("init --config " + dir_.file("run.toml") + " --output-dir " +
                                dir_.file("b") + " --seed 4 --json");
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_NE(slurp(dir_.file("a/model.safetensors")), slurp(dir_.file("b/model.safetensors")));
  ASSERT_EQ(
      run("init --config " + dir_.file("run.toml") + " --output_dir " + dir_.file("c") + " --json")
          .code,
      0);
  EXPECT_EQ(slurp(dir_.file("a/model.safetensors")), slurp(dir_.file("c/model.safetensors")));
  std::ofstream(dir_.file("bad.json")) << R"({"sed": 1})";
  const ProgramRun unknown = run("init --config " + dir_.file("bad.json"));
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.err.find("--seed"), std::string::npos) << unknown.err;
}

TEST_F(CliTest, AModelWithoutHeadIsScoredWithAnUntrainedOneAndAWarning) {
  const std::string nano = std::string(QALOF_SOURCE_DIR) + "/assets/nano/";
  const std::string flags =
      " --validation_file " + nano + "data/validation.json --max_eval_samples 20 --json";
  const ProgramRun bare = run("eval --model_name_or_path " + nano + "model" + flags);
  ASSERT_EQ(bare.code, 0) << bare.err;
  EXPECT_NE(bare.err.find("an untrained one answers"), std::string::npos) << bare.err;
  EXPECT_EQ(parse_json(bare.out, "standard output")["eval_samples"], 20);
}

TEST_F(CliTest, EvalWritesScoresOfQuestionsAndSaysItsEffectiveBits) {
  const std::string nano = std::string(QALOF_SOURCE_DIR) + "/assets/nano/";
  const ProgramRun scored =
      run("eval --json --precision w4a8kv4 --scheme g64+ag64 --output_dir " + dir_.file("scores") +
          " --model_name_or_path " + nano + "model --max_eval_samples 20 --validation_file " +
          nano + "data/validation.json");
  ASSERT_EQ(scored.code, 0) << scored.err;
  const Json json = parse_json(scored.out, "standard output");
  const Json scores = read_json_file(dir_.file("scores/eval_scores.json"));
  ASSERT_EQ(scores.size(), 20U);
  double exact = 0, f1 = 0;
  for (const Json& score : scores) {
    exact += score[0].get<double>() / 20;
    f1 += score[1].get<double>() / 20;
  }
  EXPECT_NEAR(exact, json["eval_exact_match"].get<double>(), 1e-9);
  EXPECT_NEAR(f1, json["eval_f1"].get<double>(), 1e-9);
  EXPECT_GT(f1, exact);  // a column of one would pass as the other
  EXPECT_EQ(read_json_file(dir_.file("scores/eval_results.json")), json);
  // A bf16 scale per 64 weights, f32 ones per 64 activations and per head (32) of a token's K or V.
  EXPECT_DOUBLE_EQ(json["effective_bits"]["weights"].get<double>(), 4.25);
  EXPECT_DOUBLE_EQ(json["effective_bits"]["activations"].get<double>(), 8.5);
  EXPECT_DOUBLE_EQ(json["effective_bits"]["kv"].get<double>(), 5);
}

TEST_F(CliTest, InspectShowsEveryTensorAsOneJsonObject) {
  qalof::testing::write_model(dir_.file("model"));
  const ProgramRun run_result = run("inspect " + dir_.file("model") + " --json");
  ASSERT_EQ(run_result.code, 0) << run_result.err;
  const Json json = parse_json(run_result.out, "standard output");
  EXPECT_EQ(json["tensors"].size(), 2U + 2 * 2 * 2 + 2 + 2 * 4 * 2 + 2);
  EXPECT_EQ(json["kind"], "model directory");
}

TEST_F(CliTest, DoctorNamesTheInstructionSet) {
  const ProgramRun run_result = run("doctor --json");
  ASSERT_EQ(run_result.code, 0);
  EXPECT_GE(parse_json(run_result.out, "standard output")["isas"].size(), 1U);
}

}  // namespace cli_test
}  // namespace qalof::cli
