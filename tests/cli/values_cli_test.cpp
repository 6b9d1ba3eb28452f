// The program with values, outputs and data that are unlike what one thinks of first.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>

#include "cli/program.h"
#include "support/tiny_model.h"

namespace qalof::cli {
namespace values_cli_test {

using ::testing::HasSubstr;

class ValuesCliTest : public CliTest {
 protected:
  const std::string nano_ = std::string(QALOF_SOURCE_DIR) + "/assets/nano/model";
  Json generated(const std::string& arguments, const std::string& input = "") {
    const ProgramRun result =
        run("generate --json --quiet --max_new_tokens 4 --ignore_eos --model_name_or_path " +
                nano_ + " " + arguments,
            input);
    EXPECT_EQ(result.code, 0) << result.err;
    return parse_json(result.out, "standard output");
  }
  std::string put(const std::string& name, const std::string& text) {
    std::ofstream(dir_.file(name), std::ios::binary) << text;
    return dir_.file(name);
  }
};

TEST_F(ValuesCliTest, APromptIsTheSameHoweverItIsGiven) {
  const std::string prompt = "-- get the top-10 users";
  const Json ids = generated("--prompt -", prompt + "\n")["ids"];
  EXPECT_EQ(generated("--prompt '" + prompt + "'")["ids"], ids);
  EXPECT_EQ(generated("'--prompt=" + prompt + "'")["ids"], ids);
  EXPECT_EQ(generated("--config " + put("a.toml", "prompt = '" + prompt + "'\n"))["ids"], ids);
  EXPECT_EQ(generated("--config " + put("a.json", "{\"prompt\": \"" + prompt + "\"}"))["ids"], ids);
  generated("--prompt '--verbose output is'");
  const ProgramRun forgotten = run("generate --model_name_or_path " + nano_ + " --prompt --json");
  EXPECT_EQ(forgotten.code, 2);
  EXPECT_THAT(forgotten.err, HasSubstr("write --prompt=--json"));
}

TEST_F(ValuesCliTest, OutputsThatAreNoRegularFilesStayWhatTheyAre) {
  std::filesystem::create_directory(dir_.file("store"));
  put("store/real", "old");
  std::filesystem::create_symlink("store/real", dir_.file("link"));
  ASSERT_EQ(::mkfifo(dir_.file("pipe").c_str(), 0600), 0);
  const std::string quantize =
      "quantize --quiet --threads 1 --bit_widths 4 --model_name_or_path " + nano_ + " --output ";
  ASSERT_EQ(run(quantize + dir_.file("link")).code, 0);
  EXPECT_TRUE(std::filesystem::is_symlink(dir_.file("link")));
  const std::string packed = slurp(dir_.file("store/real"));
  EXPECT_GT(packed.size(), 1000U);
  const ProgramRun piped = run_behind("cat " + dir_.file("pipe") + " >" + dir_.file("read") + " & ",
                                      quantize + dir_.file("pipe") + " --json");
  ASSERT_EQ(piped.code, 0) << piped.err;
  EXPECT_TRUE(std::filesystem::is_fifo(dir_.file("pipe")));
  EXPECT_EQ(parse_json(piped.out, "standard output")["bytes"], packed.size());
  EXPECT_EQ(run(quantize + "/dev/null").code, 0);
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  const ProgramRun directory = run(quantize + dir_.file("store"));
  EXPECT_EQ(directory.code, 5);
  EXPECT_THAT(directory.err, HasSubstr("is a directory, expected a file"));
}

TEST_F(ValuesCliTest, NoOutputReplacesWhatIsRead) {
  std::filesystem::copy(nano_, dir_.file("model"), std::filesystem::copy_options::recursive);
  const std::string weights = dir_.file("model/model.safetensors"), before = slurp(weights);
  std::filesystem::create_symlink(weights, dir_.file("link"));
  for (const std::string& output : {weights, dir_.file("link"), dir_.file("model/config.json")}) {
    const ProgramRun refused = run("quantize --bit_widths 4 --model_name_or_path " +
                                   dir_.file("model") + " --output " + output);
    EXPECT_EQ(refused.code, 2) << refused.err;
    EXPECT_THAT(refused.err, HasSubstr("which is read"));
  }
  EXPECT_EQ(slurp(weights), before);
  std::filesystem::create_directory(dir_.file("run"));
  put("run/metrics.jsonl",
      "{\"format_version\":1,\"schema\":\"qalof.metrics\"}\n"
      "{\"step\":1,\"loss\":2.5,\"phase\":\"w32\",\"learning_rate\":0.001}\n");
  const ProgramRun report =
      run("report " + dir_.file("run") + " --output " + dir_.file("run/metrics.jsonl"));
  EXPECT_EQ(report.code, 2) << report.err;
  const ProgramRun shown = run("report " + dir_.file("run") + " --output /dev/stdout");
  EXPECT_EQ(shown.code, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("</html>"));
}

TEST_F(ValuesCliTest, AReportOfLossesThatAreOneNumberIsDrawn) {
  std::filesystem::create_directory(dir_.file("run"));
  put("run/metrics.jsonl",
      "{\"format_version\":1,\"schema\":\"qalof.metrics\"}\n"
      "{\"step\":1,\"loss\":4.420428878407753,\"phase\":\"w32\",\"learning_rate\":0.0}\n"
      "{\"step\":2,\"loss\":4.420428878407752,\"phase\":\"w32\",\"learning_rate\":5e-324}\n"
      "{\"step\":3,\"loss\":1.7e308,\"phase\":\"w8\",\"learning_rate\":5e-05}\n");
  const auto start = std::chrono::steady_clock::now();
  const ProgramRun drawn =
      run_behind("ulimit -v 4000000; ",
                 "report " + dir_.file("run") + " --output " + dir_.file("report.html"));
  EXPECT_EQ(drawn.code, 0) << drawn.err;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_LT(std::filesystem::file_size(dir_.file("report.html")), 1'000'000U);
}

TEST_F(ValuesCliTest, OutOfMemoryNamesTheCommandAndWhatNeedsLess) {
  // 300,000 x 512 numbers of 4 bytes do not fit into 400 MB.
  const std::string config = put(
      "config.json",
      R"({"model_type":"gpt2","vocab_size":300000,"n_positions":32,"n_embd":512,"n_layer":1,"n_head":2})");
  const ProgramRun small = run_behind(
      "ulimit -v 400000; ", "init --config_name " + config + " --output_dir " + dir_.file("model"));
  EXPECT_EQ(small.code, 5) << small.err;
  EXPECT_THAT(small.err, HasSubstr("init: out of memory"));
  EXPECT_THAT(small.err, HasSubstr("a smaller model needs less"));
  EXPECT_EQ(std::count(small.err.begin(), small.err.end(), '\n'), 1) << small.err;
}

}  // namespace values_cli_test
}  // namespace qalof::cli
