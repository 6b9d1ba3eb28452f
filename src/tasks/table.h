// The table of tasks. A new task is a room in this folder and an entry of Table.
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include "tasks/chat/chat.h"
#include "tasks/choice/choice.h"
#include "tasks/classification/classification.h"
#include "tasks/lm/lm.h"
#include "tasks/qa/qa.h"

namespace qalof::tasks {

/// In the order help and messages list them.
using Table = std::tuple<Qa, Lm, Classification, MultipleChoice, Chat>;

inline constexpr const char* kDefaultTask = "qa";

/// What a command does with a task.
enum class Use {
  kScore,      // eval
  kTrain,      // train
  kAnalyse,    // sensitivity
  kCalibrate,  // quantize
};

/// Every task with its options. Copies are independent.
class TaskSet {
 public:
  template <class T>
  const T& get() const {
    return std::get<T>(tasks_);
  }
  template <class T>
  T& get() {
    return std::get<T>(tasks_);
  }
  /// Error{kUsage} names those that serve the use, where name is none of them.
  const Task& at(const std::string& name, Use use) const;
  /// Those that serve a use.
  std::vector<const Task*> all(Use use) const;
  /// Their names.
  std::vector<std::string> names(Use use) const;
  /// "qa: SQuAD JSON or JSONL; lm: UTF-8 text": what files of the tasks hold.
  std::string file_kinds(Use use) const;
  /// Fits options to windows of a model's positions, which are fewer than was asked for.
  void fit(std::size_t positions);
  /// Declares --task and the options of the tasks.
  void list(OptionList& list, std::string& task, Use use);

 private:
  Table tasks_;
};

}  // namespace qalof::tasks
