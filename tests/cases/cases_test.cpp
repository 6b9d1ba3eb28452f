// Inputs that users of this field's programs stumbled over, each with what is right: every folder
// beside this file that holds a case.json is one case (README.md says how it is written).
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "core/json.h"
#include "support/temp_dir.h"

namespace qalof {
namespace cases_test {

namespace fs = std::filesystem;

const std::string kCases = std::string(QALOF_SOURCE_DIR) + "/tests/cases";
constexpr double kTolerance = 2e-5;  // of losses in f32: the order of sums differs from PyTorch's
constexpr std::size_t kMaxCaseBytes = std::size_t{1} << 20;

std::string slurp(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string quoted(const std::string& argument) {
  std::string text = "'";
  for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kCases)) {
    if (fs::exists(entry.path() / "case.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Numbers within a tolerance that NaN fails, all else equal.
bool agrees(const Json& found, const Json& expected, double tolerance) {
  if (expected.is_number_float())
    return found.is_number() && std::abs(found.get<double>() - expected.get<double>()) <= tolerance;
  return found == expected;
}

class PublicCase : public ::testing::TestWithParam<std::string> {
 protected:
  // {out}: a directory of this test; {case}: the folder of the case.
  std::string filled(std::string text) const {
    const std::pair<std::string, std::string> places[] = {{"{out}", out_.path()},
                                                          {"{case}", GetParam()}};
    for (const auto& [place, value] : places) {
      for (std::size_t at; (at = text.find(place)) != std::string::npos;)
        text.replace(at, place.size(), value);
    }
    return text;
  }

  std::string command_of(const Json& step) const {
    if (step.contains("shell")) return filled(step["shell"].get<std::string>());
    std::string command = quoted(std::string(QALOF_BINARY_DIR) + "/qalof");
    for (const Json& argument : step["run"])
      command.append(" ").append(quoted(filled(argument.get<std::string>())));
    if (step.contains("json")) command += " --json";
    return command;
  }

  void run(const Json& step) {
    const std::string command = command_of(step);
    SCOPED_TRACE(command);
    const std::string out = out_.file("stdout"), err = out_.file("stderr");
    const std::string input =
        step.contains("input") ? filled(step["input"].get<std::string>()) : "/dev/null";
    std::string limits = "cd " + quoted(kCases) +
                         " && QALOF=" + quoted(std::string(QALOF_BINARY_DIR) + "/qalof") + " && ";
    if (step.contains("memory_kb"))
      limits += "ulimit -v " + std::to_string(step["memory_kb"].get<long>()) + " && ";
    const int status = std::system((limits + "{ " + command + "; } <" + quoted(input) + " >" +
                                    quoted(out) + " 2>" + quoted(err))
                                       .c_str());
    const std::string said = slurp(out) + "\n" + slurp(err);
    ASSERT_TRUE(WIFEXITED(status)) << said;
    EXPECT_EQ(WEXITSTATUS(status), step.value("code", 0)) << said;
    for (const Json& text : step.value("says", Json::array()))
      EXPECT_NE(said.find(text.get<std::string>()), std::string::npos)
          << "missing: " << text << "\n"
          << said;
    for (const Json& text : step.value("never", Json::array()))
      EXPECT_EQ(said.find(text.get<std::string>()), std::string::npos) << "found: " << text << "\n"
                                                                       << said;
    if (step.contains("json")) expect_values(step, parse_json(slurp(out), "standard output"));
    if (step.contains("file"))
      expect_values(step["file"],
                    parse_json(slurp(filled(step["file"]["path"].get<std::string>())), "file"));
  }

  static void expect_values(const Json& step, const Json& result) {
    const double tolerance = step.value("tolerance", kTolerance);
    for (const auto& [key, expected] : step["json"].items()) {
      ASSERT_TRUE(result.contains(key)) << key << " in " << result;
      EXPECT_TRUE(agrees(result[key], expected, tolerance))
          << key << " is " << result[key] << ", expected " << expected;
    }
  }

  qalof::testing::TempDir out_;
};

TEST_P(PublicCase, GivesItsRightValue) {
  const std::string where = kCases + "/" + GetParam() + "/case.json";
  const Json json = parse_json(slurp(where), where);
  ASSERT_LE(fs::file_size(where), kMaxCaseBytes);
  for (const char* key : {"kind", "source", "right", "steps"})
    ASSERT_TRUE(json.contains(key)) << where << ": " << key;
  ASSERT_FALSE(json["steps"].empty());
  for (const Json& step : json["steps"]) {
#ifndef QALOF_HAS_TRAIN
    if (step.value("needs_train", false)) continue;
#endif
    run(step);
  }
}

std::string test_name(const ::testing::TestParamInfo<std::string>& param) {
  std::string name = param.param;
  std::replace_if(
      name.begin(), name.end(),
      [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Public, PublicCase, ::testing::ValuesIn(case_names()), test_name);

}  // namespace cases_test
}  // namespace qalof
