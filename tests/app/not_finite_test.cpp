// Numbers that are not finite: an error of every command that would make a score, a file or a token
// of them; and numbers of flags that cannot be, refused before anything is written.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "app/eval.h"
#include "app/generate.h"
#include "app/quantize.h"
#include "app/sensitivity/sensitivity.h"
#include "app/train/self_text.h"
#include "io/adapter_dir.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"
#include "tiny_train_run.h"

namespace qalof::app {
namespace not_finite_test {

using qalof::testing::error_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kQuestions = QALOF_SOURCE_DIR "/assets/nano/data/validation.json";

class NotFinite : public TinyTrainRun {
 protected:
  NotFinite() {
    std::ofstream(dir_.file("text.txt")) << "Anna has a red ball. Ben has a blue hat.\n";
    std::ofstream(dir_.file("texts.tsv")) << "sentence\tlabel\nred ball\t1\nblue hat\t0\n";
  }

  // Adapters and heads of finite numbers that overflow.
  std::string broken(weights::HeadKind task) const {
    const auto base = weights::BaseModel::load_directory(model());
    weights::Adapter adapter = qalof::testing::overflowing_adapter(*base);
    if (task == weights::HeadKind::kSpan) adapter.qa_head = base->qa_head();
    if (task == weights::HeadKind::kClass) {
      adapter.class_head =
          weights::Head{2, std::vector<float>(2 * base->config().hidden, 0.5F), {}};
    }
    const std::string path = dir_.file("broken-" + to_string(task));
    weights::save_adapter(path + "/w8", adapter, base->config(), task, "tiny");
    io::AdapterDir described;
    described.base_id = "tiny";
    described.adapters[8] = "w8";
    if (task != weights::HeadKind::kLm) described.heads[8] = "w8";
    io::write_adapter_dir(path, described);
    return path;
  }
  ModelOptions broken_model(weights::HeadKind task) const {
    ModelOptions options;
    options.model = model();
    options.adapter = broken(task);
    options.precision = "32";
    options.threads = 2;
    return options;
  }
  void expect_diverged(const std::function<void()>& run, const std::vector<std::string>& words) {
    const auto error = error_of(run);
    EXPECT_EQ(error.kind, ErrorKind::kDiverged) << error.message;
    for (const std::string& word : words) EXPECT_THAT(error.message, HasSubstr(word));
  }

  Observer silent_;
};

TEST_F(NotFinite, EvalNamesWhatItScored) {
  EvalOptions options;
  const auto run = [&](weights::HeadKind task, const std::string& file) {
    options.model = broken_model(task);
    options.task = to_string(task);
    options.data.file = file;
    if (task != weights::HeadKind::kLm) options.data.max_seq_length = 48;
    options.tasks.get<tasks::Qa>().doc_stride = 16;
    return [&] { run_eval(options, Processes(silent_)); };
  };
  expect_diverged(run(weights::HeadKind::kLm, dir_.file("text.txt")),
                  {"text.txt: token 2 of ", "the loss is ", "w32a32"});
  expect_diverged(run(weights::HeadKind::kClass, dir_.file("texts.tsv")),
                  {"texts.tsv: text 1 at ", "a logit is "});
  expect_diverged(run(weights::HeadKind::kSpan, kQuestions),
                  {"validation.json: question ", "a logit is "});
}

TEST_F(NotFinite, SensitivityNamesTheSample) {
  SensitivityOptions options;
  options.model = broken_model(weights::HeadKind::kSpan);
  options.model.precision.clear();
  options.high = "32";
  options.low = {8};
  options.data.file = kQuestions;
  options.data.max_samples = 3;
  options.data.max_seq_length = 48;
  options.tasks.get<tasks::Qa>().doc_stride = 16;
  expect_diverged([&] { measure_sensitivity(options, silent_); },
                  {"validation.json: question ", "a logit is "});
}

TEST_F(NotFinite, GenerateAndSelfTextChooseNoToken) {
  GenerateOptions options;
  options.model = broken_model(weights::HeadKind::kLm);
  options.prompt = "red";
  std::string text;
  expect_diverged(
      [&] {
        run_generate(
            options,
            [&](std::string_view piece) {
              text += piece;
              return true;
            },
            silent_);
      },
      {"token 1 of the text"});
  EXPECT_EQ(text, "");
  const ModelHandle handle = open_model(options.model, silent_);
  ThreadPool pool(2);
  SelfTextOptions self;
  self.tokens = 20;
  self.max_length = 8;
  expect_diverged(
      [&] { generate_self_text(*make_execution(handle, pool, silent_), self, pool, silent_); },
      {"--train_file self: document 1, token 2"});
}

TEST_F(NotFinite, CalibrationNamesTheLinear) {
  for (const PtqMethod method : {PtqMethod::kGptq, PtqMethod::kSmoothQuant}) {
    QuantizeOptions options;
    options.model = broken_model(weights::HeadKind::kLm);
    options.model.precision = method == PtqMethod::kGptq ? "w4a16" : "w8a8";
    options.ptq = method;
    options.calibration.data.file = dir_.file("text.txt");
    options.calibration.task = "lm";
    options.output = dir_.file("out.qalof");
    expect_diverged([&] { run_quantize(options, Processes(silent_)); },
                    {"--calibration_file: h.0.", "input"});
    EXPECT_FALSE(path_exists(options.output));
  }
}

TEST_F(NotFinite, TrainingWhoseEveryStepIsSkippedWritesNoWeights) {
  TrainRunOptions given = options("out");
  given.train.schedule.max_steps = 3;
  given.train.logging.save_steps = 0;
  given.on_gradients = [](std::int64_t, std::span<float> gradients) {
    gradients[0] = std::numeric_limits<float>::quiet_NaN();
  };
  const auto error = error_of([&] { run(given); });
  EXPECT_EQ(error.kind, ErrorKind::kDiverged);
  EXPECT_THAT(error.message, AllOf(HasSubstr("all of its 3 steps were skipped"),
                                   HasSubstr("no weights are written")));
  for (const char* file : {"out/qalof.json", "out/w8", "out/all_results.json"})
    EXPECT_FALSE(path_exists(dir_.file(file))) << file;
}

TEST_F(NotFinite, ADivergedRunSaysWhatIsLeft) {
  TrainRunOptions given = options("out");
  given.train.logging.save_steps = 2;
  given.on_gradients = [](std::int64_t step, std::span<float> gradients) {
    if (step > 2) gradients[0] = std::numeric_limits<float>::infinity();
  };
  const auto error = error_of([&] { run(given); });
  EXPECT_EQ(error.kind, ErrorKind::kDiverged);
  EXPECT_THAT(error.message, HasSubstr("the newest of which is " + dir_.file("out/checkpoint-")));
  EXPECT_FALSE(path_exists(dir_.file("out/qalof.json")));
}

TEST_F(NotFinite, SkippedStepsAreInTheResult) {
  TrainRunOptions given = options("out");
  given.train.method = train::Method::kJoint;
  given.on_gradients = [](std::int64_t step, std::span<float> gradients) {
    if (step == 3) gradients[0] = std::numeric_limits<float>::quiet_NaN();
  };
  const Json json = to_json(run(given));
  EXPECT_EQ(json["skipped_steps"], 1);
  EXPECT_EQ(json["phases"][0]["skipped_steps"], 1);
  EXPECT_EQ(json["phases"][0]["networks"][1]["skipped_steps"], 1);
  EXPECT_EQ(read_json_file(dir_.file("out/all_results.json"))["skipped_steps"], 1);
}

// What the validation file shows during training has the point of the run in front.
TEST_F(NotFinite, EvaluationDuringTrainingNamesTheStep) {
  TrainRunOptions given = options("out");
  given.train.method = train::Method::kFull;
  given.train.schedule.max_steps = 1;
  given.train.schedule.warmup_steps = 0;
  given.train.schedule.learning_rate = 1e30;
  given.validation_file = kQuestions;
  given.max_eval_samples = 2;
  expect_diverged([&] { run(given); },
                  {"phase full step 1: ", "question ", "no weights are written"});
  EXPECT_FALSE(path_exists(dir_.file("out/model.safetensors")));
}

TEST_F(NotFinite, FlagsThatCannotBeAreRefusedBeforeAnythingIsWritten) {
  using Set = std::function<void(TrainRunOptions&)>;
  const std::pair<const char*, Set> cases[] = {
      {"--num_train_epochs: found 0",
       [](auto& o) {
         o.train.schedule.max_steps = 0;
         o.train.schedule.num_train_epochs = 0;
       }},
      {"--num_train_epochs: found 1e+300",
       [](auto& o) { o.train.schedule.num_train_epochs = 1e300; }},
      {"--learning_rate: found 0", [](auto& o) { o.train.schedule.learning_rate = 0; }},
      {"--learning_rate: found -1", [](auto& o) { o.train.schedule.learning_rate = -1; }},
      {"--learning_rate: found nan", [](auto& o) { o.train.schedule.learning_rate = NAN; }},
      {"--learning_rate: found 1e+300", [](auto& o) { o.train.schedule.learning_rate = 1e300; }},
      {"--max_steps: found -1", [](auto& o) { o.train.schedule.max_steps = -1; }},
      {"--logging_steps: found 0", [](auto& o) { o.train.logging.logging_steps = 0; }},
      {"--eval_steps: found -1", [](auto& o) { o.train.logging.eval_steps = -1; }},
      {"--save_steps: found -1", [](auto& o) { o.train.logging.save_steps = -1; }},
      {"--lora_r: found 0", [](auto& o) { o.train.adapters.lora_r = 0; }},
      {"--per_device_train_batch_size: found 0", [](auto& o) { o.train.schedule.batch_size = 0; }},
      {"--max_seq_length: found 0", [](auto& o) { o.max_seq_length = 0; }},
      {"--doc_stride 47 leaves no room",
       [](auto& o) { o.tasks.template get<tasks::Qa>().doc_stride = 47; }},
      {"--kd_temperature: found 0", [](auto& o) { o.train.distillation.kd_temperature = 0; }},
      {"--max_grad_norm: found -1", [](auto& o) { o.train.schedule.max_grad_norm = -1; }},
      {"--self_tokens: found 0",
       [](auto& o) {
         o.train_file = "self";
         o.task = "lm";
         o.self_tokens = 0;
       }},
  };
  for (const auto& [words, set] : cases) {
    TrainRunOptions given = options("out");
    set(given);
    const auto error = error_of([&] { run(given); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage) << words;
    EXPECT_THAT(error.message, HasSubstr(words));
    EXPECT_FALSE(path_exists(dir_.file("out"))) << words;
  }
  // What only the data shows leaves a directory that the next run may take.
  TrainRunOptions given = options("out");
  given.train.schedule.max_steps = 0;
  given.train.schedule.num_train_epochs = 9e8;
  EXPECT_THAT(error_of([&] { run(given); }).message, HasSubstr("--num_train_epochs: found 9"));
  given.train.method = train::Method::kCpt;
  given.train.schedule.num_train_epochs = 1;
  EXPECT_THAT(error_of([&] { run(given); }).message, HasSubstr("--num_cyclic_period"));
  EXPECT_FALSE(path_exists(dir_.file("out/run.json")));
  run(options("out"));
}

// A batch larger than the data is the data.
TEST_F(NotFinite, HugeBatchTakesWhatThereIs) {
  TrainRunOptions given = options("out");
  given.train.schedule.max_steps = 1;
  given.train.schedule.batch_size = 1'000'000;
  const TrainRunResult result = run(given);
  EXPECT_EQ(result.train.steps, 2) << "one for each width";
}

}  // namespace not_finite_test
}  // namespace qalof::app
