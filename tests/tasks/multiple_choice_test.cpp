// Every choice's log-likelihood and every prediction are lm-evaluation-harness's
// (tools/interop/check_multiple_choice.py wrote the expected files), and files of another form are
// refused by line.
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "support/error_of.h"
#include "support/temp_dir.h"
#include "tasks/table.h"
#include "text/bpe_tokenizer.h"
#include "weights/base_model.h"

namespace qalof::tasks {
namespace multiple_choice_test {

namespace fs = std::filesystem;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

const std::string kNano = QALOF_SOURCE_DIR "/assets/nano/model";
const std::string kData = QALOF_SOURCE_DIR "/tests/tasks/data/";

class MultipleChoiceTest : public ::testing::Test {
 protected:
  // A copy of the nano model with another tokenizer.json: parts of it replaced, the last merge too.
  std::string model_with(const Json& changes) const {
    const std::string model = dir_.file("model");
    fs::copy(kNano, model);
    const std::string path = model + "/tokenizer.json";
    Json tokenizer = parse_json(read_file(path, 1 << 24), path);
    for (const char* part : {"post_processor", "pre_tokenizer"}) tokenizer[part] = changes[part];
    Json& merges = tokenizer["model"]["merges"];
    const bool are_pairs = merges.back().is_array();
    const std::string a = changes["last_merge"][0], b = changes["last_merge"][1];
    Json& vocabulary = tokenizer["model"]["vocab"];
    // The token of the last merge gives its id to the new one.
    const std::string last =
        are_pairs ? merges.back()[0].get<std::string>() + merges.back()[1].get<std::string>()
                  : merged(merges.back().get<std::string>());
    const Json id = vocabulary[last];
    vocabulary.erase(last);
    vocabulary[a + b] = id;
    merges.back() = are_pairs ? Json{a, b} : Json(a + " " + b);
    fs::remove(path);
    std::ofstream(path) << tokenizer.dump();
    return model;
  }
  static std::string merged(std::string pair) {
    pair.erase(pair.find(' '), 1);
    return pair;
  }

  Scores evaluate(const std::string& model, const DataOptions& data, bool parse_special = false) {
    const auto base = weights::BaseModel::load_directory(model);
    const text::TextEncoder encoder(text::BpeTokenizer::load(model), parse_special);
    const runtime::RequestExecutions executions(runtime::Execution::create(
        base, quant::resolve(quant::parse_plan("32"), base->target()), nullptr, pool_));
    return MultipleChoice().evaluate(
        {{encoder, base->config().max_positions, silent_}, executions, pool_}, data);
  }

  void expect_equal(const std::string& model, const std::string& file, const Json& expected,
                    bool parse_special) {
    DataOptions data;
    data.file = file;
    data.output_dir = dir_.file("out");
    const Scores scores = evaluate(model, data, parse_special);
    EXPECT_NEAR(scores.at("eval_accuracy"), 100 * expected["acc"].get<double>(), 1e-9);
    EXPECT_NEAR(scores.at("eval_accuracy_norm"), 100 * expected["acc_norm"].get<double>(), 1e-9);
    EXPECT_NEAR(scores.at("eval_accuracy_bytes"), 100 * expected["acc_bytes"].get<double>(), 1e-9);
    std::ifstream lines(dir_.file("out/eval_choices.jsonl"));
    std::string line;
    std::size_t index = 0;
    for (; std::getline(lines, line); ++index) {
      const Json found = Json::parse(line), &wanted = expected["questions"].at(index);
      EXPECT_EQ(found["index"], index);
      for (const char* key : {"predicted", "predicted_norm", "predicted_bytes"})
        EXPECT_EQ(found[key], wanted[key]) << file << " " << index << " " << key;
      const Json& sums = wanted["log_likelihoods"];
      ASSERT_EQ(found["log_likelihoods"].size(), sums.size());
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const double sum = sums[i];
        // The harness adds f32 numbers: a long choice's sum has an error of its own.
        EXPECT_LE(std::abs(found["log_likelihoods"][i].get<double>() - sum),
                  1e-4 + 1e-6 * std::abs(sum))
            << file << " " << index << " " << i;
      }
    }
    EXPECT_EQ(index, expected["questions"].size());
  }
  static Json expected(const std::string& name) {
    const std::string path = kData + name;
    return parse_json(read_file(path, 1 << 24), path);
  }

  std::string refusal(const std::string& line) {
    std::ofstream(dir_.file("questions.jsonl"))
        << R"({"context": "a", "choices": ["b"], "answer": 0})"
        << "\n\n"
        << line << "\n";
    const auto error = error_of(
        [&] { read_choices(dir_.file("questions.jsonl"), [](ChoiceQuestion&&) { return true; }); });
    EXPECT_NE(error.message.find("questions.jsonl: line 3"), std::string::npos) << error.message;
    return error.message;
  }

  TempDir dir_;
  ThreadPool pool_{2};
  Observer silent_;
};

TEST_F(MultipleChoiceTest, ShippedQuestionsScoreAsTheHarnessScoresThem) {
  expect_equal(kNano, QALOF_SOURCE_DIR "/assets/nano/data/multiple_choice.jsonl",
               expected("multiple_choice_expected.json"), false);
}

TEST_F(MultipleChoiceTest, EdgesOfTextsScoreAsTheHarnessScoresThem) {
  expect_equal(kNano, kData + "multiple_choice_edges.jsonl",
               expected("multiple_choice_edges_expected.json"), false);
}

TEST_F(MultipleChoiceTest, ATemplatesFirstTokenIsReadOnceAndMergesOverTheCutAreTheHarness) {
  const Json wanted = expected("multiple_choice_llama3_expected.json");
  expect_equal(model_with(wanted["tokenizer"]), kData + "multiple_choice_llama3.jsonl", wanted,
               true);
}

TEST_F(MultipleChoiceTest, MaxSamplesTakesTheFirst) {
  DataOptions data;
  data.file = kData + "multiple_choice_edges.jsonl";
  data.max_samples = 1;
  const Scores scores = evaluate(kNano, data);
  EXPECT_EQ(scores.at("eval_samples"), 1);
  EXPECT_EQ(scores.at("eval_accuracy"), 100);
}

TEST_F(MultipleChoiceTest, LinesOfAnotherFormAreNamed) {
  EXPECT_THAT(refusal("[]"), HasSubstr("expected an object"));
  EXPECT_THAT(refusal("{"), HasSubstr("line 3"));
  EXPECT_THAT(refusal(R"({"choices": ["b"], "answer": 0})"), HasSubstr("context"));
  EXPECT_THAT(refusal(R"({"context": "a", "choices": [], "answer": 0})"), HasSubstr("choices"));
  EXPECT_THAT(refusal(R"({"context": "a", "choices": "b", "answer": 0})"), HasSubstr("choices"));
  EXPECT_THAT(refusal(R"({"context": "a", "choices": ["b", 3], "answer": 0})"),
              HasSubstr("found 3, expected a text"));
  EXPECT_THAT(refusal(R"({"context": "a", "choices": ["b"], "answer": 1})"), HasSubstr("answer"));
  EXPECT_THAT(refusal(R"({"context": "a", "choices": ["b"], "answer": -1})"), HasSubstr("answer"));
  EXPECT_THAT(refusal(R"({"context": "a", "choices": ["b"], "answer": "b"})"), HasSubstr("answer"));
}

TEST_F(MultipleChoiceTest, AnEmptyFileAndAChoiceBeyondThePositionsAreRefused) {
  const std::string path = dir_.file("questions.jsonl");
  DataOptions data;
  data.file = path;
  std::ofstream(path) << "\n";
  EXPECT_THAT(error_of([&] { evaluate(kNano, data); }).message, HasSubstr("holds no question"));
  std::ofstream(path) << Json{{"context", "a"},
                              {"choices", {std::string(2000, '?')}},
                              {"answer", 0}}
                      << "\n";
  EXPECT_THAT(
      error_of([&] { evaluate(kNano, data); }).message,
      HasSubstr("line 1: what follows the context has 2001 tokens, the model has 256 positions"));
}

TEST(TaskSet, NamesAndRefusesByUse) {
  const TaskSet tasks;
  EXPECT_EQ(alternatives(tasks.names(Use::kScore)),
            "qa, lm, classification, multiple_choice or chat");
  EXPECT_EQ(alternatives(tasks.names(Use::kTrain)), "qa, lm, classification or chat");
  EXPECT_EQ(alternatives(tasks.names(Use::kAnalyse)), "qa or classification");
  EXPECT_EQ(error_of([&] { tasks.at("multiple_choice", Use::kTrain); }).message,
            "--task: found multiple_choice, expected qa, lm, classification or chat");
}

}  // namespace multiple_choice_test
}  // namespace qalof::tasks
