// Everything that is said of options comes from one list: help, resolved flags, completion, the
// manual page and docs/commands.md.
#include <gmock/gmock.h>

#include <sstream>

#include "cli/program.h"
#include "cli/reference.h"

namespace qalof::cli {
namespace reference_cli_test {

using ::testing::HasSubstr;

class ReferenceCliTest : public CliTest {};

TEST_F(ReferenceCliTest, CommandsDocumentIsWhatTheProgramSays) {
#ifndef QALOF_HAS_TRAIN
  GTEST_SKIP() << "built without training, which the document has";
#endif
  const ProgramRun told = run("manual markdown");
  ASSERT_EQ(told.code, 0) << told.err;
  EXPECT_TRUE(told.out == slurp(QALOF_SOURCE_DIR "/docs/commands.md"))
      << "write it again: qalof manual markdown > docs/commands.md";
}

TEST_F(ReferenceCliTest, ResolvedFlagsAreReadBackAsTheyWere) {
  for (const std::string command :
       {"eval --max_eval_samples 7 --task lm --max_seq_length 32 --parse_special",
        "generate --prompt '\"quoted\" \\ and\ttab' --stop a 'b c' --temperature 0.25",
        "quantize --bit_widths 8 4 --lm_head_bits 8 --scheme g64+mse"}) {
    const ProgramRun first = run(command + " --print_config");
    ASSERT_EQ(first.code, 0) << first.err;
    std::ofstream(dir_.file("run.toml")) << first.out;
    const std::string name = command.substr(0, command.find(' '));
    const ProgramRun second = run(name + " --config " + dir_.file("run.toml") + " --print_config");
    ASSERT_EQ(second.code, 0) << second.err;
    EXPECT_EQ(second.out, first.out);
  }
  EXPECT_EQ(run("eval --max_eval_samples few --print_config").code, 2);
}

TEST_F(ReferenceCliTest, HelpShowsGroupsAndValues) {
  const ProgramRun help = run("eval -h");
  ASSERT_EQ(help.code, 0);
  for (const char* text : {"model:", "data:", "precision:", "output:", "--task", "multiple_choice"})
    EXPECT_THAT(help.out, HasSubstr(text));
}

TEST_F(ReferenceCliTest, HelpFitsIntoAHundredColumns) {
  std::size_t lines = 0;
  for (const CommandDescription& command : describe_commands()) {
    for (const std::size_t columns : {60, 100}) {
      std::istringstream help(help_text(command, columns));
      for (std::string line; std::getline(help, line) && line != "Examples:"; ++lines) {
        // A word longer than what is left of a line stands alone in it.
        const bool one_word = line.find(' ', line.find_first_not_of(' ')) == std::string::npos;
        EXPECT_TRUE(line.size() <= columns || one_word) << command.name << ": " << line;
      }
    }
    const std::string whole = help_text(command, 100);
    for (const auto& option : command.options)
      EXPECT_THAT(whole, HasSubstr(option.names.front())) << command.name;
  }
  EXPECT_GT(lines, 1000U);
}

TEST_F(ReferenceCliTest, ScriptsOfShellsNameCommandsFlagsAndValues) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const ProgramRun script = run(std::string("completion ") + shell);
    ASSERT_EQ(script.code, 0) << script.err;
    for (const char* text : {"quantize", "calibration_file", "multiple_choice"})
      EXPECT_THAT(script.out, HasSubstr(text)) << shell;
  }
  EXPECT_EQ(run("completion tcsh").code, 2);
}

TEST_F(ReferenceCliTest, BashCompletesCommandsFlagsAndValues) {
  const ProgramRun script = run("completion bash");
  ASSERT_EQ(script.code, 0);
  const auto complete = [&](const std::string& words) {
    std::ofstream(dir_.file("complete.sh"))
        << script.out << "compopt() { :; }\nCOMP_WORDS=(" << words
        << ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_qalof\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n";
    const std::string out = dir_.file("completed");
    EXPECT_EQ(std::system(("bash " + dir_.file("complete.sh") + " >" + out).c_str()), 0);
    return slurp(out);
  };
  EXPECT_EQ(complete("qalof quan"), "quantize\n");
  EXPECT_EQ(complete("qalof eval --max_ev"), "--max_eval_samples\n");
  EXPECT_EQ(complete("qalof sensitivity --by fi"), "fisher\n");
}

}  // namespace reference_cli_test
}  // namespace qalof::cli
