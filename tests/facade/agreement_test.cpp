// The library gives what the program gives: the same tokens, scores, answers and classes.
#include <gmock/gmock.h>

#include <cmath>

#include "facade/library.h"

namespace qalof {
namespace agreement_test {

using testing::kNanoData;
using testing::kNanoModel;
using testing::LibraryTest;
using weights::HeadKind;

class AgreementTest : public LibraryTest {
 protected:
  Model model_ = Model::open(kNanoModel);
};

TEST_F(AgreementTest, GenerateGivesTheProgramsTokensAndText) {
  for (const char* precision : {"32", "8", "w4a8kv8"}) {
    const Json expected =
        program("generate",
                "--prompt 'Hugo has' --max_new_tokens 24 --ignore_eos --temperature 0.8 --top_k 40 "
                "--top_p 0.9 --seed 7 --precision " +
                    std::string(precision));
    std::string streamed;
    GenerateOptions options;
    options.max_new_tokens = 24;
    options.ignore_eos = true;
    options.temperature = 0.8;
    options.top_k = 40;
    options.top_p = 0.9;
    options.seed = 7;
    options.on_text = [&](std::string_view piece) {
      streamed += piece;
      return true;
    };
    const Variant variant = model_.variant({.precision = precision});
    const Generation found = variant.generate("Hugo has", options);
    EXPECT_EQ(Json(found.ids), expected["ids"]) << precision;
    EXPECT_EQ(found.text, expected["text"].get<std::string>());
    EXPECT_EQ(streamed, found.text);
    EXPECT_EQ(found.prompt_tokens, expected["prompt_tokens"].get<std::size_t>());
    EXPECT_EQ(found.kv_bytes, expected["kv_bytes"].get<std::size_t>());
    EXPECT_EQ(variant.precision(), expected["precision"].get<std::string>());
    EXPECT_EQ(found.reason, StopReason::kLength);
  }
}

TEST_F(AgreementTest, StopTextAndCallbackEndAText) {
  const Variant variant = model_.variant({.precision = "8"});
  GenerateOptions options;
  options.ignore_eos = true;
  options.stop = {"."};
  const Generation stopped = variant.generate("Hugo has", options);
  EXPECT_EQ(stopped.reason, StopReason::kStopString);
  EXPECT_EQ(stopped.text.find('.'), std::string::npos);
  options.stop.clear();
  options.on_text = [](std::string_view) { return false; };
  EXPECT_EQ(variant.generate("Hugo has", options).reason, StopReason::kCancelled);
}

TEST_F(AgreementTest, ScoreOfTextsIsTheProgramsLossAndBitsAreItsBits) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "Hugo lives in Selby. Nora has lost a wool scarf. ";
  std::ofstream(dir_.file("text.txt")) << text;
  for (const char* precision : {"32", "4"}) {
    const Json expected =
        program("eval", "--task lm --validation_file " + dir_.file("text.txt") + " --precision " +
                            precision + " --max_seq_length 64 --stride 16");
    const Variant variant = model_.variant({.precision = precision});
    const TextScore found = variant.score_texts(std::vector{text}, {64, 16});
    EXPECT_EQ(found.loss, expected["eval_loss"].get<double>()) << precision;
    EXPECT_EQ(found.perplexity, expected["perplexity"].get<double>());
    EXPECT_EQ(found.tokens, expected["tokens"].get<std::uint64_t>());
    EXPECT_EQ(variant.bits().weights, expected["effective_bits"]["weights"].get<double>());
    EXPECT_EQ(variant.bits().kv, expected["effective_bits"]["kv"].get<double>());
    EXPECT_EQ(variant.bytes().linears, expected["bytes"]["linears"].get<std::uint64_t>());
    EXPECT_EQ(variant.bytes().total,
              variant.bytes().linears + variant.bytes().adapters + variant.bytes().other);
  }
}

// The first token of a text has no likelihood: one that begins alone has the rest of it.
TEST_F(AgreementTest, LikelihoodsOfAllContinuationsSumToThatOfTheText) {
  const Variant variant = model_.variant({.precision = "8"});
  const std::string text = "Nora has lost a wool scarf.";
  const std::vector<std::int32_t> ids = model_.encode(text);
  const std::string first = model_.decode(std::span(ids).first(1));
  const ContinuationScore rest = variant.score(first, text.substr(first.size()));
  const TextScore whole = variant.score_texts(std::vector{text});
  EXPECT_EQ(rest.ids, std::vector<std::int32_t>(ids.begin() + 1, ids.end()));
  EXPECT_EQ(rest.token_log_likelihoods.size(), whole.tokens);
  EXPECT_NEAR(rest.log_likelihood, -whole.loss * static_cast<double>(whole.tokens), 1e-4);
  double sum = 0;
  for (const float one : rest.token_log_likelihoods) sum += static_cast<double>(one);
  EXPECT_EQ(rest.log_likelihood, sum);
}

TEST_F(AgreementTest, AnswersAreTheProgramsPredictions) {
  const std::string adapter = random_adapter("qa", HeadKind::kSpan, 3);
  program("eval", "--task qa --adapter " + adapter + " --precision 8 --max_eval_samples 12 " +
                      "--max_seq_length 64 --doc_stride 16 --output_dir " + dir_.file("scores") +
                      " --validation_file " + kNanoData + "/validation.json");
  const Json expected = Json::parse(cli::slurp(dir_.file("scores/eval_predictions.json")));
  const Json data = Json::parse(cli::slurp(kNanoData + "/validation.json"));
  const Variant variant = model_.variant({.precision = "8", .adapter = adapter});
  std::size_t compared = 0;
  for (const Json& paragraph : data["data"][0]["paragraphs"]) {
    for (const Json& question : paragraph["qas"]) {
      if (!expected.contains(question["id"])) continue;
      const Answer found = variant.answer(question["question"].get<std::string>(),
                                          paragraph["context"].get<std::string>(),
                                          {.max_seq_length = 64, .doc_stride = 16});
      EXPECT_EQ(found.text, expected[question["id"].get<std::string>()].get<std::string>());
      EXPECT_GT(found.probability, 0.0);
      EXPECT_LE(found.probability, 1.0);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 12U);
}

TEST_F(AgreementTest, ClassesAreTheProgramsPredictions) {
  const std::string adapter = random_adapter("classes", HeadKind::kClass, 4);
  const std::vector<std::string> texts = {"Hugo lives in Selby.", "Nora has lost a wool scarf.",
                                          "Ada feeds a small pony.", "Where does Rosa work?"};
  std::string file = "sentence\tlabel\n";
  for (const std::string& text : texts) file += text + "\t1\n";
  std::ofstream(dir_.file("data.tsv")) << file;
  program("eval", "--task classification --adapter " + adapter + " --precision 4 --output_dir " +
                      dir_.file("scores") + " --validation_file " + dir_.file("data.tsv"));
  const Json expected =
      Json::parse(cli::slurp(dir_.file("scores/eval_predictions.json")))["predictions"];
  const Variant variant = model_.variant({.precision = "4", .adapter = adapter});
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::vector<ClassProbability> found = variant.classify(texts[i]);
    ASSERT_EQ(found.size(), 3U);
    double sum = 0;
    std::size_t best = 0;
    for (std::size_t c = 0; c < found.size(); ++c) {
      sum += found[c].probability;
      if (found[c].probability > found[best].probability) best = c;
    }
    EXPECT_NEAR(sum, 1.0, 1e-12);
    EXPECT_EQ(best, expected[i].get<std::size_t>()) << texts[i];
  }
}

TEST_F(AgreementTest, APackedFileGivesTheTokensOfItsDirectory) {
  const std::string packed = dir_.file("nano.qalof");
  program("quantize", "--bit_widths 4 --output " + packed);
  const Model file = Model::open(packed);
  EXPECT_EQ(file.encode("Hugo has"), model_.encode("Hugo has"));
  // Both embeddings are bf16 below 32 bits.
  EXPECT_EQ(file.variant().generate("Hugo has").ids,
            model_.variant({.precision = "4"}).generate("Hugo has").ids);
  EXPECT_EQ(testing::error_of([&] { file.variant({.precision = "8"}); }).kind,
            ErrorKind::kUnsupported);
}

TEST_F(AgreementTest, TokenizerIsTheProgramsAndDecodesWhatItEncodes) {
  const std::string text = "Nora has lost a wool scarf. \xC3\xA4";
  const cli::ProgramRun found = run("tokenize --model_name_or_path " + kNanoModel, text);
  ASSERT_EQ(found.code, 0) << found.err;
  std::string ids;
  for (const std::int32_t id : model_.encode(text))
    ids += (ids.empty() ? "" : " ") + std::to_string(id);
  EXPECT_EQ(found.out, ids + "\n");
  EXPECT_EQ(model_.decode(model_.encode(text)), text);
  EXPECT_EQ(model_.vocab_size(), 640U);
  EXPECT_EQ(model_.max_positions(), 256U);
  EXPECT_EQ(model_.path(), kNanoModel);
  EXPECT_EQ(version(), Json::parse(run("doctor --json").out)["version"].get<std::string>());
  EXPECT_EQ(instruction_set(), Json::parse(run("doctor --json").out)["isa"].get<std::string>());
}

}  // namespace agreement_test
}  // namespace qalof
