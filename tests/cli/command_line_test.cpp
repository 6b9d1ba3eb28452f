// What is given to flags arrives as it is: on the command line, behind =, and in config files.
#include "cli/command_line.h"

#include <gmock/gmock.h>

#include <fstream>
#include <random>

#include "core/error.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::cli {
namespace command_line_test {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

// A command with a flag of every type.
struct Given {
  std::string prompt, name = "7";
  std::vector<std::string> stop, precisions;
  std::vector<int> bit_widths;
  std::uint64_t seed = 5;
  int steps = 3;
  float temperature = 0.5F;
  double rate = 1e-3;
  bool verbose = false;
  std::string directory;
  Json values;
  bool stop_is_given = false;
};

Given parse(std::vector<std::string> arguments) {
  Given given;
  CommandLine line("test", "A command.", "  none\n", std::move(arguments));
  line.option("--prompt,--text", given.prompt, "text");
  line.option("--run_name", given.name, "text");
  line.option("--stop", given.stop, "texts");
  line.option("--precisions", given.precisions, "texts")->delimiter(',');
  line.option("--bit_widths", given.bit_widths, "numbers")->delimiter(',');
  line.option("--seed", given.seed, "number");
  line.option("--max_steps", given.steps, "number");
  line.option("--temperature", given.temperature, "number");
  line.option("--rate", given.rate, "number");
  line.flag("--verbose", given.verbose, "switch");
  line.option("directory", given.directory, "a value without a flag");
  line.parse();
  given.values = line.values();
  given.stop_is_given = line.given("--stop");
  return given;
}

std::string refusal(const std::vector<std::string>& arguments) {
  const auto error = error_of([&] { parse(arguments); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage) << error.message;
  EXPECT_EQ(error.message.find('\n'), std::string::npos) << error.message;
  return error.message;
}

TEST(CommandLine, NamesTakeHyphensAndValuesKeepThem) {
  const Given given = parse({"--max-steps", "4", "--run-name=a-b", "--prompt",
                             "-- get the top-10 users", "--bit-widths=8,4"});
  EXPECT_EQ(given.steps, 4);
  EXPECT_EQ(given.name, "a-b");
  EXPECT_EQ(given.prompt, "-- get the top-10 users");
  EXPECT_THAT(given.bit_widths, ElementsAre(8, 4));
}

TEST(CommandLine, AValueMayLookLikeAnything) {
  for (const char* text : {"-",         "--",         "-h",  "---",   "-x",  "--verbose output is",
                           "--nothing", "--top-k=1",  "{}",  "[a,b]", "%%",  "",
                           " ",         "\"quoted\"", "'",   "a=b",   "=",   "++",
                           "true",      "007",        "1e5", "NaN",   "\\n", "\xff\xfe",
                           "-1"}) {
    EXPECT_EQ(parse({"--prompt", text}).prompt, text);
    EXPECT_EQ(parse({std::string("--prompt=") + text}).prompt, text);
    EXPECT_EQ(parse({"--text", text, "--verbose"}).prompt, text);
    EXPECT_THAT(parse({std::string("--stop=") + text}).stop, ElementsAre(text));
    if (std::string_view(text).starts_with("--n") || std::string_view(text).starts_with("--t"))
      continue;  // in a list, a flag misspelt
    EXPECT_THAT(parse({"--stop", text, "--verbose"}).stop, ElementsAre(text));
  }
  EXPECT_EQ(parse({"--prompt=--verbose"}).prompt, "--verbose");
  EXPECT_EQ(parse({"--prompt=--seed=3"}).prompt, "--seed=3");
}

TEST(CommandLine, AForgottenValueIsNamedWithAdvice) {
  EXPECT_THAT(refusal({"--prompt", "--verbose"}), HasSubstr("write --prompt=--verbose"));
  EXPECT_THAT(refusal({"--prompt", "--max-steps", "4"}), HasSubstr("--max-steps is a flag"));
  EXPECT_THAT(refusal({"--prompt", "--seed=4"}), HasSubstr("--prompt: needs a value"));
  EXPECT_THAT(refusal({"--prompt", "--help"}), HasSubstr("--prompt: needs a value"));
  EXPECT_THAT(refusal({"--verbose", "--prompt"}), HasSubstr("--prompt: needs a value"));
  EXPECT_THAT(refusal({"--stop", "--verbose"}), HasSubstr("--stop: needs a value"));
}

TEST(CommandLine, ListsTakeValuesUpToTheNextFlag) {
  const Given given = parse({"dir", "--stop", "-", "--", "--end of text", "\n", "--verbose",
                             "--bit_widths", "8", "4,3", "--bit_widths", "2"});
  EXPECT_THAT(given.stop, ElementsAre("-", "--", "--end of text", "\n"));
  EXPECT_TRUE(given.verbose);
  EXPECT_THAT(given.bit_widths, ElementsAre(8, 4, 3, 2));
  // A name misspelt in the middle of a list is no text of it.
  EXPECT_THAT(refusal({"--stop", "a", "--temprature", "0.5"}),
              ::testing::AllOf(HasSubstr("nearest known flag --temperature"),
                               HasSubstr("--stop=--temprature")));
}

TEST(CommandLine, ValuesWithoutFlagsStandAnywhereAndBehindTwoHyphens) {
  EXPECT_EQ(parse({"dir", "--seed", "3"}).directory, "dir");
  EXPECT_EQ(parse({"--seed", "3", "dir"}).directory, "dir");
  EXPECT_EQ(parse({"--seed", "3", "--", "--verbose"}).directory, "--verbose");
  EXPECT_EQ(parse({"-"}).directory, "-");
  EXPECT_THAT(refusal({"a", "b"}), HasSubstr("b: a value without a flag"));
  EXPECT_THAT(refusal({"-v"}), HasSubstr("unknown flag -v"));
  EXPECT_THAT(refusal({"--sed", "3"}), HasSubstr("nearest known flag --seed"));
}

TEST(CommandLine, HelpIsAFlagAndNoValue) {
  ::testing::internal::CaptureStdout();
  EXPECT_THROW(parse({"--seed", "3", "-h"}), HelpShown);
  EXPECT_THROW(parse({"--help"}), HelpShown);
  EXPECT_THROW(parse({"--bit_widths", "8", "-h"}), HelpShown);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), HasSubstr("--bit_widths"));
  EXPECT_EQ(parse({"--prompt", "-h"}).prompt, "-h");
}

TEST(CommandLine, NumbersAreTakenWholeOrRefused) {
  for (const char* text : {"",
                           " ",
                           " 5 ",
                           "5 ",
                           "5abc",
                           "abc",
                           "0x10",
                           "1_000",
                           "1,000",
                           "1e3",
                           "5.0",
                           "nan",
                           "inf",
                           "1e300",
                           "--",
                           "+-5",
                           "+",
                           "\xd9\xa3",
                           "99999999999999999999",
                           "9223372036854775808"}) {
    EXPECT_THAT(refusal({"--max_steps", text}), HasSubstr("--max_steps: found")) << text;
    EXPECT_THAT(refusal({"--seed", text}), HasSubstr("--seed: found")) << text;
    if (std::string_view(text) != "1,000") {
      EXPECT_THAT(refusal({"--bit_widths", "8", text}), HasSubstr("--bit_widths: found")) << text;
    }
  }
  for (const char* text : {"", " ", " 5 ", "5abc", "0x10", "1_000", "nan", "-NaN", "inf",
                           "-infinity", "1e400", "1,5", "--", "1e", "."}) {
    EXPECT_THAT(refusal({"--temperature", text}), HasSubstr("--temperature: found")) << text;
    EXPECT_THAT(refusal({"--rate", text}), HasSubstr("--rate: found")) << text;
  }
  EXPECT_THAT(refusal({"--temperature", "1e300"}), HasSubstr("32-bit float holds"));
  EXPECT_EQ(parse({"--rate", "1e300"}).rate, 1e300);
  EXPECT_THAT(refusal({"--seed", "-1"}), HasSubstr("a whole number, 0 or more"));
  EXPECT_THAT(refusal({"--max_steps", "2147483648"}), HasSubstr("at most 2147483647"));
  EXPECT_THAT(refusal({"--max_steps", "-2147483649"}), HasSubstr("at least -2147483648"));
  EXPECT_EQ(parse({"--max_steps", "-1"}).steps, -1);
  EXPECT_EQ(parse({"--max_steps", "+010"}).steps, 10);
  EXPECT_EQ(parse({"--temperature", "-1"}).temperature, -1.0F);
  EXPECT_EQ(parse({"--temperature=.5"}).temperature, 0.5F);
  EXPECT_EQ(parse({"--seed", "9223372036854775807"}).seed, 9223372036854775807U);
  EXPECT_EQ(parse({"--seed", "3", "--seed", "4"}).seed, 4U);
}

TEST(CommandLine, SwitchesTakeTrueAndFalse) {
  EXPECT_TRUE(parse({"--verbose"}).verbose);
  EXPECT_TRUE(parse({"--verbose=True"}).verbose);
  EXPECT_FALSE(parse({"--verbose", "--verbose=0"}).verbose);
  EXPECT_THAT(refusal({"--verbose=2"}), HasSubstr("expected true or false"));
  EXPECT_THAT(refusal({"--verbose="}), HasSubstr("found \"\""));
}

TEST(CommandLine, ValuesAreOfTheTypeDeclared) {
  const Json defaults = parse({}).values;
  EXPECT_EQ(defaults["--run_name"], "7");
  EXPECT_EQ(defaults["--seed"], 5);
  EXPECT_EQ(defaults["--rate"], 1e-3);
  EXPECT_EQ(defaults["--verbose"], false);
  EXPECT_EQ(defaults["--stop"], "[]");
  for (const char* text : {"007", "1e5", "NaN", "true", "null", "3"})
    EXPECT_EQ(parse({"--run_name", text}).values["--run_name"], text);
  const Json given = parse({"--bit_widths", "8", "4", "--stop", "1", "--rate", ".25", "--verbose=0",
                            "--temperature", "1", "--text", "2"})
                         .values;
  EXPECT_EQ(given["--bit_widths"], Json::array({8, 4}));
  EXPECT_EQ(given["--stop"], Json::array({"1"}));
  EXPECT_EQ(given["--rate"], 0.25);
  EXPECT_EQ(given["--temperature"], 1);
  EXPECT_EQ(given["--verbose"], false);
  EXPECT_EQ(given["--prompt"], "2");
}

class ConfigFile : public ::testing::Test {
 protected:
  Given read(const std::string& name, const std::string& text,
             std::vector<std::string> arguments = {}) {
    std::ofstream(dir_.file(name), std::ios::binary) << text;
    arguments.insert(arguments.end(), {"--config", dir_.file(name)});
    return parse(arguments);
  }
  TempDir dir_;
};

TEST_F(ConfigFile, HoldsValuesOfEveryType) {
  const std::string json =
      R"({"prompt": "--verbose", "run-name": "", "stop": ["-h", "--seed=1", "", "{}"],
          "bit_widths": [8, 4], "seed": 7, "temperature": 2, "rate": 2e-5, "verbose": true})";
  const std::string toml =
      "prompt = \"--verbose\"\nrun-name = ''\nstop = [\"-h\", \"--seed=1\", '', '{}']\n"
      "bit_widths = [8, 4]\nseed = 7\ntemperature = 2\nrate = 2e-5\nverbose = true\n";
  for (const Given& given : {read("a.json", json), read("a.toml", toml)}) {
    EXPECT_EQ(given.prompt, "--verbose");
    EXPECT_EQ(given.name, "");
    EXPECT_THAT(given.stop, ElementsAre("-h", "--seed=1", "", "{}"));
    EXPECT_THAT(given.bit_widths, ElementsAre(8, 4));
    EXPECT_EQ(given.seed, 7U);
    EXPECT_EQ(given.temperature, 2.0F);
    EXPECT_EQ(given.rate, 2e-5);
    EXPECT_TRUE(given.verbose);
    EXPECT_TRUE(given.stop_is_given);
  }
  const Given won = read("a.json", json, {"--text=a", "--stop", "b", "--verbose=false"});
  EXPECT_EQ(won.prompt, "a");
  EXPECT_THAT(won.stop, ElementsAre("b"));
  EXPECT_FALSE(won.verbose);
  EXPECT_EQ(won.seed, 7U);
}

TEST_F(ConfigFile, RefusesByNameWhatNoFlagTakes) {
  const std::pair<const char*, const char*> cases[] = {
      {"[train]\nseed = 1\n", "train"},
      {"sed = 1\n", "nearest known flag --seed"},
      {"seed = [1]\n", "seed: found a list, expected one value"},
      {"stop = []\n", "stop: found an empty list"},
      {"stop = [['a']]\n", "stop: found a list"},
      {"prompt = {a = 1}\n", "prompt: found a table"},
      {"seed = -1\n", "--seed: found -1"},
      {"seed = 1.5\n", "--seed: found 1.5"},
      {"rate = nan\n", "--rate: found nan"},
      {"rate = inf\n", "--rate: found inf"},
      {"rate = \"x\"\n", "--rate: found x"},
      {"verbose = 'maybe'\n", "--verbose: found maybe"},
      {"config = 'a'\n", "config names another file"},
      {"run_name = 'a'\nrun-name = 'b'\n", "are one flag"},
      {"\"seed=1\" = 2\n", "unknown key seed=1"},
  };
  for (const auto& [text, message] : cases) {
    EXPECT_THAT(error_of([&, content = text] { read("bad.toml", content); }).message,
                HasSubstr(message))
        << text;
  }
  EXPECT_EQ(error_of([&] { read("bad.json", "[1]"); }).kind, ErrorKind::kBadInput);
  EXPECT_EQ(error_of([&] { parse({"--config", dir_.file("none")}); }).kind, ErrorKind::kNotFound);
  EXPECT_THAT(refusal({"--config"}), HasSubstr("needs a value"));
}

// Any bytes but NUL, which no argument holds; hyphens, brackets and the like often.
std::string random_text(std::mt19937& random) {
  constexpr std::string_view kOften = "--=[]{},%'\"\\ \n\thseed0123";
  std::string text(random() % 12, ' ');
  for (char& c : text) {
    c = random() % 2 == 0 ? kOften[random() % kOften.size()]
                          : static_cast<char>(1 + random() % 255);
  }
  return text;
}

// text as a TOML or JSON string; only for ASCII.
std::string escaped(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) result += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
  return result + "\"";
}

TEST_F(ConfigFile, AnyBytesArriveUnchanged) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    const std::string text = random_text(random);
    ASSERT_EQ(parse({"--prompt=" + text}).prompt, text);
    ASSERT_THAT(parse({"--stop=" + text, "--stop=" + text}).stop, ElementsAre(text, text));
    const bool is_flag = text.starts_with("--seed") || text.starts_with("--verbose");
    if (!is_flag) {
      ASSERT_EQ(parse({"--prompt", text, "--seed", "1"}).prompt, text);
    }
    if (round % 10 != 0) continue;
    std::string ascii = text;
    for (char& c : ascii) c = (c & 0x7f) != 0 ? static_cast<char>(c & 0x7f) : 'x';
    ASSERT_EQ(read("r.toml", "prompt = " + escaped(ascii) + "\n").prompt, ascii);
    ASSERT_EQ(read("r.json", "{\"prompt\": " + escaped(ascii) + "}").prompt, ascii);
  }
  EXPECT_EQ(read("u.toml", "prompt = \"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"\n").prompt,
            "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
}

}  // namespace command_line_test
}  // namespace qalof::cli
