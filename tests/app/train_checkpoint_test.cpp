// Training runs that are killed, meet a broken disk or diverge, on a tiny model, through the same
// function as `qalof train`. QALOF_RELEASE_CHECKS=1 in the environment runs the long forms.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "app/train/checkpoint.h"
#include "core/error.h"
#include "core/file.h"
#include "core/random.h"
#include "io/checkpoint.h"
#include "support/error_of.h"
#include "support/io_faults.h"
#include "tiny_train_run.h"
#include "weights/adapter.h"

namespace qalof::app {
namespace train_checkpoint_test {

using qalof::testing::error_of;
using qalof::testing::IoFaults;
using qalof::testing::SystemCall;
using ::testing::HasSubstr;
using ::testing::Not;

namespace fs = std::filesystem;

bool is_release() { return std::getenv("QALOF_RELEASE_CHECKS") != nullptr; }

class Lines : public Observer {
 public:
  void info(std::string_view line) override { all += std::string(line) + "\n"; }
  void warn(std::string_view line) override { all += "warning: " + std::string(line) + "\n"; }
  std::string all;
};

class TrainCheckpoint : public TinyTrainRun {
 protected:
  // Runs until `step` is done, as if asked to stop then.
  static void run_until(TrainRunOptions options, std::int64_t step) {
    options.should_stop = [path = options.output_dir + "/metrics.jsonl", step] {
      return path_exists(path) && last_step(path) >= step;
    };
    EXPECT_TRUE(run(options).train.interrupted);
  }
  // The last whole line's step; 0 where there is none.
  static std::int64_t last_step(const std::string& metrics) {
    std::ifstream file(metrics);
    std::int64_t step = 0;
    for (std::string line; std::getline(file, line) && !file.eof();) {
      step = Json::parse(line).value("global_step", std::int64_t{0});
    }
    return step;
  }
  // The files that decide what a run has learned, and what it told.
  static void expect_same_output(const std::string& a, const std::string& b) {
    for (const char* name : {"w8/adapter_model.safetensors", "w4/adapter_model.safetensors",
                             "metrics.jsonl", "trainer_state.json", "qalof.json"}) {
      EXPECT_TRUE(slurp(a + "/" + name) == slurp(b + "/" + name)) << name;
    }
  }
  std::int64_t newest(const std::string& output) const {
    Observer silent;
    const auto found = io::newest_checkpoint(dir_.file(output), silent);
    return found ? found->step : 0;
  }
};

TEST_F(TrainCheckpoint, SameCommandGoesOnAndEndsWithTheSameBytes) {
  run(options("whole"));
  EXPECT_EQ(newest("whole"), 15) << "16 steps in two phases";
  for (const std::int64_t stop : {1, 4, 8, 9, 14}) {
    const std::string name = "stopped" + std::to_string(stop);
    run_until(options(name), stop);
    EXPECT_EQ(newest(name), stop);
    Lines lines;
    const TrainRunResult result = run_train(options(name), lines);
    EXPECT_THAT(lines.all, HasSubstr("resuming from " + dir_.file(name) + "/checkpoint-"));
    EXPECT_FALSE(result.train.interrupted);
    expect_same_output(dir_.file("whole"), dir_.file(name));
  }
}

TEST_F(TrainCheckpoint, TheRangeTestIsMadeOnceAndKept) {
  const auto cyclic = [&](const std::string& output) {
    TrainRunOptions given = options(output);
    given.train.method = train::Method::kCpt;
    given.train.widths.num_cyclic_period = 1;
    given.train.schedule.learning_rate = 1e-2;
    given.train.widths.find_min_bits = true;
    return given;
  };
  Lines lines;
  const TrainRunResult whole = run_train(cyclic("whole"), lines);
  EXPECT_THAT(lines.all, HasSubstr("range test, 8 bits: loss "));
  ASSERT_TRUE(whole.range_test.has_value());
  EXPECT_EQ(whole.train.weights.adapters.begin()->first, whole.range_test->min_bits);
  const Json results = read_json_file(dir_.file("whole/all_results.json"));
  EXPECT_EQ(results["range_test"]["min_bits"], whole.range_test->min_bits);
  EXPECT_EQ(results["range_test"]["probes"].size(), whole.range_test->probes.size());
  run_until(cyclic("stopped"), 4);
  Lines later;
  const TrainRunResult resumed = run_train(cyclic("stopped"), later);
  EXPECT_THAT(later.all, Not(HasSubstr("range test, ")));
  EXPECT_EQ(to_json(*resumed.range_test), to_json(*whole.range_test));
  for (const auto& [bits, adapter] : whole.train.weights.adapters) {
    const std::string file = fmt::format("/w{}/adapter_model.safetensors", bits);
    EXPECT_TRUE(slurp(dir_.file("whole") + file) == slurp(dir_.file("stopped") + file)) << bits;
  }
  // It begins where a run that is given the number does: probes leave nothing behind.
  TrainRunOptions given = cyclic("given");
  given.train.widths.find_min_bits = false;
  given.train.widths.min_bits = whole.range_test->min_bits;
  EXPECT_EQ(run(given).train.train_loss, whole.train.train_loss);
  given.train.widths.find_min_bits = true;
  given.train.method = train::Method::kJoint;
  EXPECT_EQ(error_of([&] { run(given); }).kind, ErrorKind::kUsage);
  Json broken = to_json(*whole.range_test);
  broken["min_bits"] = 1;
  EXPECT_EQ(error_of([&] { read_range_test(broken, "test"); }).kind, ErrorKind::kBadInput);
}

TEST_F(TrainCheckpoint, ServesAsAdapterDirectoryAndHoldsTheStateToTheBit) {
  TrainRunOptions given = options("out");
  given.save_total_limit = 2;
  run(given);
  const auto checkpoints = io::list_checkpoints(given.output_dir);
  ASSERT_EQ(checkpoints.size(), 2U);
  EXPECT_EQ(checkpoints[1].step, 12);
  Observer silent;
  const ModelHandle handle = open_model(given.model, silent);
  const weights::AdapterSet set =
      weights::load_adapters(checkpoints[0].path, handle.base->config());
  EXPECT_EQ(set.by_width.size(), 2U);
  // What is written is what is read, NaN of a skipped step included.
  train::RunState state = read_run_state(checkpoints[0].path + "/state.safetensors");
  state.steps[1][2].skipped = true;
  state.steps[1][2].loss = std::numeric_limits<double>::quiet_NaN();
  write_run_state(dir_.file("state"), state);
  const train::RunState again = read_run_state(dir_.file("state"));
  write_run_state(dir_.file("again"), again);
  EXPECT_EQ(slurp(dir_.file("state")), slurp(dir_.file("again")));
  EXPECT_TRUE(std::isnan(again.steps[1][2].loss));
  EXPECT_EQ(again.steps[0].back().phase, "w8");
  EXPECT_EQ(again.steps[1].back().passes.at(0).network, "w4");
  EXPECT_EQ(again.finished.at("w8.0.a").shape, (std::vector<std::size_t>{2, 32}));
}

TEST_F(TrainCheckpoint, AnotherRunIsRefusedByTheDifference) {
  run_until(options("out"), 4);
  TrainRunOptions other = options("out");
  other.flags["--seed"] = 43;
  auto refused = [&](const TrainRunOptions& given) {
    const auto error = error_of([&] { run(given); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    return error.message;
  };
  EXPECT_THAT(refused(other), HasSubstr("--seed was 42 and is now 43"));
  other.resume_from_checkpoint = dir_.file("out/checkpoint-4");
  EXPECT_THAT(refused(other), HasSubstr("--seed was 42 and is now 43"));
  TrainRunOptions data = options("out");
  data.train_file = QALOF_SOURCE_DIR "/assets/nano/data/validation.json";
  EXPECT_THAT(refused(data), HasSubstr("contents of --train_file"));
  qalof::testing::write_model(model(), read_json_file(model() + "/config.json"), /*seed=*/2);
  EXPECT_THAT(refused(options("out")), HasSubstr("base model's weights"));
  EXPECT_EQ(newest("out"), 4) << "refusing touches nothing";
  other.resume_from_checkpoint.clear();
  other.overwrite_output_dir = true;
  EXPECT_EQ(run(other).train.steps, 16);
}

TEST_F(TrainCheckpoint, EveryFileWhoseBytesDecideTheWindowsIsPartOfTheRun) {
  const std::string line = R"({"prompt": "Where is Hugo?", "completion": "in the garden"})"
                           "\n";
  const auto write = [&](const std::string& name, const std::string& text) {
    write_file_atomic(dir_.file(name), text);
  };
  const std::string plain = text::kPlainChatTemplate;
  write("train.jsonl", line + line);
  write("more.jsonl", line);
  write("template.jinja", plain);
  const auto chats = [&] {
    TrainRunOptions given = options("out");
    given.task = "chat";
    given.train_file = dir_.file("train.jsonl");
    given.tasks.get<tasks::Chat>().chat_template = dir_.file("template.jinja");
    given.tasks.get<tasks::Chat>().mix = {dir_.file("more.jsonl") + ":2"};
    return given;
  };
  run_until(chats(), 4);
  const auto refused = [&] {
    const auto error = error_of([&] { run(chats()); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    EXPECT_EQ(newest("out"), 4) << "refusing touches nothing";
    return error.message;
  };
  write("more.jsonl", line + line);
  EXPECT_THAT(refused(), HasSubstr("the contents of --mix differ"));
  write("more.jsonl", line);
  write("template.jinja", "x" + plain);
  EXPECT_THAT(refused(), HasSubstr("the chat template differs"));
  write("template.jinja", plain);
  const std::string tokenizer = model() + "/tokenizer.json";
  const std::string bytes = slurp(tokenizer);
  write_file_atomic(tokenizer, bytes + "\n");
  EXPECT_THAT(refused(), HasSubstr("the tokenizer differs"));
  write_file_atomic(tokenizer, bytes);
  write("train.jsonl", line + line + line);
  EXPECT_THAT(refused(), HasSubstr("the contents of --train_file differ"));
  write("train.jsonl", line + line);
  EXPECT_EQ(run(chats()).train.steps, 16) << "what is as it was goes on";
}

TEST_F(TrainCheckpoint, ExplicitOneDiscardsLaterOnes) {
  run(options("out"));
  fs::copy(dir_.file("out"), dir_.file("copy"), fs::copy_options::recursive);
  TrainRunOptions given = options("out");
  given.resume_from_checkpoint = dir_.file("out/checkpoint-6");
  given.should_stop = [] { return true; };
  run(given);
  EXPECT_EQ(newest("out"), 6);
  EXPECT_EQ(last_step(dir_.file("out/metrics.jsonl")), 6) << "cut back";
  given.should_stop = nullptr;
  run(given);
  expect_same_output(dir_.file("copy"), dir_.file("out"));
  // Into a directory of its own.
  TrainRunOptions moved = options("moved");
  moved.resume_from_checkpoint = dir_.file("copy/checkpoint-9");
  run(moved);
  expect_same_output(dir_.file("copy"), dir_.file("moved"));
  EXPECT_EQ(io::list_checkpoints(dir_.file("copy")).size(), 5U);
}

TEST_F(TrainCheckpoint, WhatIsNotThereOrNotWholeIsRefused) {
  TrainRunOptions given = options("out");
  given.resume_from_checkpoint = dir_.file("out/checkpoint-3");
  EXPECT_EQ(error_of([&] { run(given); }).kind, ErrorKind::kNotFound);
  given.resume_from_checkpoint = "auto";
  EXPECT_EQ(error_of([&] { run(given); }).kind, ErrorKind::kNotFound);
  run_until(options("out"), 4);
  fs::resize_file(dir_.file("out/checkpoint-4/state.safetensors"), 1'000);
  given.resume_from_checkpoint = dir_.file("out/checkpoint-4");
  EXPECT_EQ(error_of([&] { run(given); }).kind, ErrorKind::kCorruptFile);
  Lines lines;
  run_train(options("out"), lines);
  EXPECT_THAT(lines.all, HasSubstr("warning: checkpoint passed over"));
  EXPECT_THAT(lines.all, HasSubstr("checkpoint-3 after step 3"));
}

TEST_F(TrainCheckpoint, EveryBitFlipIsFoundBeforeUse) {
  run_until(options("out"), 10);
  const std::string root = dir_.file("out/checkpoint-10");
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (entry.is_regular_file()) files.push_back(entry.path().string());
  }
  const RandomStream stream(5, "flips");
  for (std::uint64_t round = 0; round < 1'000; ++round) {
    const std::string& path = files[stream.below(files.size(), round, 0)];
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto at = static_cast<std::streamoff>(stream.below(fs::file_size(path), round, 1));
    const int bit = static_cast<int>(stream.below(8, round, 2));
    auto flip = [&] {
      file.seekg(at);
      const int byte = file.get();
      file.seekp(at);
      file.put(static_cast<char>(byte ^ 1 << bit));
      file.flush();
    };
    flip();
    ASSERT_EQ(error_of([&] { io::verify_checkpoint(root); }).kind, ErrorKind::kCorruptFile)
        << path << " byte " << at << " bit " << bit;
    flip();
  }
  EXPECT_EQ(io::verify_checkpoint(root), 10);
}

// A child trains; it is killed at random times and started again with the same options.
TEST_F(TrainCheckpoint, KilledAtRandomTimesItGoesOnAndLosesAtMostOneInterval) {
  TrainRunOptions given = options("killed");
  given.train.schedule.max_steps = is_release() ? 6'000 : 600;
  given.train.logging.save_steps = 5;
  given.save_total_limit = 2;
  const int kills = is_release() ? 1'000 : 50;
  const RandomStream stream(9, "kills");
  const std::string metrics = given.output_dir + "/metrics.jsonl";
  // How long a child needs to its first checkpoint, on this machine as busy as it is.
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  TrainRunOptions probe = options("probe");
  probe.train.schedule.max_steps = 5;
  run(probe);
  const auto first = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start);
  bool finished = false;
  int done = 0;
  for (; done < kills && !finished; ++done) {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        run(given);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        ::_exit(1);
      }
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(stream.below(2 * static_cast<std::uint64_t>(first.count()),
                                                  static_cast<std::uint64_t>(done), 0)));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0) << "round " << done;
      finished = true;
      break;
    }
    const std::int64_t reached = path_exists(metrics) ? last_step(metrics) : 0;
    ASSERT_GE(newest("killed"), reached - given.train.logging.save_steps) << "round " << done;
  }
  RecordProperty("kills", done);
  EXPECT_GT(newest("killed"), 0);
  EXPECT_GE(done, is_release() ? 100 : 10);
  std::printf("%d kills, step %ld reached\n", done, static_cast<long>(newest("killed")));
  if (!finished) run(given);
  TrainRunOptions whole = options("whole");
  whole.train = given.train;
  run(whole);
  expect_same_output(whole.output_dir, given.output_dir);
}

// The disk fails at the k-th call, once or from then on, in a run that goes on from a checkpoint.
TEST_F(TrainCheckpoint, WhateverCallFailsTheRunSaysSoAndThePreviousCheckpointLoads) {
  run_until(options("start"), 6);
  for (const SystemCall call : {SystemCall::kOpen, SystemCall::kWrite, SystemCall::kFsync,
                                SystemCall::kRename, SystemCall::kMkdir}) {
    for (const bool lasting : {false, true}) {
      const int stride = lasting && !is_release() ? 7 : 1;
      int k = 0;
      for (bool failed = true; failed; k += stride) {
        fs::remove_all(dir_.file("out"));
        fs::copy(dir_.file("start"), dir_.file("out"), fs::copy_options::recursive);
        TrainRunOptions given = options("out");
        given.train.schedule.max_steps = 8;
        int steps = 0;
        given.on_step = [&](const train::StepRecord&) { ++steps; };
        given.should_stop = [&] { return steps == 4; };  // steps 7 to 10, checkpoints 9 and 10
        ErrorKind kind{};
        failed = false;
        {
          const IoFaults faults(call, k, call == SystemCall::kWrite ? ENOSPC : EROFS,
                                given.output_dir, lasting);
          try {
            run(given);
          } catch (const Error& error) {
            failed = true;
            kind = error.kind();
          }
          ASSERT_EQ(failed, faults.calls() > k) << "call " << k << ": a failure passed unseen";
        }
        if (failed) {
          ASSERT_EQ(kind, ErrorKind::kResource);
        }
        ASSERT_GE(newest("out"), 6);
        if (k % 10 != 0 && !is_release()) continue;
        run_until(options("out"), 12);
      }
      std::printf("%d calls of kind %d\n", k, static_cast<int>(call));
    }
  }
}

TEST_F(TrainCheckpoint, DivergenceLeavesTheLastGoodCheckpointFinite) {
  TrainRunOptions given = options("out");
  given.train.logging.save_steps = 2;
  given.on_gradients = [](std::int64_t step, std::span<float> gradients) {
    if (step >= 6) gradients[0] = std::numeric_limits<float>::infinity();
  };
  EXPECT_EQ(error_of([&] { run(given); }).kind, ErrorKind::kDiverged);
  EXPECT_FALSE(path_exists(dir_.file("out/qalof.json"))) << "nothing of it is handed out";
  ASSERT_GE(newest("out"), 4);
  const train::RunState state =
      read_run_state(io::list_checkpoints(given.output_dir).front().path + "/state.safetensors");
  for (const auto* values : {&state.values, &state.optimizer.mean, &state.optimizer.square}) {
    for (const float value : *values) ASSERT_TRUE(std::isfinite(value));
  }
  // Without the cause it goes on.
  given.on_gradients = nullptr;
  EXPECT_EQ(run(given).train.steps, 16);
}

TEST_F(TrainCheckpoint, EventsAreWrittenWhereAskedForAndRestartAtTheStep) {
  TrainRunOptions given = options("out");
  given.log_events = true;
  given.train.method = train::Method::kLora;
  given.validation_file = QALOF_SOURCE_DIR "/assets/nano/data/validation.json";
  given.max_eval_samples = 2;
  run_until(given, 5);
  run(given);
  std::size_t files = 0;
  std::string text;
  for (const auto& entry : fs::directory_iterator(dir_.file("out/runs"))) {
    text += slurp(entry.path().string());
    ++files;
  }
  EXPECT_EQ(files, 2U);
  for (const char* tag : {"train/loss", "train/learning_rate", "eval/w32_f1"}) {
    EXPECT_THAT(text, HasSubstr(tag));
  }
  const Json state = read_json_file(dir_.file("out/trainer_state.json"));
  EXPECT_EQ(state["global_step"], 8);
  EXPECT_EQ(state["max_steps"], 8);
  EXPECT_EQ(state["log_history"].size(), 9U);
  EXPECT_EQ(state["log_history"].back()["eval_f1"], state["best_metric"]);
}

}  // namespace train_checkpoint_test
}  // namespace qalof::app
