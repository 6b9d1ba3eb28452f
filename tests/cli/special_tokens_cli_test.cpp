// One policy for special tokens: every command that reads texts puts the tokens of the tokenizer's
// template around them, parses those written in texts only when asked, and says so.
#include <gmock/gmock.h>

#include <filesystem>

#include "program.h"
#include "support/tiny_model.h"

namespace qalof::cli {
namespace special_tokens_cli_test {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kEnd = "<|endoftext|>";

class SpecialTokensCliTest : public CliTest {
 protected:
  SpecialTokensCliTest() {
    Json config = qalof::testing::tiny_config();
    config["vocab_size"] = 640;
    config["bos_token_id"] = config["eos_token_id"] = 0;
    for (const char* name : {"plain", "model"}) {
      qalof::testing::write_model(dir_.file(name), config);
      fs::copy(QALOF_SOURCE_DIR "/assets/nano/model/tokenizer.json",
               dir_.file(std::string(name) + "/tokenizer.json"));
    }
    const std::string path = dir_.file("model/tokenizer.json");
    Json tokenizer = parse_json(slurp(path), path);
    const auto piece = [](int type) {
      return Json{{"SpecialToken", {{"id", kEnd}, {"type_id", type}}}};
    };
    const auto text = [](const char* id, int type) {
      return Json{{"Sequence", {{"id", id}, {"type_id", type}}}};
    };
    tokenizer["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", {piece(0), text("A", 0)}},
        {"pair", {piece(0), text("A", 0), piece(1), text("B", 1)}},
        {"special_tokens", {{kEnd, {{"id", kEnd}, {"ids", {0}}, {"tokens", {kEnd}}}}}}};
    write("model/tokenizer.json", tokenizer.dump());
    write("text.txt", "Nora lives by the river.\n\nHugo has a red boat.\n");
    write("special.txt", std::string("Nora lives") + kEnd + "Hugo has");
    write("data.tsv", "sentence\tlabel\nthe film is bad\t0\nthe film is good\t1\n");
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_.file(name)) << text;
  }
  Json json_of(const std::string& arguments, const std::string& input = "") {
    const ProgramRun found = run(arguments + " --json", input);
    EXPECT_EQ(found.code, 0) << arguments << "\n" << found.err;
    return parse_json(found.out, "standard output");
  }
  std::string at(const std::string& model) const {
    return " --model_name_or_path " + dir_.file(model) + " ";
  }
  std::string file(const std::string& flag, const std::string& name) const {
    return " --" + flag + " " + dir_.file(name) + " ";
  }
  Json eval(const std::string& model, const std::string& more) {
    return json_of("eval --task lm --precision 8" + at(model) + more);
  }
  static Json added(bool parses = false) {
    return {{"before", {0}}, {"after", Json::array()}, {"parse_special", parses}};
  }
};

TEST_F(SpecialTokensCliTest, TokenizeShowsWhatAModelSees) {
  const Json bare = json_of("tokenize" + at("plain"), "Hugo has");
  Json found = json_of("tokenize" + at("model"), "Hugo has");
  EXPECT_EQ(bare["special_tokens"]["before"], Json::array());
  EXPECT_EQ(found["special_tokens"], added());
  EXPECT_EQ(found["ids"][0], 0);
  EXPECT_EQ(found["offsets"][0], (Json{0, 0}));
  for (const char* key : {"ids", "offsets"}) {
    found[key].erase(0);
    EXPECT_EQ(found[key], bare[key]);
  }
  const std::string text = std::string("a") + kEnd;
  EXPECT_EQ(json_of("tokenize --parse_special" + at("model"), text)["ids"].back(), 0);
  EXPECT_NE(json_of("tokenize" + at("model"), text)["ids"].back(), 0);
}

TEST_F(SpecialTokensCliTest, GenerateBeginsWithTheTemplateAndParsesWhenAsked) {
  const std::string flags = " --max_new_tokens 2 --ignore_eos --precision 8 --prompt ";
  const std::string special = std::string(" '") + kEnd + "Hugo has' ";
  EXPECT_EQ(json_of("generate" + at("plain") + flags + "'Hugo has'")["prompt_tokens"], 3);
  const Json found = json_of("generate" + at("model") + flags + "'Hugo has'");
  EXPECT_EQ(found["prompt_tokens"], 4);
  EXPECT_EQ(found["special_tokens"], added());
  // The plain model reads the same tokens where the text holds the first one.
  const Json written = json_of("generate --parse_special" + at("plain") + flags + special);
  EXPECT_EQ(written["ids"], found["ids"]);
  EXPECT_EQ(written["special_tokens"]["parse_special"], true);
  EXPECT_GT(json_of("generate" + at("plain") + flags + special)["prompt_tokens"], 4);
  EXPECT_EQ(json_of("generate" + at("model") + flags + "''")["prompt_tokens"], 1);
  const ProgramRun twice = run("generate --parse_special" + at("model") + flags + special);
  EXPECT_THAT(twice.err, HasSubstr("appears twice"));
  EXPECT_THAT(run("generate" + at("model") + flags + special).err, Not(HasSubstr("twice")));
}

TEST_F(SpecialTokensCliTest, EvalScoresTheFirstTokenOfEveryDocument) {
  const std::string text = file("validation_file", "text.txt");
  const Json bare = eval("plain", text), found = eval("model", text);
  EXPECT_EQ(found["tokens"], bare["tokens"].get<int>() + 1);
  EXPECT_EQ(found["special_tokens"], added());
  // Around documents, not around windows.
  EXPECT_EQ(eval("model", text + "--max_seq_length 8 --stride 4")["tokens"], found["tokens"]);
  // Two lines of text and an empty one.
  EXPECT_EQ(eval("model", text + "--line_by_line")["tokens"],
            eval("plain", text + "--line_by_line")["tokens"].get<int>() + 2);
  const std::string special = file("validation_file", "special.txt");
  const Json as_text = eval("plain", special), parsed = eval("plain", special + "--parse_special");
  EXPECT_GT(as_text["tokens"], parsed["tokens"]);
  EXPECT_EQ(parsed["special_tokens"]["parse_special"], true);
}

TEST_F(SpecialTokensCliTest, APackedFileKeepsTheTemplate) {
  json_of("quantize --bit_widths 8" + at("model") + file("output", "model.qalof"));
  const std::string text = file("validation_file", "text.txt");
  const Json directory = eval("model", text), packed = eval("model.qalof", text);
  EXPECT_EQ(packed["eval_loss"], directory["eval_loss"]);
  EXPECT_EQ(packed["special_tokens"], added());
}

TEST_F(SpecialTokensCliTest, CalibrationSaysWhatItReads) {
  const std::string quantize = "quantize --bit_widths 8" + at("model") + file("output", "x.qalof");
  const std::string ptq = " --ptq smoothquant --task lm" + file("calibration_file", "special.txt");
  EXPECT_EQ(json_of(quantize + ptq + "--parse_special")["special_tokens"], added(true));
  EXPECT_EQ(json_of(quantize + ptq)["special_tokens"], added());
  EXPECT_FALSE(json_of(quantize).contains("special_tokens"));
  const ProgramRun refused = run(quantize + " --parse_special");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("--parse_special: is for --calibration_file"));
}

#ifdef QALOF_HAS_TRAIN
TEST_F(SpecialTokensCliTest, TrainingReadsTheSameTokensAsEval) {
  const auto train = [&](const std::string& model, const std::string& more) {
    return "train --method lora --lora_r 2 --max_steps 2 --warmup_steps 1 --threads 1" + at(model) +
           more;
  };
  const std::string lm = "--task lm --max_seq_length 32" + file("train_file", "special.txt");
  const Json as_text = json_of(train("model", lm + file("output_dir", "text")));
  EXPECT_EQ(as_text["special_tokens"], added());
  const Json parsed = json_of(train("model", lm + file("output_dir", "p") + "--parse_special"));
  EXPECT_EQ(parsed["special_tokens"], added(true));
  EXPECT_LT(parsed["tokens"], as_text["tokens"]);
  const Json bare = json_of(train("plain", lm + file("output_dir", "bare")));
  EXPECT_EQ(as_text["tokens"], bare["tokens"].get<int>() + 2) << "one window in each of 2 steps";
  // Another policy is another run.
  const ProgramRun other = run(train("model", lm + file("output_dir", "text") + "--parse_special"));
  EXPECT_EQ(other.code, 2) << other.err;
  const std::string classes = "--task classification" + file("train_file", "data.tsv");
  const Json trained = json_of(
      train("model", classes + file("output_dir", "classes") + "--per_device_train_batch_size 2"));
  const Json shorter = json_of(
      train("plain", classes + file("output_dir", "shorter") + "--per_device_train_batch_size 2"));
  EXPECT_EQ(trained["tokens"], shorter["tokens"].get<int>() + 4) << "2 texts in each of 2 steps";
  const Json scores = json_of("eval --task classification" + at("model") +
                              file("adapter", "classes") + file("validation_file", "data.tsv"));
  EXPECT_EQ(scores["special_tokens"], added());
}
#endif

}  // namespace special_tokens_cli_test
}  // namespace qalof::cli
