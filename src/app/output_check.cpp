// Compares an output with every input by file identity, also one level into directories.
#include "app/output_check.h"

#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/file.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

constexpr int kLevels = 1;  // subdirectories to search: adapters of each width

void check_file(const std::string& output, const std::string& input) {
  QALOF_CHECK(!is_same_file(output, input), ErrorKind::kUsage,
              "{}: is {}, which is read; choose another name for the output", output, input);
}

}  // namespace

void check_output_is_no_input(const std::string& output, const std::vector<std::string>& inputs) {
  // An output that does not exist, or is no regular file (a device), replaces nothing.
  std::error_code error;
  if (output.empty() || !fs::is_regular_file(output, error)) return;
  for (const std::string& input : inputs) {
    if (input.empty()) continue;
    check_file(output, input);
    if (!is_directory(input)) continue;
    for (fs::recursive_directory_iterator entry(input, error), end; !error && entry != end;
         entry.increment(error)) {
      if (entry.depth() >= kLevels) entry.disable_recursion_pending();
      const std::string kind = entry->path().extension().string();
      if (kind == ".safetensors" || kind == ".json" || kind == ".jsonl" || kind == ".txt")
        check_file(output, entry->path().string());
    }
  }
}

}  // namespace qalof::app
