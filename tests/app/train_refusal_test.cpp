// What a refused training leaves behind: nothing, with every method, whatever is found wrong first.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "core/error.h"
#include "support/error_of.h"
#include "tiny_train_run.h"

namespace qalof::app {
namespace train_refusal_test {

namespace fs = std::filesystem;
using qalof::testing::error_of;

class TrainRefusal : public TinyTrainRun {
 protected:
  std::string put(const std::string& name, const std::string& text) {
    std::ofstream(dir_.file(name), std::ios::binary) << text;
    return dir_.file(name);
  }
  // Every file below the directory, with its contents.
  std::map<std::string, std::string> all_files() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(dir_.path())) {
      const std::string path = entry.path().string();
      files[path] = entry.is_directory() ? "directory" : slurp(path);
    }
    return files;
  }

  struct Fault {
    const char* name;
    std::function<void(TrainRunOptions&)> make;
    bool on_adapters_alone = false;
  };
  // From what flags show to what only the trainer finds.
  std::vector<Fault> faults() {
    const std::string no_json = put("no.json", "{"),
                      half = put("half.json", R"({"version": "1.1", "data": [{"title": "t"}]})"),
                      empty = put("empty.json", R"({"version": "1.1", "data": []})"),
                      latin = put("latin.txt", "caf\xe9\n"), word = put("word.txt", "");
    const auto lm = [](TrainRunOptions& run, const std::string& file) {
      run.task = "lm";
      run.train_file = file;
    };
    return {
        {"no file", [=](TrainRunOptions& run) { run.train_file = "absent.json"; }},
        {"no JSON", [=](TrainRunOptions& run) { run.train_file = no_json; }},
        {"half a record", [=](TrainRunOptions& run) { run.train_file = half; }},
        {"no record", [=](TrainRunOptions& run) { run.train_file = empty; }},
        {"no UTF-8", [=](TrainRunOptions& run) { lm(run, latin); }},
        {"no window", [=](TrainRunOptions& run) { lm(run, word); }},
        {"no model", [=](TrainRunOptions& run) { run.model.model = "absent"; }},
        {"no checkpoint", [=](TrainRunOptions& run) { run.resume_from_checkpoint = "auto"; }},
        {"no device", [=](TrainRunOptions& run) { run.train.device = train::Device::kCuda; }},
        {"no rank", [=](TrainRunOptions& run) { run.train.adapters.lora_r = 0; }, true},
        {"no batch", [=](TrainRunOptions& run) { run.train.schedule.batch_size = 0; }},
        {"no teacher", [=](TrainRunOptions& run) { run.teacher = "absent"; }},
    };
  }
};

constexpr train::Method kMethods[] = {
    train::Method::kFull, train::Method::kLora,   train::Method::kSwitch,    train::Method::kJoint,
    train::Method::kCpt,  train::Method::kRandom, train::Method::kCurriculum};

TEST_F(TrainRefusal, MakesNoDirectory) {
  const auto list = faults();
  const auto before = all_files();
  for (const train::Method method : kMethods) {
    for (const Fault& fault : list) {
      if (fault.on_adapters_alone && method == train::Method::kFull) continue;
      TrainRunOptions given = options("out/deep/er");
      given.train.method = method;
      fault.make(given);
      const auto error = error_of([&] { run(given); });
      EXPECT_NE(error.kind, ErrorKind::kInternal) << error.message;
      EXPECT_EQ(all_files(), before) << train::to_string(method) << ", " << fault.name;
    }
  }
}

TEST_F(TrainRefusal, LeavesAnEarlierRunAsItIsThoughItIsToBeReplaced) {
  const auto list = faults();
  TrainRunOptions whole = options("out");
  run(whole);
  const auto before = all_files();
  ASSERT_FALSE(before.contains(dir_.file("out/.lock")));
  for (const Fault& fault : list) {
    TrainRunOptions given = options("out");
    given.overwrite_output_dir = true;
    given.model.threads = 1;
    fault.make(given);
    if (fault.name == std::string("no checkpoint")) continue;  // there are some
    error_of([&] { run(given); });
    EXPECT_EQ(all_files(), before) << fault.name;
  }
}

}  // namespace train_refusal_test
}  // namespace qalof::app
