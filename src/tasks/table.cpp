// Lookup in the table of tasks, and their options together. See table.h.
#include "tasks/table.h"

#include <algorithm>

#include "core/error.h"

namespace qalof::tasks {

namespace {

bool serves(const Task& task, Use use) {
  if (use == Use::kTrain) return task.can_train();
  return use != Use::kAnalyse || task.has_samples();
}

}  // namespace

std::vector<const Task*> TaskSet::all(Use use) const {
  std::vector<const Task*> found;
  const auto add = [&](const Task& task) {
    if (serves(task, use)) found.push_back(&task);
  };
  std::apply([&](const auto&... task) { (add(task), ...); }, tasks_);
  return found;
}

std::vector<std::string> TaskSet::names(Use use) const {
  std::vector<std::string> names;
  for (const Task* task : all(use)) names.emplace_back(task->name());
  return names;
}

std::string TaskSet::file_kinds(Use use) const {
  std::string text;
  for (const Task* task : all(use))
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", task->name(), task->file_kind());
  return text;
}

const Task& TaskSet::at(const std::string& name, Use use) const {
  const std::vector<const Task*> known = all(use);
  const auto found = std::find_if(known.begin(), known.end(),
                                  [&](const Task* task) { return task->name() == name; });
  QALOF_CHECK(found != known.end(), ErrorKind::kUsage, "--task: found {}, expected {}", name,
              alternatives(names(use)));
  return **found;
}

void TaskSet::fit(std::size_t positions) {
  std::apply([&](auto&... task) { (task.fit(positions), ...); }, tasks_);
}

void TaskSet::list(OptionList& list, std::string& task, Use use) {
  list.option("--task", task, "what the data is for")->one_of(names(use));
  const auto add = [&](Task& one) {
    if (!serves(one, use)) return;
    one.list_windows(list);
    if (use == Use::kTrain) one.list_training(list);
    if (use == Use::kScore || use == Use::kAnalyse) one.list_scoring(list, use == Use::kScore);
  };
  std::apply([&](auto&... one) { (add(one), ...); }, tasks_);
}

}  // namespace qalof::tasks
