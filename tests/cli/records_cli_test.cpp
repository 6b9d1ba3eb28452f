// Files as people have them, and files of ours as our own commands read them.
#include <gmock/gmock.h>

#include "cli/program.h"

namespace qalof::cli {
namespace records_cli_test {

using ::testing::HasSubstr;
using ::testing::Not;

class RecordsCliTest : public CliTest {
 protected:
  std::string write(const std::string& name, const std::string& contents) const {
    std::ofstream(dir_.file(name), std::ios::binary) << contents;
    return dir_.file(name);
  }
  Json json_of(const std::string& arguments, const std::string& input = "") {
    last_ = run(arguments + " --json", input);
    EXPECT_EQ(last_.code, 0) << last_.err;
    return parse_json(last_.out, "standard output");
  }
  const std::string model_ =
      " --model_name_or_path " + std::string(QALOF_SOURCE_DIR) + "/assets/nano/model";
  ProgramRun last_;
};

TEST_F(RecordsCliTest, PredictionsOfRepeatedAndOddIdsAreScoredByMetric) {
  // Two questions under one id, and ids that are numbers or need escapes.
  const std::string data = write("dev.json", R"({"data": [{"paragraphs": [
    {"context": "The bridge was mended in spring.", "qas": [
      {"id": "a", "question": "When was it mended?", "answers": [{"text": "spring", "answer_start": 25.0}]},
      {"id": 7, "question": "What was mended?", "answers": {"text": "The bridge", "answer_start": "0"}},
      {"id": "\"\u0001\\ \u4e2d\ud83d\ude00", "question": "?", "answers": null}]},
    {"context": "Anna lives in Rome.", "qas": [
      {"id": "a", "question": "Where does Anna live?", "answers": [{"text": "Rome", "answer_start": -1}]}]}]}]})");
  const std::string flags =
      model_ + " --validation_file " + data + " --output_dir " + dir_.file("o");
  Json scores = json_of("eval" + flags);
  EXPECT_EQ(scores["eval_samples"], 4);
  EXPECT_THAT(last_.err, HasSubstr("1 ids belong to several questions each, e.g. \"a\""));
  const Json predictions = read_json_file(dir_.file("o/eval_predictions.json"));
  EXPECT_EQ(predictions.size(), 3U);
  for (const char* file : {"o/eval_nbest_predictions.json", "o/eval_scores.json"})
    EXPECT_EQ(read_json_file(dir_.file(file)).size(), 3U) << file;
  EXPECT_THAT(std::string("Anna lives in Rome."), HasSubstr(predictions["a"].get<std::string>()));
  const Json metric = json_of("metric squad --references " + data + " --predictions " +
                              dir_.file("o/eval_predictions.json"));
  EXPECT_EQ(metric["total"], 4);
  EXPECT_EQ(metric["missing"], 0);
  EXPECT_THAT(last_.err, HasSubstr("1 questions have the id of one before them"));

  // The second "a" lies beyond the samples: the first is the last.
  scores = json_of("eval --max_eval_samples 2" + flags);
  EXPECT_EQ(scores["eval_samples"], 2);
  EXPECT_THAT(last_.err, Not(HasSubstr("belong to several")));
  EXPECT_EQ(read_json_file(dir_.file("o/eval_predictions.json")).size(), 2U);
}

TEST_F(RecordsCliTest, TextsAreReadWithoutMarksAndCarriageReturns) {
  const std::string flags = "eval --task lm" + model_ + " --validation_file ";
  const Json plain = json_of(flags + write("a.txt", "Anna lives in Rome.\nBen does not.\n"));
  EXPECT_THAT(last_.err, Not(HasSubstr("read without")));
  const Json other = json_of(flags + write("b.txt",
                                           "\xef\xbb\xbf"
                                           "Anna lives in Rome.\r\nBen does not.\r\n"));
  EXPECT_THAT(last_.err, HasSubstr("b.txt: read without its byte order mark and its carriage"));
  EXPECT_EQ(other["eval_loss"], plain["eval_loss"]);
  EXPECT_EQ(other["tokens"], plain["tokens"]);
  for (const auto& [contents, sentence] :
       {std::pair<std::string, std::string>{"a\nb\xe9\n",
                                            "line 2: bytes that are not UTF-8, at byte 3"},
        {"\xff\xfe"
         "a",
         "begins with the byte order mark of UTF-16"}}) {
    const ProgramRun bad = run(flags + write("c.txt", contents));
    EXPECT_EQ(bad.code, 3);
    EXPECT_THAT(bad.err, HasSubstr("c.txt: " + sentence));
  }
}

TEST_F(RecordsCliTest, StandardInputMayHaveAMarkAndEmptyLines) {
  const std::string generate = "generate --max_new_tokens 2 --prompt -" + model_;
  const Json plain = json_of(generate, "Anna lives");
  const Json marked = json_of(generate,
                              "\xef\xbb\xbf"
                              "Anna lives\r\n");
  EXPECT_EQ(marked["ids"], plain["ids"]);
  EXPECT_EQ(marked["prompt_tokens"], plain["prompt_tokens"]);
  const ProgramRun lines = run("tokenize --jsonl" + model_, "\"Anna\"\r\n\r\n\"Ben\"\n\n");
  EXPECT_EQ(lines.code, 0) << lines.err;
  EXPECT_EQ(std::count(lines.out.begin(), lines.out.end(), '\n'), 2) << lines.out;
}

}  // namespace records_cli_test
}  // namespace qalof::cli
