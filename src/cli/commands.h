// The table of commands. Each command declares its flags, calls its app function and prints the
// result.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "app/processes.h"
#include "core/progress.h"

namespace qalof::app {
struct AttackRunOptions;
struct AttackScores;
struct SensitivityOptions;
struct SensitivityResult;
}  // namespace qalof::app

namespace qalof::cli {

/// What a command does where a launcher started several processes of it.
enum class Launched {
  kShared,  // they share its work
  kAlone,   // refused: it writes, and would write several times
  kEach,    // each for itself
};

struct Command {
  const char* name;
  const char* summary;
  bool needs_training;  // runs in qalof-train
  Launched launched;
  const char* less_memory;  // what makes it need less memory
  void (*run)(std::vector<std::string> arguments);
};

void run_tokenize(std::vector<std::string> arguments);
void run_init(std::vector<std::string> arguments);
void run_download(std::vector<std::string> arguments);
void run_import(std::vector<std::string> arguments);
void run_export(std::vector<std::string> arguments);
void run_eval(std::vector<std::string> arguments);
void run_attack(std::vector<std::string> arguments);
void run_metric(std::vector<std::string> arguments);
void run_quantize(std::vector<std::string> arguments);
void run_inspect(std::vector<std::string> arguments);
void run_sensitivity(std::vector<std::string> arguments);
void run_generate(std::vector<std::string> arguments);
void run_serve(std::vector<std::string> arguments);
void run_chat(std::vector<std::string> arguments);
void run_bench(std::vector<std::string> arguments);
void run_report(std::vector<std::string> arguments);
void run_doctor(std::vector<std::string> arguments);
void run_completion(std::vector<std::string> arguments);
void run_manual(std::vector<std::string> arguments);
/// Whether the commands that need libtorch are in this program.
bool has_training();
/// In qalof: runs the command in qalof-train where that is beside this program, and then does not
/// return. In qalof-train: nothing.
void hand_over_where_built(const char* command, const std::vector<std::string>& arguments);
/// The processes that a launcher started for a command that shares its work, or this one alone.
/// In qalof, which cannot connect, several continue as qalof-train, with the same arguments.
app::Processes command_processes(const char* command, const std::vector<std::string>& arguments,
                                 const app::ProcessOptions& options, int& threads,
                                 Observer& observer);
/// In qalof these hand over to qalof-train; in qalof-train they are the commands themselves.
void run_train(std::vector<std::string> arguments);
void run_demo(std::vector<std::string> arguments);
/// `bench train`, without the word train.
void run_bench_train(std::vector<std::string> arguments);
/// `sensitivity` from gradients; arguments are the command's, already read into options.
app::SensitivityResult estimated_sensitivity(const app::SensitivityOptions& options,
                                             Observer& observer,
                                             const std::vector<std::string>& arguments);

/// `attack` without --rescore; device and expectation are values of flags.
app::AttackScores searched_attack(app::AttackRunOptions& options, const std::string& device,
                                  const std::string& expectation, const app::Processes& processes,
                                  const std::vector<std::string>& arguments);

/// All commands, in the order help lists them.
std::span<const Command> commands();

/// Runs argv and returns the process's exit code; the only catch-all.
int run_main(int argc, char** argv);

}  // namespace qalof::cli
