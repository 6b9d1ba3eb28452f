// Runs the demo's trainings and evaluations one after the other and writes its report.
#include "app/demo.h"

#include <chrono>
#include <filesystem>

#include "app/train/run.h"
#include "core/error.h"
#include "core/file.h"
#include "core/statistics.h"
#include "report/report.h"
#include "runtime/footprint.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

// The recipe; docs/demo.md says how it was chosen.
constexpr std::int64_t kSteps = 400;
constexpr std::int64_t kFullSteps = 400;
constexpr double kLoraRate = 5e-3;
constexpr double kFullRate = 1e-3;
constexpr std::size_t kWindow = 256;
constexpr std::size_t kStride = 64;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Those that were installed with the program, else those of the source.
std::string shipped_assets() {
  std::error_code unknown;
  const fs::path installed = fs::read_symlink("/proc/self/exe", unknown).parent_path() / ".." /
                             "share" / "qalof" / "assets" / "nano";
  return !unknown && fs::exists(installed) ? installed.lexically_normal().string()
                                           : std::string(QALOF_ASSETS_DIR) + "/nano";
}

std::string find_assets(const std::string& given) {
  const std::string path = given.empty() ? shipped_assets() : given;
  QALOF_CHECK(fs::exists(fs::path(path) / "model" / "config.json"), ErrorKind::kNotFound,
              "{}: holds no nano model; give the directory with --assets", path);
  return path;
}

// Runs the demo's trainings and evaluations and collects their rows.
class Demo {
 public:
  Demo(const DemoOptions& options, Observer& observer)
      : options_(options),
        observer_(observer),
        assets_(find_assets(options.assets)),
        pool_(choose_threads(options.threads)),
        directory_(options.output_dir) {}

  void train_and_score_all() {
    const std::string full = train("full", train::Method::kFull, kFullSteps, kFullRate);
    add_row("full fine-tuning", full, "", "32", training_seconds_);
    const std::string lora =
        train("lora", train::Method::kLora, options_.lora_steps > 0 ? options_.lora_steps : kSteps,
              kLoraRate);
    add_row("FP LoRA", model(), lora, "32", training_seconds_);
    add_row("PTQ 8", model(), lora, "8", 0);
    add_row("PTQ 4", model(), lora, "4", 0);
    const std::string switched = train("switch", train::Method::kSwitch, kSteps, kLoraRate);
    add_row("adapter 8", model(), switched, "8", phase_seconds_.at(0));
    add_row("adapter 4", model(), switched, "4", phase_seconds_.at(1));
    add_row("hybrid", model(), switched, write_hybrid_plan(), 0);
    measure_switch(switched);
  }

  DemoResult finish(double seconds) {
    result_.seconds = seconds;
    write_results();
    return std::move(result_);
  }

 private:
  std::string model() const { return assets_ + "/model"; }
  std::string data(const char* name) const { return assets_ + "/data/" + name; }

  std::string train(const std::string& name, train::Method method, std::int64_t steps,
                    double rate) {
    observer_.info(fmt::format("training: {}", train::to_string(method)));
    TrainRunOptions options;
    options.model.model = model();
    options.model.threads = options_.threads;
    options.train_file = data("train.json");
    options.output_dir = options_.output_dir + "/" + name;
    options.overwrite_output_dir = true;
    options.max_seq_length = kWindow;
    options.tasks.get<tasks::Qa>().doc_stride = kStride;
    options.train.method = method;
    options.train.schedule.max_steps = steps;
    options.train.schedule.learning_rate = rate;
    options.train.seed = options_.seed;
    options.train.quantizers.gradient_bits = 32;  // a model this small gains no speed from fewer
    options.should_stop = options_.should_stop;
    commands_.push_back(fmt::format(
        "qalof train --method {} --model_name_or_path {} --train_file {} --output_dir {} "
        "--max_seq_length {} --doc_stride {} --max_steps {} --learning_rate {} --seed {} "
        "--gradient_bits {}",
        train::to_string(method), options.model.model, options.train_file, options.output_dir,
        kWindow, kStride, steps, rate, options_.seed, options.train.quantizers.gradient_bits));
    const TrainRunResult result = run_train(options, observer_);
    if (result.train.interrupted)
      fail(ErrorKind::kInterrupted, "demo stopped while training {}", name);
    phase_seconds_.clear();
    training_seconds_ = 0;
    for (const train::PhaseHistory& phase : result.train.phases) {
      phase_seconds_.push_back(phase.seconds);
      training_seconds_ += phase.seconds;
    }
    return options.output_dir;
  }

  ModelHandle open(const std::string& model_path, const std::string& adapter,
                   const std::string& precision) {
    ModelOptions options;
    options.model = model_path;
    options.adapter = adapter;
    options.precision = precision;
    return open_model(options, observer_);
  }

  void add_row(const std::string& name, const std::string& model_path, const std::string& adapter,
               const std::string& precision, double training_seconds) {
    const Clock::time_point start = Clock::now();
    const ModelHandle handle = open(model_path, adapter, precision);
    const text::TextEncoder encoder = open_encoder(handle, observer_);
    const auto execution = make_execution(handle, pool_, observer_);
    tasks::Qa qa;
    qa.doc_stride = kStride;
    tasks::DataOptions options;
    options.file = data("validation.json");
    options.max_seq_length = kWindow;
    commands_.push_back(fmt::format(
        "qalof eval --task qa --model_name_or_path {}{}{} --validation_file {} --max_seq_length {} "
        "--doc_stride {} --precision {}",
        model_path, adapter.empty() ? "" : " --adapter ", adapter, options.file, kWindow, kStride,
        precision));
    const runtime::RequestExecutions executions(*execution);
    tasks::Evaluation run{make_reading(handle, encoder, observer_), executions, pool_};
    run.keep_samples = true;
    const tasks::Scores scores = qa.evaluate(run, options);
    const runtime::Footprint footprint = runtime::measure_footprint(*execution);
    DemoRow row;
    row.name = name;
    row.precision = execution->description();
    row.exact_match = scores.at("eval_exact_match");
    row.f1 = scores.at("eval_f1");
    const std::vector<double> f1(scores.per_sample.begin(), scores.per_sample.end());
    row.f1_standard_error = mean_and_error(f1).error;
    row.samples = scores.requests;
    row.effective_bits = footprint.bits_per_weight;
    row.bytes = footprint.total_bytes;
    row.seconds = training_seconds + seconds_since(start);
    observer_.info(fmt::format("{}: exact match {:.2f}, F1 {:.2f}", name, row.exact_match, row.f1));
    result_.rows.push_back(row);
  }

  // The second half of the blocks at 4 bits, the first at 8: the original's pattern in small.
  std::string write_hybrid_plan() const {
    const std::string path = options_.output_dir + "/hybrid.json";
    const Json plan = {{"format_version", 1},
                       {"scheme", "seed"},
                       {"default", "w8a8kv8"},
                       {"head", 8},
                       {"rules", {{{"match", "h\\.[23]\\..*"}, {"set", "w4a4"}}}}};
    write_file_atomic(path, plan.dump(2) + "\n");
    return path;
  }

  void measure_switch(const std::string& adapter) {
    const ModelHandle handle = open(model(), adapter, "8");
    const quant::PrecisionPlan high = quant::resolve(quant::parse_plan("8"), handle.base->target());
    const quant::PrecisionPlan low = quant::resolve(quant::parse_plan("4"), handle.base->target());
    runtime::Execution::create(handle.base, high, handle.adapters, pool_);
    runtime::Execution::create(handle.base, low, handle.adapters,
                               pool_);  // both widths are packed now
    const Clock::time_point start = Clock::now();
    constexpr int kSwitches = 100;
    for (int i = 0; i < kSwitches; ++i)
      runtime::Execution::create(handle.base, i % 2 == 0 ? high : low, handle.adapters, pool_);
    result_.switch_microseconds = 1e6 * seconds_since(start) / kSwitches;
  }

  void write_results() {
    Json rows = Json::array();
    std::string report = fmt::format(
        "# Demo on the nano model, seed {}\n\n| row | precision | EM | F1 | bits per weight | size "
        "(kB) | seconds |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n",
        options_.seed);
    for (const DemoRow& row : result_.rows) {
      rows.push_back(to_json(row));
      report += fmt::format("| {} | {} | {:.2f} | {:.2f} ± {:.2f} | {:.2f} | {:.0f} | {:.1f} |\n",
                            row.name, row.precision, row.exact_match, row.f1, row.f1_standard_error,
                            row.effective_bits, static_cast<double>(row.bytes) / 1e3, row.seconds);
    }
    report += fmt::format(
        "\n± is one standard error over {} questions. {:.0f} s in all; switching the loaded model "
        "between 8 and 4 bits takes {:.0f} us.\n",
        result_.rows.front().samples, result_.seconds, result_.switch_microseconds);
    result_.report = options_.output_dir + "/report.md";
    write_file_atomic(options_.output_dir + "/results.json", dump_json({{"format_version", 1},
                                                                        {"seed", options_.seed},
                                                                        {"rows", rows},
                                                                        {"commands", commands_}},
                                                                       "results.json", 2) +
                                                                 "\n");
    write_file_atomic(result_.report, report);
    result_.page = report::run_report({options_.output_dir, ""}).file;
  }

  const DemoOptions& options_;
  Observer& observer_;
  std::string assets_;
  ThreadPool pool_;
  NewDirectory directory_;
  double training_seconds_ = 0;
  std::vector<double> phase_seconds_;
  std::vector<std::string> commands_;  // what does the same
  DemoResult result_;
};

}  // namespace

Json to_json(const DemoRow& row) {
  return {{"name", row.name},
          {"precision", row.precision},
          {"exact_match", row.exact_match},
          {"f1", row.f1},
          {"f1_standard_error", row.f1_standard_error},
          {"samples", row.samples},
          {"effective_bits", row.effective_bits},
          {"bytes", row.bytes},
          {"seconds", row.seconds}};
}

DemoResult run_demo(const DemoOptions& options, Observer& observer) {
  const Clock::time_point start = Clock::now();
  Demo demo(options, observer);
  demo.train_and_score_all();
  return demo.finish(seconds_since(start));
}

}  // namespace qalof::app
