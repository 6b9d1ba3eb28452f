// What a task is: how its files are read, what of a text becomes windows, how answers are scored.
// Each task has a room of its own beside this file and one line in table.h; commands know tasks by
// this interface alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/options.h"
#include "core/progress.h"
#include "core/threads.h"
#include "runtime/request_executions.h"
#include "tasks/example.h"
#include "tasks/samples.h"
#include "text/text_encoder.h"
#include "weights/adapter.h"

namespace qalof::tasks {

/// Window in tokens unless an option says otherwise.
inline constexpr std::size_t kDefaultLength = 384;

/// A file and what of it is read.
struct DataOptions {
  std::string file;
  std::uint64_t max_samples = 0;              // the first N questions or texts; 0 = all
  std::optional<std::size_t> max_seq_length;  // window in tokens; none: as the task says
  std::string output_dir;                     // of files of predictions; "" = none
};

/// What reads texts. Members must outlive whatever is made with it.
struct Reading {
  const text::TextEncoder& encoder;
  std::size_t positions;  // of the model: longer windows are cut to them
  Observer& observer;
  /// Of the adapters' training, instead of the task's own; none: the task's own.
  std::optional<std::int32_t> separator = std::nullopt;
};

/// What runs an evaluation.
/// Where the numbers of a batch come from, if not from this process alone.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  /// Leaves in numbers what compute would leave there. Called once per batch, in order.
  virtual void fill(std::span<float> numbers, const std::function<void()>& compute) = 0;
};

struct Evaluation {
  Reading reading;
  const runtime::RequestExecutions& executions;
  ParallelFor& parallel;
  runtime::Profile* profile = nullptr;
  std::vector<std::string> label_names = {};  // of a class head, for files; may be empty
  bool keep_samples = false;                  // Scores::per_sample
  BatchSource* batches = nullptr;             // null: every batch is computed here

  /// What the model says of a batch: compute fills numbers, here or in another process.
  void fill(std::span<float> numbers, const std::function<void()>& compute) const {
    batches != nullptr ? batches->fill(numbers, compute) : compute();
  }
};

/// One number of a result.
struct Metric {
  enum class Decides { kNo, kHigher, kLower };
  const char* key;    // in JSON: "eval_f1"
  const char* label;  // before the value in text, after it for counts; "": JSON only
  int digits = 2;     // in text
  bool is_count = false;
  bool is_logged = true;           // in the logs of a training run too
  Decides decides = Decides::kNo;  // the better run is the one with more, or less, of it
};

/// What an evaluation found.
struct Scores {
  std::span<const Metric> metrics;  // the task's table
  std::vector<double> values;       // one per metric
  std::uint64_t requests = 0;       // units that random precision draws for
  std::uint64_t tokens = 0;         // that ran
  double seconds = 0;
  std::vector<float> per_sample;  // 0-100, with Evaluation::keep_samples: F1 or accuracy

  /// The value of a metric of the table.
  double at(std::string_view key) const;
  double tokens_per_second() const { return static_cast<double>(tokens) / seconds; }
};
/// Members in the table's order. logged: those of training logs alone. Values that are not finite
/// are null.
Json to_json(const Scores& scores, bool logged = false);
/// Back from the JSON of training logs. Error{kBadInput} for a metric that is missing.
Scores scores_of(const Json& json, std::span<const Metric> metrics, const std::string& where);
/// "exact match 62.50, F1 71.02": with counts where the separator is wide.
std::string to_text(const Scores& scores, std::string_view separator, bool with_counts);

/// Of labelled texts.
struct Classes {
  std::size_t count = 0;
  std::vector<std::string> names;  // one for each, or none
};

/// A task with the options of its own. Copies are independent.
class Task {
 public:
  virtual ~Task() = default;
  /// As --task names it.
  virtual const char* name() const = 0;
  virtual weights::HeadKind head_kind() const = 0;
  /// "SQuAD JSON or JSONL"
  virtual const char* file_kind() const = 0;
  virtual std::span<const Metric> metrics() const = 0;
  /// Two texts stand in a window, so that the tokenizer's template for pairs is used.
  virtual bool reads_pairs() const { return false; }
  /// Token that this task's options put between two texts; adapters remember it.
  virtual std::optional<std::int32_t> pair_separator() const { return std::nullopt; }
  /// Tokens that a window holds at least.
  virtual std::size_t least_length() const { return 1; }

  /// Options that decide what windows hold, for every command that reads data.
  virtual void list_windows(OptionList& /*list*/) {}
  /// Options of training alone.
  virtual void list_training(OptionList& /*list*/) {}
  /// Options of scoring alone; all: those too that a sensitivity analysis leaves at their defaults.
  virtual void list_scoring(OptionList& /*list*/, bool /*all*/) {}
  /// Fits options to windows of a model's positions, which are fewer than was asked for.
  virtual void fit(std::size_t /*positions*/) {}
  /// Error{kUsage} for windows of this length that options leave no room in.
  virtual void check_length(std::size_t /*length*/) const {}
  /// Adds what tells one analysis from another to its identity.
  virtual void identify(const Reading& /*reading*/, Json& /*identity*/) const {}

  /// Scores a file. Error{kBadInput} for a file of another form, and where what runs has no head
  /// that serves; {kDiverged} for numbers that are not finite.
  virtual Scores evaluate(const Evaluation& run, const DataOptions& data) const = 0;

  virtual bool can_train() const { return false; }
  /// Error{kUsage} for options that add to a training file, where there is none: the model itself
  /// writes what it is trained on.
  virtual void check_without_file() const {}
  /// The classes of a whole training file; none where the task has none. Error{kBadInput} where
  /// validation_file ("": none) has others.
  virtual std::optional<Classes> classes(const std::string& /*train_file*/,
                                         const std::string& /*validation_file*/) const {
    return std::nullopt;
  }
  /// The windows of a file, at least one. For tasks that can train.
  virtual std::vector<Example> examples(const Reading& reading, const DataOptions& data) const;
  /// Hands them to take one after the other. A task whose files may be larger than memory reads no
  /// more of them at a time than it needs.
  virtual void each_example(const Reading& reading, const DataOptions& data,
                            const std::function<void(Example&&)>& take) const;
  /// Adds what, beside the options and the training file's bytes, decides which windows those are:
  /// the contents of further files.
  virtual void identify_windows(const Reading& /*reading*/, Json& /*identity*/) const {}
  /// Windows without labels, the first max_windows; none may be empty.
  virtual std::vector<std::vector<std::int32_t>> windows(const Reading& reading,
                                                         const DataOptions& data,
                                                         std::size_t max_windows) const = 0;

  virtual bool has_samples() const { return false; }
  /// For tasks that have samples. classes: outputs of the head. What reading refers to must
  /// outlive the reader, and so must the task.
  virtual std::unique_ptr<SampleReader> samples(const Reading& reading, const DataOptions& data,
                                                std::size_t classes) const;
};

}  // namespace qalof::tasks
