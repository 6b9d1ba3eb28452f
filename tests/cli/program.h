// Runs the built program as a script would: arguments and standard input in, exit code and streams
// out.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "core/json.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace qalof::cli {

struct ProgramRun {
  int code = -1;
  std::string out, err;
};

inline std::string slurp(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class CliTest : public ::testing::Test {
 protected:
  ProgramRun run(const std::string& arguments, const std::string& input = "") {
    return run_behind("", arguments, input);
  }
  /// prefix stands before the program: variables, or a program that runs it.
  ProgramRun run_behind(const std::string& prefix, const std::string& arguments,
                        const std::string& input = "") {
    std::ofstream(dir_.file("in")) << input;
    const std::string command = prefix + std::string(QALOF_BINARY_DIR) + "/qalof " + arguments +
                                " <" + dir_.file("in") + " >" + dir_.file("out") + " 2>" +
                                dir_.file("err");
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(dir_.file("out")),
            slurp(dir_.file("err"))};
  }
  /// A tiny model with the nano model's tokenizer, in "model".
  void write_tiny_model() const {
    Json config = qalof::testing::tiny_config();
    config["vocab_size"] = 640;
    config["bos_token_id"] = config["eos_token_id"] = 0;
    qalof::testing::write_model(dir_.file("model"), config);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      std::filesystem::copy(std::string(QALOF_SOURCE_DIR "/assets/nano/model/") + name,
                            dir_.file(std::string("model/") + name));
    }
  }
  qalof::testing::TempDir dir_;
};

}  // namespace qalof::cli
