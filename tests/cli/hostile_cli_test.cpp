// What a script sees of bad input: exit code, one sentence, one JSON object, and nothing
// half-written.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "cli/program.h"
#include "support/tiny_model.h"

namespace qalof::cli {
namespace hostile_cli_test {

namespace fs = std::filesystem;

class HostileCliTest : public CliTest {
 protected:
  HostileCliTest() {
    fs::copy(QALOF_SOURCE_DIR "/assets/nano/model", path("model"));
    put("dev.json",
        R"({"data":[{"title":"t","paragraphs":[{"context":"Hugo lives in Selby.","qas":[{"id":"1",)"
        R"("question":"Where?","answers":[{"text":"Selby","answer_start":14}]}]}]}]})");
    put("predictions.json", R"({"1":"Selby"})");
    put("text.txt", "Hugo lives in Selby. Nora has lost a wool scarf.");
  }
  std::string path(const std::string& name) const { return dir_.file(name); }
  void put(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
  }
  // Exit code 3 and one sentence that names the file, without and with --json.
  void expect_refused(const std::string& arguments, const std::string& named) {
    for (const char* json : {"", " --json"}) {
      SCOPED_TRACE(arguments + json);
      const ProgramRun found = run(arguments + json);
      EXPECT_EQ(found.code, 3) << found.err;
      EXPECT_EQ(found.out, "");
      EXPECT_TRUE(found.err.starts_with("qalof: ")) << found.err;
      EXPECT_EQ(std::count(found.err.begin(), found.err.end(), '\n'), 1) << found.err;
      EXPECT_NE(found.err.find(named), std::string::npos) << found.err;
    }
  }
  std::string model_flag() const { return "--model_name_or_path " + path("model") + " "; }
};

// What is good in another place is told that place.
TEST_F(HostileCliTest, OneThingInTheFlagOfAnother) {
  fs::create_directory(path("adapter"));
  put("adapter/adapter_config.json", "{}");
  put("model.gguf", std::string("GGUF\3\0\0\0", 8));
  const std::string eval = "eval --task lm --validation_file " + path("text.txt") + " ";
  expect_refused(eval + "--model_name_or_path " + path("adapter"), "give it as --adapter");
  expect_refused(eval + "--model_name_or_path " + path("model.gguf"), "qalof import ");
  ASSERT_EQ(run("quantize --bit_widths 8 --output " + path("packed") + " " + model_flag()).code, 0);
  for (const char* name : {"packed", "model"})
    expect_refused(eval + model_flag() + "--adapter " + path(name),
                   "give it as --model_name_or_path");
  expect_refused(eval + model_flag() + "--adapter " + path("text.txt"), "is a file, expected a");
}

// A classifier whose config unties a head that it does not have (transformers writes such).
TEST_F(HostileCliTest, AModelWithoutLmHeadServesItsTaskAlone) {
  Json config = read_json_file(path("model/config.json"));
  config["tie_word_embeddings"] = false;
  config["architectures"] = {"GPT2ForQuestionAnswering"};
  put("model/config.json", config.dump());
  EXPECT_EQ(run("eval --validation_file " + path("dev.json") + " " + model_flag()).code, 0);
  ASSERT_EQ(run("quantize --bit_widths 8 --output " + path("packed") + " " + model_flag()).code, 0);
  for (const char* name : {"model", "packed"}) {
    const std::string flag = " --model_name_or_path " + path(name);
    expect_refused("generate --prompt a" + flag, "has no LM head");
    expect_refused("eval --task lm --validation_file " + path("text.txt") + flag, "has no LM head");
  }
}

TEST_F(HostileCliTest, DamagedModelDirectories) {
  struct Case {
    const char* file;
    std::string bytes;
  };
  const std::vector<Case> cases = {
      {"config.json", ""},
      {"config.json", "{"},
      {"config.json", "[]"},
      {"config.json", R"({"model_type":"gpt2","n_layer":-1})"},
      {"config.json", R"({"model_type":"gpt2","n_embd":1e999})"},
      {"config.json", R"({"model_type":"gpt2","n_head":99999999999999999999})"},
      {"config.json", R"({"model_type":"bert"})"},
      {"config.json", std::string(100'000, '[')},
      {"config.json", "{\"model_type\":\"\xff\"}"},
      {"model.safetensors", ""},
      {"model.safetensors", "GGUF"},
      {"model.safetensors", std::string(8, '\xff') + "{}"},
      {"model.safetensors", std::string("\x02\0\0\0\0\0\0\0{}", 10)},
  };
  for (const Case& one : cases) {
    const std::string sound = slurp(path(std::string("model/") + one.file));
    put(std::string("model/") + one.file, one.bytes);
    expect_refused("generate --prompt a " + model_flag(), path("model"));
    put(std::string("model/") + one.file, sound);
  }
  const std::string tokenizer = slurp(path("model/tokenizer.json"));
  for (const char* bytes : {"", "{}", "null", R"({"model":{}})", "\xff"}) {
    put("model/tokenizer.json", bytes);
    expect_refused("generate --prompt a " + model_flag(), path("model/tokenizer.json"));
    const ProgramRun found = run("tokenize " + model_flag(), "text");
    EXPECT_EQ(found.code, 3) << found.err;
  }
  put("model/tokenizer.json", tokenizer);
  EXPECT_EQ(run("generate --prompt a --max_new_tokens 1 " + model_flag()).code, 0);
}

TEST_F(HostileCliTest, PathsThatAreNoModel) {
  fs::create_symlink("loop", path("loop"));
  fs::create_symlink("none", path("dangling"));
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  for (const std::string& bad :
       {path("none"), path("loop"), path("dangling"), path("fifo"), path("text.txt"),
        path("dev.json"), path("model/config.json"), path("model/model.safetensors"),
        path(std::string(5000, 'x')), std::string("/dev/null"), std::string("/dev/zero")}) {
    expect_refused("generate --prompt a --model_name_or_path " + bad, bad.substr(0, 200));
    if (!bad.ends_with("model.safetensors")) expect_refused("inspect " + bad, bad.substr(0, 200));
    expect_refused("generate --prompt a " + model_flag() + "--adapter " + bad, bad.substr(0, 200));
    const ProgramRun tokenized = run("tokenize --model_name_or_path " + bad, "text");
    EXPECT_EQ(tokenized.code, 3) << tokenized.err;
  }
}

TEST_F(HostileCliTest, DamagedDataPlansAndAdapters) {
  // The nano model's tokenizer with weights that have a question-answering head.
  Json config = parse_json(slurp(path("model/config.json")), "config");
  config["n_embd"] = 16;
  config["n_layer"] = 1;
  qalof::testing::write_model(path("qa"), config);
  fs::copy(path("model/tokenizer.json"), path("qa/tokenizer.json"));
  const std::string qa = "eval --quiet --model_name_or_path " + path("qa") + " --validation_file ";
  const ProgramRun sound = run(qa + path("dev.json"));
  ASSERT_EQ(sound.code, 0) << sound.err;
  for (const char* bytes : {"", "{", "[]", "null", "7", "{\"data\":{}}", "\x80\x02}q",
                            "{\"data\":[{\"title\":\"\xff\"}]}"}) {
    put("bad.json", bytes);
    expect_refused(qa + path("bad.json"), path("bad.json"));
    expect_refused("generate --prompt a " + model_flag() + "--precision " + path("bad.json"),
                   path("bad.json"));
    expect_refused("metric squad --references " + path("bad.json") + " --predictions " +
                       path("predictions.json"),
                   path("bad.json"));
    fs::create_directories(path("adapter"));
    put("adapter/adapter_config.json", bytes);
    expect_refused("generate --prompt a " + model_flag() + "--adapter " + path("adapter"),
                   path("adapter"));
    put("adapter/qalof.json", bytes);
    expect_refused("generate --prompt a " + model_flag() + "--adapter " + path("adapter"),
                   path("adapter"));
    fs::remove(path("adapter/qalof.json"));
  }
  put("not_utf8.txt", "a\xff\xfe");
  expect_refused(
      "eval --quiet --task lm " + model_flag() + "--validation_file " + path("not_utf8.txt"),
      "UTF-8");
}

TEST_F(HostileCliTest, DamagedPackedFiles) {
  const std::string packed = path("model.qalof");
  ASSERT_EQ(run("quantize " + model_flag() + "--bit_widths 4 --output " + packed).code, 0);
  const std::string sound = slurp(packed);
  const std::string generate = "generate --prompt a --model_name_or_path " + packed;
  ASSERT_EQ(run(generate + " --max_new_tokens 1").code, 0);
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{100},
                                 std::size_t{1000}, sound.size() / 2, sound.size() - 1}) {
    put("model.qalof", sound.substr(0, size));
    expect_refused(generate, packed);
  }
  for (const std::size_t byte : {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{60},
                                 sound.size() / 2, sound.size() - 1}) {
    std::string damaged = sound;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 0x40);
    put("model.qalof", damaged);
    const ProgramRun found = run(generate + " --max_new_tokens 1");
    EXPECT_EQ(found.code, 3) << byte << found.err;
    EXPECT_EQ(std::count(found.err.begin(), found.err.end(), '\n'), 1) << found.err;
  }
}

TEST_F(HostileCliTest, NothingHalfWrittenWhereACommandFails) {
  const auto entries = [&](const std::string& name) {
    std::vector<std::string> found;
    if (fs::exists(path(name)))
      for (const auto& entry : fs::recursive_directory_iterator(path(name)))
        found.push_back(entry.path().filename());
    return found;
  };
  put("bad.json", "{");
  EXPECT_EQ(run("eval " + model_flag() + "--validation_file " + path("bad.json") +
                " --output_dir " + path("scores"))
                .code,
            3);
  EXPECT_TRUE(entries("scores").empty());
  EXPECT_EQ(run("init --config_name " + path("bad.json") + " --output_dir " + path("fresh")).code,
            3);
  EXPECT_TRUE(entries("fresh").empty());
  fs::create_directory(path("packed"));
  put("model/config.json", "{");
  EXPECT_EQ(
      run("quantize " + model_flag() + "--bit_widths 4 --output " + path("packed/m.qalof")).code,
      3);
  EXPECT_TRUE(entries("packed").empty());
}

TEST_F(HostileCliTest, FailedWritesAreResourceErrorsAndKeepWhatWasThere) {
  EXPECT_EQ(
      run("quantize " + model_flag() + "--bit_widths 4 --output " + path("none/m.qalof")).code, 5);
  EXPECT_EQ(run("quantize " + model_flag() + "--bit_widths 4 --output " + path("model")).code, 5);
  const int status = std::system((std::string(QALOF_BINARY_DIR) + "/qalof inspect " +
                                  path("model") + " --json >/dev/full 2>" + path("err"))
                                     .c_str());
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 5) << slurp(path("err"));
}

TEST_F(HostileCliTest, UsageErrorsNameTheNearestAndComeFirst) {
  struct Case {
    std::string arguments;
    const char* named;
  };
  const std::vector<Case> cases = {
      {"generat", "generate"},
      {"inspct x", "inspect"},
      {"generate --prompt a --model_name_or_pth x", "--model_name_or_path"},
      {"generate --promt a " + model_flag(), "--prompt"},
      {"eval --validation_fil x " + model_flag(), "--validation_file"},
      {"quantize --bit_width 4 " + model_flag(), "--bit_widths"},
      {"eval --max_eval_sample 3 " + model_flag(), "--max_eval_samples"},
      {"generate --prompt a --precision w9a9 " + model_flag(), "w9a9"},
      {"generate --prompt a --threads 0x " + model_flag(), "--threads"},
      {"generate --prompt a --threads 100000 " + model_flag(), "--threads"},
      {"generate --prompt a --max_new_tokens 99999999999999999999 " + model_flag(),
       "--max_new_tokens"},
      {"inspect", ""},
      {"inspect a b", ""},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.arguments);
    const ProgramRun found = run(one.arguments);
    EXPECT_EQ(found.code, 2) << found.err;
    EXPECT_EQ(found.out, "");
    EXPECT_NE(found.err.find(one.named), std::string::npos) << found.err;
    EXPECT_EQ(std::count(found.err.begin(), found.err.end(), '\n'), 1) << found.err;
  }
}

TEST_F(HostileCliTest, JsonIsExactlyOneObjectOfEveryCommand) {
  for (const std::string& arguments :
       {"inspect " + path("model"), std::string("doctor"),
        "generate --prompt a --max_new_tokens 2 " + model_flag(),
        "metric squad --references " + path("dev.json") + " --predictions " +
            path("predictions.json"),
        "eval --task lm " + model_flag() + "--validation_file " + path("text.txt"),
        "quantize " + model_flag() + "--bit_widths 4 --output " + path("m.qalof")}) {
    SCOPED_TRACE(arguments);
    const ProgramRun found = run(arguments + " --json");
    EXPECT_EQ(found.code, 0) << found.err;
    EXPECT_TRUE(parse_json(found.out, "standard output").is_object());
  }
}

}  // namespace hostile_cli_test
}  // namespace qalof::cli
