// The training commands of the torch-free program: it replaces itself with qalof-train beside it.
// One process remains, so signals and exit codes are the trainer's.
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "app/attack/search.h"
#include "app/sensitivity/sensitivity.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "core/error.h"

namespace qalof::cli {

namespace {

// Returns only where it fails, with errno set.
std::string become_trainer(const char* command, const std::vector<std::string>& arguments) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  QALOF_CHECK(!error, ErrorKind::kInternal, "/proc/self/exe: {}", error.message());
  std::string sibling = self.parent_path() / "qalof-train";
  std::vector<std::string> words = {sibling, command};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execv(sibling.c_str(), argv.data());
  return sibling;
}

[[noreturn]] void hand_over(const char* command, const std::vector<std::string>& arguments) {
  const std::string sibling = become_trainer(command, arguments);
  fail(ErrorKind::kNotFound,
       "{}: {}; the command {} needs it: build with -DQALOF_TRAIN=ON (scripts/build) and keep both "
       "programs together",
       sibling, std::generic_category().message(errno), command);
}

}  // namespace

bool has_training() { return false; }
void hand_over_where_built(const char* command, const std::vector<std::string>& arguments) {
  if (arguments.size() != 1 || arguments[0] != kDescribe) become_trainer(command, arguments);
}

app::Processes command_processes(const char* command, const std::vector<std::string>& arguments,
                                 const app::ProcessOptions& /*options*/, int& /*threads*/,
                                 Observer& observer) {
  if (launch_of_environment().size > 1) hand_over(command, arguments);
  return app::Processes(observer);
}

// NOLINTBEGIN(performance-unnecessary-value-param): commands take their arguments by value.
void run_train(std::vector<std::string> arguments) { hand_over("train", arguments); }
void run_demo(std::vector<std::string> arguments) { hand_over("demo", arguments); }
// NOLINTEND(performance-unnecessary-value-param)
app::SensitivityResult estimated_sensitivity(const app::SensitivityOptions& /*options*/,
                                             Observer& /*observer*/,
                                             const std::vector<std::string>& arguments) {
  hand_over("sensitivity", arguments);
}
app::AttackScores searched_attack(app::AttackRunOptions& /*options*/, const std::string& /*device*/,
                                  const std::string& /*expectation*/,
                                  const app::Processes& /*processes*/,
                                  const std::vector<std::string>& arguments) {
  hand_over("attack", arguments);
}
void run_bench_train(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "train");
  hand_over("bench", arguments);
}

}  // namespace qalof::cli
