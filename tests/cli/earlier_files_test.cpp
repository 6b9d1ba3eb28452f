// What an earlier version wrote is read as before: models, adapters, packed files, plans,
// checkpoints and the members of --json (tests/cli/data/earlier, by
// tools/fixtures/make_earlier_files.sh with the program of 1 November 2026).
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>

#include "cli/program.h"
#include "core/file.h"
#include "core/hash.h"

namespace qalof::cli {
namespace earlier_files_test {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class EarlierFiles : public CliTest {
 protected:
  EarlierFiles() : files_(QALOF_SOURCE_DIR "/tests/cli/data/earlier") {
    fs::copy(files_, dir_.file("earlier"), fs::copy_options::recursive);
  }
  // Runs in the copy of the files.
  ProgramRun here(const std::string& arguments) {
    return run_behind("cd " + dir_.file("earlier") + " && ", arguments);
  }
  Json json(const std::string& name) const { return parse_json(slurp(files_ + "/" + name), name); }
  static std::string sha256(const std::string& path) {
    return sha256_hex(MappedFile::open(path).bytes());
  }
  // Every member of before is there; numbers in names are equal, or within a millionth of what is
  // there where sums of another instruction set differ.
  static void expect_members(const Json& before, const Json& now,
                             const std::vector<std::string>& equal) {
    for (const auto& [name, value] : before.items()) EXPECT_TRUE(now.contains(name)) << name;
    for (const std::string& name : equal) {
      if (!before[name].is_number_float()) {
        EXPECT_EQ(now[name], before[name]) << name;
        continue;
      }
      const double wanted = before[name];
      EXPECT_LE(std::abs(now[name].get<double>() - wanted), 1e-6 * std::abs(wanted)) << name;
    }
  }

  std::string files_;
};

TEST_F(EarlierFiles, PackingModelAndAdaptersGivesTheSameBytes) {
  const ProgramRun packed = here(
      "quantize --model_name_or_path model --adapter adapters --bit_widths 8 4 --output "
      "again.qalof --json");
  ASSERT_EQ(packed.code, 0) << packed.err;
  EXPECT_EQ(sha256(dir_.file("earlier/again.qalof")), sha256(files_ + "/packed.qalof"));
  expect_members(json("quantize.json"), Json::parse(packed.out),
                 {"bytes", "bits_per_weight", "weights", "widths", "scheme"});
  const ProgramRun named = here(
      "quantize --model_name_or_path model --adapter adapters --bit_widths 8 4 --scheme minmax "
      "--output named.qalof");
  ASSERT_EQ(named.code, 0) << named.err;
  EXPECT_EQ(sha256(dir_.file("earlier/named.qalof")), sha256(files_ + "/packed.qalof"));
}

TEST_F(EarlierFiles, ScoresAndTextsAreTheSame) {
  for (const std::string precision : {"8", "4", "plan"}) {
    const ProgramRun scored = here(
        "eval --task qa --model_name_or_path packed.qalof --validation_file questions.json "
        "--max_seq_length 48 --doc_stride 16 --json --precision " +
        precision + (precision == "plan" ? ".json" : ""));
    ASSERT_EQ(scored.code, 0) << scored.err;
    expect_members(json("eval_" + precision + ".json"), Json::parse(scored.out),
                   {"eval_exact_match", "eval_f1", "eval_samples", "eval_features", "precision",
                    "bytes", "effective_bits"});
  }
  const std::string lm =
      "eval --task lm --model_name_or_path model --validation_file text.txt "
      "--precision 8 --json ";
  for (const char* schemes :
       {"--scheme seed --kv_scheme seed", "--scheme minmax --kv_scheme token"}) {
    const ProgramRun scored = here(lm + schemes);
    ASSERT_EQ(scored.code, 0) << scored.err;
    const Json now = Json::parse(scored.out), before = json("eval_lm.json");
    expect_members(before, now, {"tokens", "precision"});
    // One code at a rounding boundary moves the loss of a model this small by about 1e-4.
    EXPECT_NEAR(now["eval_loss"].get<double>(), before["eval_loss"].get<double>(), 1e-2);
  }
  const ProgramRun inspected = here("inspect packed.qalof --json");
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  const Json before = json("inspect.json"), now = Json::parse(inspected.out);
  for (const auto& [name, value] : before.items()) EXPECT_EQ(now[name], value) << name;
  const ProgramRun generated = here(
      "generate --model_name_or_path packed.qalof --prompt 'Ada lives in' --max_new_tokens 8 "
      "--precision 8 --json");
  ASSERT_EQ(generated.code, 0) << generated.err;
  expect_members(json("generate.json"), Json::parse(generated.out),
                 {"prompt_tokens", "stop_reason", "kv_bytes"});
}

TEST_F(EarlierFiles, ARunResumesFromItsCheckpoint) {
#ifndef QALOF_HAS_TRAIN
  GTEST_SKIP() << "built without training";
#endif
  std::string command = slurp(files_ + "/train_command.txt");
  command.erase(command.find_last_not_of('\n') + 1);
  // Killed after its checkpoint: what the run wrote at its end is not there.
  const std::string run = dir_.file("earlier/adapters/");
  for (const char* name : {"w8", "w4", "qalof.json", "all_results.json"})
    fs::remove_all(run + name);
  const ProgramRun resumed = here(command + " --output_dir adapters --json");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_THAT(resumed.err, HasSubstr("resuming from"));
  const Json before = json("train.json"), now = Json::parse(resumed.out);
  expect_members(before, now, {"steps", "tokens", "interrupted"});
  ASSERT_EQ(now["phases"].size(), before["phases"].size());
  expect_members(before["phases"][0], now["phases"][0], {"name", "precision", "steps", "tokens"});
  // The metrics of steps before the checkpoint are those of then.
  std::ifstream old_lines(files_ + "/adapters/metrics.jsonl"), lines(run + "metrics.jsonl");
  std::string old_line, line;
  for (int i = 0; i < 4; ++i) {
    std::getline(old_lines, old_line);
    std::getline(lines, line);
    EXPECT_EQ(line, old_line) << i;
  }
  for (const char* name : {"w8", "w4"}) EXPECT_TRUE(path_exists(run + name)) << name;
}

TEST_F(EarlierFiles, AnotherRunIsTold) {
#ifndef QALOF_HAS_TRAIN
  GTEST_SKIP() << "built without training";
#endif
  std::string command = slurp(files_ + "/train_command.txt");
  command.erase(command.find_last_not_of('\n') + 1);
  const ProgramRun other = here(command + " --lora_alpha 4 --output_dir adapters");
  EXPECT_EQ(other.code, 2) << other.err;
  EXPECT_THAT(other.err, HasSubstr("--lora_alpha was 16 and is now 4"));
}

}  // namespace earlier_files_test
}  // namespace qalof::cli
