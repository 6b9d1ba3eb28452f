// Training on conversations, with a tiny model: every method, resumed from a checkpoint to the same
// bytes, and with teachers or text of the model's own.
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "support/error_of.h"
#include "tiny_train_run.h"

namespace qalof::app {
namespace chat_train_test {

using qalof::testing::error_of;
using ::testing::HasSubstr;
using train::Method;

struct Kind {
  const char* name;
  Method method;
  train::AdapterForm form = train::AdapterForm::kSeparate;
};

class ChatTrain : public TinyTrainRun {
 protected:
  TrainRunOptions chats(const std::string& output, Method method = Method::kSwitch) const {
    TrainRunOptions given = options(output);
    given.task = "chat";
    given.tasks.get<tasks::Chat>().chat_template = "plain";
    given.train_file = QALOF_SOURCE_DIR "/assets/nano/data/chat_train.jsonl";
    given.max_seq_length = 64;
    given.train.method = method;
    given.train.schedule.max_steps = 8;
    given.train.logging.save_steps = 0;
    return given;
  }
  // All weights that a run wrote, by file.
  std::string weights(const std::string& output) const {
    const std::string directory = dir_.file(output);
    std::set<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
      const std::string name = entry.path().string().substr(directory.size());
      if (name.ends_with(".safetensors") && name.find("checkpoint") == name.npos)
        files.insert(name);
    }
    std::string all;
    for (const std::string& file : files) all += file + slurp(directory + file);
    return all;
  }
};

class ChatMethods : public ChatTrain, public ::testing::WithParamInterface<Kind> {};

TEST_P(ChatMethods, LearnsAndGoesOnToTheSameBytes) {
  const auto kind = [&](const std::string& output) {
    TrainRunOptions given = chats(output, GetParam().method);
    given.train.adapters.adapter_form = GetParam().form;
    if (GetParam().form == train::AdapterForm::kCascaded) given.train.adapters.lora_r = 4;
    if (GetParam().method == Method::kCpt) given.train.widths.num_cyclic_period = 1;
    given.validation_file = QALOF_SOURCE_DIR "/assets/nano/data/chat_validation.jsonl";
    given.max_eval_samples = 4;
    given.train.schedule.learning_rate = 1e-2;
    return given;
  };
  const TrainRunResult whole = run(kind("whole"));
  for (const train::PhaseHistory& phase : whole.train.phases) {
    ASSERT_GE(phase.steps.size(), 8U);
    for (const train::StepRecord& step : phase.steps) EXPECT_TRUE(std::isfinite(step.loss));
  }
  ASSERT_FALSE(whole.scores.empty());
  for (const WidthScore& score : whole.scores)
    EXPECT_LT(score.scores.at("eval_loss"), 20) << score.precision;  // NaN fails
  TrainRunOptions stopped = kind("stopped");
  std::int64_t steps = 0;
  stopped.on_step = [&](const train::StepRecord&) { ++steps; };
  stopped.should_stop = [&] { return steps >= 3; };
  EXPECT_TRUE(run(stopped).train.interrupted);
  const TrainRunResult resumed = run(kind("stopped"));
  EXPECT_EQ(resumed.train.steps, whole.train.steps);
  EXPECT_TRUE(weights("whole") == weights("stopped"));
  EXPECT_FALSE(weights("whole").empty());
}

INSTANTIATE_TEST_SUITE_P(
    Each, ChatMethods,
    ::testing::Values(Kind{"full", Method::kFull}, Kind{"lora", Method::kLora},
                      Kind{"switch", Method::kSwitch}, Kind{"joint", Method::kJoint},
                      Kind{"joint_cascaded", Method::kJoint, train::AdapterForm::kCascaded},
                      Kind{"joint_merged", Method::kJoint, train::AdapterForm::kMerged},
                      Kind{"cpt", Method::kCpt}, Kind{"random", Method::kRandom},
                      Kind{"curriculum", Method::kCurriculum}),
    [](const auto& kind) { return kind.param.name; });

TEST_F(ChatTrain, LearnsFromATeacher) {
  run(chats("alone"));
  run(chats("teacher", Method::kLora));
  TrainRunOptions taught = chats("taught");
  taught.teacher = dir_.file("teacher");
  run(taught);
  EXPECT_TRUE(weights("alone") != weights("taught"));
  TrainRunOptions own = chats("own", Method::kRandom);
  own.teacher = "self";
  own.train.schedule.max_steps = 4;
  EXPECT_EQ(run(own).train.steps, 4);
}

TEST_F(ChatTrain, LearnsFromTextThatTheModelWrites) {
  TrainRunOptions given = chats("self");
  given.train_file = "self";
  given.self_tokens = 200;
  given.max_train_samples = 0;
  given.train.schedule.max_steps = 2;
  EXPECT_EQ(run(given).train.steps, 4);
  TrainRunOptions mixed = given;
  mixed.output_dir = dir_.file("mixed");
  mixed.tasks.get<tasks::Chat>().mix = {QALOF_SOURCE_DIR "/assets/nano/data/chat_train.jsonl"};
  const auto error = error_of([&] { run(mixed); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_THAT(error.message, HasSubstr("--mix"));
}

TEST_F(ChatTrain, RefusesToMoveEmbeddingsOfConversations) {
  TrainRunOptions given = chats("out");
  given.train.adversarial.steps = 2;
  given.train.adversarial.epsilon = 0.1;
  const auto error = error_of([&] { run(given); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("--task lm and chat"));
}

TEST_F(ChatTrain, BadLinesAreCountedOrEndTheRunByTheirNumber) {
  write_file_atomic(dir_.file("bad.jsonl"),
                    "{\"prompt\": \"a\", \"completion\": \"b\"}\n{broken\n"
                    "{\"prompt\": \"c\", \"completion\": \"d\"}\n[]\n");
  TrainRunOptions given = chats("out");
  given.train_file = dir_.file("bad.jsonl");
  EXPECT_THAT(error_of([&] { run(given); }).message, HasSubstr("bad.jsonl: line 2"));
  class Warnings : public Observer {
   public:
    void warn(std::string_view line) override { all += std::string(line) + "\n"; }
    std::string all;
  } warnings;
  given.tasks.get<tasks::Chat>().skip_bad_lines = true;
  given.output_dir = dir_.file("skipping");
  run_train(given, warnings);
  EXPECT_THAT(warnings.all, HasSubstr("2 of 4 lines cannot be read and are left out, the first: "));
}

}  // namespace chat_train_test
}  // namespace qalof::app
