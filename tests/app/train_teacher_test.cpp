// --teacher and --train_file self, through the same function as `qalof train`.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "app/train/checkpoint.h"
#include "app/train/self_text.h"
#include "app/train/teacher.h"
#include "core/error.h"
#include "core/random.h"
#include "runtime/generator.h"
#include "support/error_of.h"
#include "tiny_train_run.h"

namespace qalof::app {
namespace train_teacher_test {

using qalof::testing::error_of;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class TrainTeacher : public TinyTrainRun {
 protected:
  // A directory that `qalof train` wrote.
  std::string train(const std::string& output, train::Method method, std::uint64_t seed = 42) {
    TrainRunOptions given = options(output);
    given.train.method = method;
    given.train.seed = seed;
    given.train.logging.save_steps = 0;
    run(given);
    return given.output_dir;
  }
  TrainRunOptions student(const std::string& output, const std::string& teacher) const {
    TrainRunOptions given = options(output);
    given.teacher = teacher;
    return given;
  }
  std::string adapters(const std::string& output) const {
    return slurp(dir_.file(output + "/w8/adapter_model.safetensors")) +
           slurp(dir_.file(output + "/w4/adapter_model.safetensors"));
  }
};

TEST_F(TrainTeacher, IsAModelDirectoryOrAdaptersAndIsKnownByItsContents) {
  run(options("alone"));
  std::set<std::string> outputs = {adapters("alone")};
  for (const train::Method method : {train::Method::kFull, train::Method::kLora}) {
    const std::string name = train::to_string(method);
    const std::string teacher = train("teacher_" + name, method);
    run(student("out_" + name, teacher));
    EXPECT_TRUE(outputs.insert(adapters("out_" + name)).second) << "it teaches something else";
    // Both widths are taught, the first too.
    const std::string metrics = slurp(dir_.file("out_" + name + "/metrics.jsonl"));
    EXPECT_THAT(metrics, ::testing::Not(HasSubstr("\"distillation\":0.0,")));
    // Elsewhere it is the same teacher: a run that is whole begins at its last checkpoint.
    fs::rename(teacher, teacher + "_moved");
    TrainRunOptions again = student("out_" + name, teacher + "_moved");
    std::int64_t steps = 0;
    again.on_step = [&](const train::StepRecord&) { ++steps; };
    run(again);
    EXPECT_EQ(steps, 1) << "16 steps, a checkpoint after 15";
    const std::string other = train("other_" + name, method, /*seed=*/1);
    const auto error = error_of([&] { run(student("out_" + name, other)); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    EXPECT_THAT(error.message, HasSubstr("the teacher differs"));
  }
}

TEST_F(TrainTeacher, IsEvaluatedWithItsOwnHeadAndPrecision) {
  const std::string teacher = train("teacher", train::Method::kSwitch);
  Observer silent;
  TrainRunOptions given = student("out", teacher);
  const ModelHandle handle = open_model(given.model, silent);
  const auto opened = open_teacher(given, handle, silent);
  EXPECT_EQ(opened->plan.default_width.bits, 8) << "what the directory says";
  EXPECT_EQ(opened->base, handle.base) << "opened once";
  EXPECT_EQ(opened->adapters->by_width.size(), 2U);
}

TEST_F(TrainTeacher, InterruptedRunsEndWithTheSameBytes) {
  const std::string teacher = train("teacher", train::Method::kLora);
  TrainRunOptions whole = student("whole", teacher);
  whole.train.distillation.hidden_kd = whole.train.distillation.contrastive = 0.5;
  run(whole);
  for (const std::int64_t stop : {5, 10}) {
    TrainRunOptions stopped = whole;
    stopped.output_dir = dir_.file("stopped" + std::to_string(stop));
    std::int64_t steps = 0;
    stopped.on_step = [&](const train::StepRecord&) { ++steps; };
    stopped.should_stop = [&] { return steps == stop; };
    EXPECT_TRUE(run(stopped).train.interrupted);
    stopped.should_stop = nullptr;
    run(stopped);
    for (const char* name :
         {"w8/adapter_model.safetensors", "w4/adapter_model.safetensors", "metrics.jsonl"}) {
      EXPECT_TRUE(slurp(whole.output_dir + "/" + name) == slurp(stopped.output_dir + "/" + name))
          << name;
    }
  }
}

TEST_F(TrainTeacher, WhatCannotTeachIsRefusedBeforeAnythingIsWritten) {
  const auto refused = [&](const TrainRunOptions& given) {
    const auto error = error_of([&] { run(given); });
    EXPECT_FALSE(path_exists(given.output_dir));
    return error;
  };
  EXPECT_EQ(refused(student("out", dir_.file("typo"))).kind, ErrorKind::kNotFound);
  TrainRunOptions lora = student("out", kTeacherSelf);
  lora.train.method = train::Method::kLora;
  EXPECT_EQ(refused(lora).kind, ErrorKind::kUsage);
  TrainRunOptions alone = options("out");
  alone.train.method = train::Method::kCpt;
  alone.train.distillation.hidden_kd = 1;
  EXPECT_THAT(refused(alone).message, HasSubstr("add --teacher"));
  // A model with another tokenizer of the same size.
  fs::copy(model(), dir_.file("other"));
  const std::string tokenizer = dir_.file("other/tokenizer.json");
  Json json = read_json_file(tokenizer);
  Json& vocab = json["model"]["vocab"];
  const std::string a = vocab.begin().key(), b = std::next(vocab.begin()).key();
  std::swap(vocab[a], vocab[b]);
  std::ofstream(tokenizer) << json.dump();
  const auto error = refused(student("out", dir_.file("other")));
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("its tokenizer differs from the model's at token"));
}

class SelfText : public TrainTeacher {
 protected:
  SelfText() : pool_(2) {
    Observer silent;
    const ModelHandle handle = open_model(options("x").model, silent);
    execution_ = runtime::Execution::create(
        handle.base, quant::resolve(quant::parse_plan("32"), handle.base->target()), nullptr,
        pool_);
  }
  std::vector<std::vector<std::int32_t>> generate(const SelfTextOptions& given) {
    Observer silent;
    return generate_self_text(*execution_, given, pool_, silent);
  }

  ThreadPool pool_;
  std::shared_ptr<const runtime::Execution> execution_;
};

TEST_F(SelfText, DocumentsAreThoseOfTheGeneratorWhateverTheirCompany) {
  SelfTextOptions given;
  given.tokens = 500;
  given.max_length = 24;
  const auto documents = generate(given);
  std::uint64_t tokens = 0;
  for (const auto& ids : documents) tokens += ids.size();
  EXPECT_GE(tokens, 500U);
  EXPECT_LT(tokens - documents.back().size(), 500U) << "no more than are needed";
  for (const std::size_t at_once : {1, 3}) {
    given.documents_at_once = at_once;
    EXPECT_EQ(generate(given), documents);
  }
  given.seed = 43;
  EXPECT_NE(generate(given), documents);
  // The rule, on the runtime's generator: most likely tokens first, then draws.
  const text::BpeTokenizer tokenizer = text::BpeTokenizer::load(model());
  const RandomStream stream(42, "self_text");
  std::set<std::size_t> greedy_lengths;
  for (std::size_t d = 0; d < documents.size(); ++d) {
    const std::vector<std::int32_t>& ids = documents[d];
    EXPECT_EQ(ids[0], static_cast<std::int32_t>(stream.below(640, d, 0)));
    const std::size_t greedy = 3 + stream.below(3, d, 1);
    greedy_lengths.insert(greedy);
    runtime::GenerateOptions rule;
    rule.max_new_tokens = greedy;
    rule.stop_ids = {0};
    const auto likely =
        runtime::generate(*execution_, tokenizer, std::span(ids).first(1), rule, pool_).ids;
    EXPECT_TRUE(std::equal(likely.begin(), likely.end(), ids.begin() + 1)) << d;
    EXPECT_TRUE(ids.size() == 24 || ids.back() == 0) << "ends at its length or end of text";
    EXPECT_EQ(std::count(ids.begin() + 1, ids.end() - 1, 0), 0);
  }
  EXPECT_EQ(greedy_lengths, (std::set<std::size_t>{3, 4, 5}));
  given.should_stop = [] { return true; };
  EXPECT_EQ(error_of([&] { generate(given); }).kind, ErrorKind::kInterrupted);
}

TEST_F(SelfText, DocumentsBeginWithWhatTheTokenizerPutsBeforeTexts) {
  SelfTextOptions given;
  given.tokens = 300;
  given.max_length = 24;
  given.before = {7, 9};
  const auto documents = generate(given);
  given.documents_at_once = 3;
  EXPECT_EQ(generate(given), documents);
  const text::BpeTokenizer tokenizer = text::BpeTokenizer::load(model());
  const RandomStream stream(42, "self_text");
  for (std::size_t d = 0; d < documents.size(); ++d) {
    const std::vector<std::int32_t>& ids = documents[d];
    ASSERT_GT(ids.size(), 3U);
    EXPECT_EQ(ids[0], 7);
    EXPECT_EQ(ids[1], 9);
    EXPECT_EQ(ids[2], static_cast<std::int32_t>(stream.below(640, d, 0)));
    runtime::GenerateOptions rule;
    rule.max_new_tokens = 3 + stream.below(3, d, 1);
    rule.stop_ids = {0};
    const auto likely =
        runtime::generate(*execution_, tokenizer, std::span(ids).first(3), rule, pool_).ids;
    EXPECT_TRUE(std::equal(likely.begin(), likely.end(), ids.begin() + 3)) << d;
    EXPECT_LE(ids.size(), 24U);
  }
  given.max_length = 3;
  EXPECT_EQ(error_of([&] { generate(given); }).kind, ErrorKind::kUsage);
}

TEST_F(SelfText, FileGivesWhatWasWrittenOrNothing) {
  const std::vector<std::vector<std::int32_t>> documents = {{5, 6}, {1, 2, 3}};
  const std::string path = dir_.file("text");
  EXPECT_FALSE(read_self_text(path, 1).has_value());
  write_self_text(path, 1, documents);
  EXPECT_EQ(read_self_text(path, 1), documents);
  EXPECT_FALSE(read_self_text(path, 2).has_value()) << "of another run";
  std::string text = slurp(path);
  text[text.size() - 3] = '4';
  std::ofstream(path) << text;
  EXPECT_FALSE(read_self_text(path, 1).has_value()) << "changed";
}

TEST_F(SelfText, TrainsWithoutDataAndGoesOnWithTheSameText) {
  TrainRunOptions given = student("whole", model());
  given.train_file = "self";
  given.self_tokens = 300;
  given.task = "lm";
  given.train.distillation.kd_alpha = 1;
  run(given);
  const std::string text = slurp(dir_.file("whole/self_text.jsonl"));
  for (const bool keep : {true, false}) {
    TrainRunOptions stopped = given;
    stopped.output_dir = dir_.file(keep ? "kept" : "lost");
    std::int64_t steps = 0;
    stopped.on_step = [&](const train::StepRecord&) { ++steps; };
    stopped.should_stop = [&] { return steps == 5; };
    EXPECT_TRUE(run(stopped).train.interrupted);
    const std::string path = stopped.output_dir + "/self_text.jsonl";
    EXPECT_TRUE(slurp(path) == text);
    if (!keep) fs::remove(path);
    stopped.should_stop = nullptr;
    run(stopped);
    EXPECT_TRUE(slurp(path) == text) << "written again, with the same bytes";
    EXPECT_TRUE(adapters("whole") == adapters(keep ? "kept" : "lost"));
  }
  // Stopped while the text is written, the same command begins again.
  TrainRunOptions early = given;
  early.output_dir = dir_.file("early");
  early.should_stop = [] { return true; };
  EXPECT_EQ(error_of([&] { run(early); }).kind, ErrorKind::kInterrupted);
  early.should_stop = nullptr;
  run(early);
  EXPECT_TRUE(adapters("whole") == adapters("early"));
  given.task = "qa";
  given.output_dir = dir_.file("qa");
  EXPECT_EQ(error_of([&] { run(given); }).kind, ErrorKind::kUsage);
}

}  // namespace train_teacher_test
}  // namespace qalof::app
