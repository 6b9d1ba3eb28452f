// The table of commands, exit codes, and the only handler that catches everything.
#include "cli/commands.h"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <system_error>

#include "cli/command_line.h"
#include "cli/signals.h"
#include "cli/version.h"
#include "core/error.h"
#include "core/memory.h"
#include "core/process_group.h"
#include "quant/plan.h"

namespace qalof::cli {

namespace {

constexpr Command kCommands[] = {
    {"demo", "train, quantize and score the shipped nano model, in minutes", true, Launched::kAlone,
     "fewer --threads need less", run_demo},
    {"init", "make a model directory with random weights", false, Launched::kAlone,
     "a smaller model needs less, and its largest tensor must fit", run_init},
    {"download", "fetch a model from the Hugging Face Hub", false, Launched::kAlone,
     "other programs may leave more", run_download},
    {"import", "read GGUF files and checkpoints of other programs", false, Launched::kAlone,
     "the largest tensor must fit", run_import},
    {"export", "write a model for other programs: Hugging Face, GGUF", false, Launched::kAlone,
     "the largest tensor must fit", run_export},
    {"tokenize", "turn text into token ids", false, Launched::kEach, "a shorter text needs less",
     run_tokenize},
    {"train", "fine-tune adapters on a quantized base", true, Launched::kShared,
     "a smaller --per_device_train_batch_size or --max_seq_length needs less", run_train},
    {"eval", "score a model, adapter and precision", false, Launched::kShared,
     "a smaller --max_seq_length, fewer --max_eval_samples or fewer bits of --precision need less",
     run_eval},
    {"sensitivity", "measure what each layer loses at few bits; make plans", false,
     Launched::kShared, "a smaller --max_seq_length or fewer --max_eval_samples need less",
     run_sensitivity},
    {"attack", "attack a classifier by gradients", false, Launched::kShared,
     "a smaller --batch_size, --gumbel_samples or --max_seq_length needs less", run_attack},
    {"generate", "continue a prompt", false, Launched::kEach,
     "a shorter prompt, a smaller --prefill_chunk, or fewer --max_new_tokens or --kv_bits need "
     "less",
     run_generate},
    {"chat", "talk to a model in the terminal", false, Launched::kAlone,
     "a shorter conversation, or fewer --max_new_tokens or --kv_bits need less", run_chat},
    {"serve", "answer over HTTP: adapter and precision per request", false, Launched::kAlone,
     "a smaller --kv_cache_mb, fewer --max_sequences or a smaller --prefill_chunk need less",
     run_serve},
    {"bench", "measure speed on this machine", false, Launched::kShared,
     "a smaller --batch, or fewer --prompt_tokens or --new_tokens, need less", run_bench},
    {"metric", "score a SQuAD predictions file as the official script does", false, Launched::kEach,
     "smaller files need less", run_metric},
    {"quantize", "write a model as one packed file of integers", false, Launched::kShared,
     "fewer --bit_widths, fewer --calibration_samples or a smaller --max_seq_length need less",
     run_quantize},
    {"report", "draw what a directory holds as one HTML page", false, Launched::kAlone,
     "a directory with fewer results needs less", run_report},
    {"inspect", "show what a file or directory holds", false, Launched::kEach,
     "a smaller file needs less", run_inspect},
    {"doctor", "show what this machine offers", false, Launched::kEach,
     "other programs may leave more", run_doctor},
    {"completion", "print a script that completes flags in bash, zsh or fish", false,
     Launched::kEach, "other programs may leave more", run_completion},
    {"manual", "print every flag as a manual page or Markdown", false, Launched::kEach,
     "other programs may leave more", run_manual},
};

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int kExitBadInput = 3;
constexpr int kExitDiverged = 4;
constexpr int kExitResource = 5;
constexpr int kExitNetwork = 6;
constexpr int kExitSignalBase = 128;

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return kExitUsage;
    case ErrorKind::kNotFound:
    case ErrorKind::kBadInput:
    case ErrorKind::kCorruptFile:
    case ErrorKind::kUnsupported:
      return kExitBadInput;
    case ErrorKind::kDiverged:
      return kExitDiverged;
    case ErrorKind::kResource:
      return kExitResource;
    case ErrorKind::kNetwork:
      return kExitNetwork;
    case ErrorKind::kInterrupted:
      return kExitSignalBase + (StopSignals::received() != 0 ? StopSignals::received() : SIGINT);
    case ErrorKind::kInternal:
      break;
  }
  return kExitFailure;
}

std::string help_text() {
  std::string text =
      "qalof: one LoRA adapter per bit width on a quantized language model, switched at run "
      "time\n\n"
      "Usage: qalof COMMAND [flags]\n"
      "       qalof COMMAND -h   shows the flags of a command, with examples\n\nCommands:\n";
  for (const Command& command : kCommands)
    text += fmt::format("  {:<12} {}\n", command.name, command.summary);
  return text +
         "\nA value that is spelled like a flag of the command is written --flag=VALUE.\n\n"
         "Environment:\n"
         "  QALOF_ISA      instruction set to use; `qalof doctor` lists the names\n"
         "  QALOF_THREADS  default of --threads\n"
         "  NO_COLOR       no colours on a terminal\n\n"
         "Exit codes: 0 ok, 1 failure, 2 usage, 3 bad input, 4 diverged, 5 memory or disk, 6 "
         "network,"
         "\n130 and 143 signals\n";
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (name == command.name) return command;
    names.emplace_back(command.name);
  }
  fail(ErrorKind::kUsage, "unknown command {}, nearest known command {} (see qalof -h)", name,
       quant::nearest_name(name, names));
}

// Runs a command; where memory does not suffice, the message says what the command would do with
// less.
void run_command(const Command& command, std::vector<std::string> arguments) {
  std::string reason = "out of memory";
  try {
    command.run(std::move(arguments));
    return;
  } catch (const OutOfMemory& error) {
    reason = error.what();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {  // a size that no memory has
  }
  fail(ErrorKind::kResource, "{}: {}; {}", command.name, reason, command.less_memory);
}

int dispatch(std::vector<std::string> arguments) {
  if (arguments.empty()) {
    fmt::print(stderr, "{}", help_text());
    return kExitUsage;
  }
  const std::string first = arguments.front();
  if (first == "-h" || first == "--help" || first == "help") {
    fmt::print("{}", help_text());
    return 0;
  }
  if (first == "--version") {
    fmt::print("{}\n", version_text());
    return 0;
  }
  arguments.erase(arguments.begin());
  const Command& command = find_command(first);
  if (command.launched == Launched::kAlone) {
    const std::size_t processes = launch_of_environment().size;
    QALOF_CHECK(processes == 1, ErrorKind::kUsage,
                "{}: runs in one process, and the launcher started {}", command.name, processes);
  }
  run_command(command, std::move(arguments));
  return 0;
}

}  // namespace

std::span<const Command> commands() { return kCommands; }

int run_main(int argc, char** argv) {
  // A write beyond a limit on file sizes then fails like one to a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    const int code = dispatch(std::vector<std::string>(argv + 1, argv + argc));
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      fail(ErrorKind::kResource, "standard output: {}", std::generic_category().message(errno));
    }
    return code;
  } catch (const HelpShown&) {
    return 0;
  } catch (const Error& error) {
    // Of the processes of a run, one tells why it ended.
    if (*error.what() != '\0') fmt::print(stderr, "qalof: {}\n", error.what());
    return exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "qalof: out of memory\n");
    return kExitResource;
  } catch (const std::exception& error) {
    fmt::print(stderr, "qalof: internal error: {}\n", error.what());
    return kExitFailure;
  }
}

}  // namespace qalof::cli
