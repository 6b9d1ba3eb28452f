// Progress by the clock: every call carries its time, so that nothing waits.
#include "cli/progress_display.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <vector>

namespace qalof::cli {
namespace progress_display_test {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr ProgressDisplay::Time kStart{};
constexpr const char* kClear = "\r\x1b[K";

ProgressDisplay::Time at(double value) {
  return kStart + std::chrono::duration_cast<milliseconds>(std::chrono::duration<double>(value));
}

TEST(ProgressDisplay, LongFirstStepShowsWithinASecondOnATerminal) {
  ProgressDisplay display(true, kStart);
  EXPECT_EQ(display.status(at(0), "reading train.json"), "") << "what is short flickers";
  EXPECT_EQ(display.tick(at(0.5)), "");
  EXPECT_EQ(display.tick(at(1)), std::string(kClear) + "reading train.json 1s");
  EXPECT_EQ(display.tick(at(1.5)), "") << "once a second";
  EXPECT_THAT(display.progress(at(3), "train w8", 0, 100, ""),
              HasSubstr("train w8  [>              ]    0 %    0/100"));
  display.status(at(3), "step 1 of 100: w8 forward, batch 1 of 4");
  EXPECT_THAT(display.tick(at(4)), HasSubstr("(step 1 of 100: w8 forward, batch 1 of 4 1s)"));
  display.status(at(7), "step 1 of 100: w8 backward, batch 4 of 4");
  EXPECT_THAT(display.tick(at(9)), HasSubstr("  0/100  0:00:06  (step 1 of 100: w8 backward"));
}

TEST(ProgressDisplay, TimeLeftComesAfterTwoUnitsAndLeavesTheFirstOut) {
  ProgressDisplay display(true, kStart);
  display.progress(at(0), "train w8", 0, 10, "");
  EXPECT_THAT(display.progress(at(30), "train w8", 1, 10, "loss 2"), Not(HasSubstr("ETA")));
  EXPECT_THAT(display.progress(at(40), "train w8", 2, 10, "loss 1"),
              EndsWith("   2/10  0.1/s  ETA 0:01:20  loss 1"));
  EXPECT_THAT(display.tick(at(45)), EndsWith("  ETA 0:01:15  loss 1"));
  EXPECT_THAT(display.tick(at(999)), EndsWith("  ETA 0:00:00  loss 1"));
}

TEST(ProgressDisplay, TerminalIsRedrawnTenTimesASecondAtMost) {
  ProgressDisplay display(true, kStart);
  int drawn = 0;
  for (int i = 0; i < 10'000; ++i)
    drawn += display.progress(at(i * 0.001), "windows", i, 20'000, "").empty() ? 0 : 1;
  EXPECT_LE(drawn, 101);
  EXPECT_GE(drawn, 90);
}

// Long runs leave short logs, whatever --logging_steps says.
TEST(ProgressDisplay, LogHasALineEveryTenThirtyAndSixtySeconds) {
  ProgressDisplay display(false, kStart);
  std::vector<double> lines;
  for (int second = 0; second <= 3600; ++second) {
    std::string text = display.tick(at(second));
    if (second % 10 == 0)
      text += display.progress(at(second), "train w8", second / 10, 1000, "loss 1");
    EXPECT_THAT(text, Not(HasSubstr("\r")));
    if (text.empty()) continue;
    EXPECT_THAT(text, StartsWith("train w8 "));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
    lines.push_back(second);
  }
  EXPECT_EQ(lines[0], 10);
  EXPECT_EQ(lines[1], 20);
  ASSERT_EQ(lines.size(), 73U);
  EXPECT_EQ(lines[6] - lines[5], 30);
  EXPECT_EQ(lines.back() - lines[lines.size() - 2], 60);
}

TEST(ProgressDisplay, LogTellsOfASilentStep) {
  ProgressDisplay display(false, kStart);
  EXPECT_EQ(display.line(at(2), "phase w8: 100 steps"), "phase w8: 100 steps\n");
  display.progress(at(2), "train w8", 0, 100, "");
  display.status(at(2), "step 1 of 100: w8 forward");
  EXPECT_EQ(display.tick(at(11)), "") << "nine seconds after the last line";
  EXPECT_EQ(display.tick(at(12)), "train w8 0/100  10s  (step 1 of 100: w8 forward 10s)\n");
}

TEST(ProgressDisplay, EndIsToldOnce) {
  for (const bool is_terminal : {true, false}) {
    ProgressDisplay display(is_terminal, kStart);
    display.progress(at(0), "texts", 0, 9, "");
    EXPECT_THAT(display.progress(at(3), "texts", 9, 9, ""), EndsWith("texts 9/9  3s\n"));
    EXPECT_EQ(display.progress(at(3), "texts", 9, 9, ""), "");
    EXPECT_EQ(display.tick(at(100)), "") << "nothing goes on";
    EXPECT_EQ(display.end(), "");
    // The same again is new.
    display.progress(at(100), "texts", 0, 9, "");
    EXPECT_THAT(display.progress(at(101), "texts", 9, 9, ""), EndsWith("texts 9/9  1s\n"));
  }
}

TEST(ProgressDisplay, LinesStayAndNothingIsDrawnAfterTheEnd) {
  ProgressDisplay display(true, kStart);
  display.progress(at(5), "windows", 1, 9, "");
  EXPECT_EQ(display.line(at(5), "warning: odd"), std::string(kClear) + "warning: odd\n");
  EXPECT_NE(display.tick(at(6)), "");
  EXPECT_EQ(display.status(at(7), ""), kClear);
  EXPECT_EQ(display.tick(at(100)), "") << "standard output may be the same terminal";
}

TEST(ProgressDisplay, LinesAreCutToTheTerminalAndCommandNothing) {
  ProgressDisplay display(true, kStart);
  display.set_columns(12);
  display.status(at(0), "reading \xc3\xa4\xc3\xb6\xc3\xbc\xc3\x9f.json");
  EXPECT_EQ(display.tick(at(1)), std::string(kClear) + "reading \xc3\xa4\xc3\xb6\xc3\xbc");
  display.set_columns(0);
  display.status(at(2), "reading \x1b[31m");
  EXPECT_THAT(display.tick(at(3)), HasSubstr("reading \\x1b[31m"));
}

TEST(ProgressDisplay, LogHasNeitherBarNorColour) {
  ProgressDisplay display(false, kStart, {/*unicode=*/true, /*colour=*/true});
  display.progress(at(0), "train w8", 0, 10, "", "steps");
  display.progress(at(20), "train w8", 1, 10, "loss 2", "steps");
  EXPECT_EQ(display.progress(at(40), "train w8", 2, 10, "loss 1", "steps"),
            "train w8 2/10  loss 1  2m40s left\n");
}

TEST(ProgressDisplay, BarCommandsNothing) {
  ProgressDisplay display(true, kStart);
  display.status(at(0), "packing");
  display.progress(at(1), "tensors", 1, 9, "h.0.\x1b[2Jc_fc");
  EXPECT_THAT(display.tick(at(2)), HasSubstr("h.0.\\x1b[2Jc_fc"));
}

BarLine training() {
  BarLine line;
  line.label = "training";
  line.done = 1234;
  line.total = 2371;
  line.unit = "steps";
  line.rate = 3.06;
  line.left = 372;
  line.detail = "loss 1.25, lr 1.00e-03";
  line.status = "step 1235 of 2371: w8 forward";
  return line;
}

TEST(ProgressBar, ShowsPercentCountsRateAndTimeLeft) {
  EXPECT_EQ(bar_line(training(), 160, {/*unicode=*/true, /*colour=*/false}),
            "training  ━━━━━━━━━━━━━━━━╸                  52 %  1,234/2,371 steps  3.1 steps/s  "
            "ETA 0:06:12  loss 1.25, lr 1.00e-03  (step 1235 of 2371: w8 forward)");
  EXPECT_EQ(bar_line(training(), 160, {/*unicode=*/false, /*colour=*/false}).substr(0, 52),
            "training  [===============>              ]   52 %  1");
}

TEST(ProgressBar, NarrowTerminalsDropTheLeastTellingPartsFirst) {
  const auto at_width = [](std::size_t columns) {
    return bar_line(training(), columns, {/*unicode=*/true, /*colour=*/false});
  };
  EXPECT_EQ(at_width(120),
            "training  ━━━━━━━━━━━              52 %  1,234/2,371 steps  3.1 steps/s  ETA 0:06:12  "
            "loss 1.25, lr 1.00e-03");
  EXPECT_EQ(at_width(79),
            "training  ━━━━━╸        52 %  1,234/2,371 steps  3.1 steps/s  ETA 0:06:12");
  EXPECT_EQ(at_width(64), "training  ━━━━       52 %  1,234/2,371 steps  ETA 0:06:12");
  EXPECT_EQ(at_width(39), "training  ━━━━       52 %  ETA 0:06:12");
  EXPECT_EQ(at_width(28), "training   52 %  ETA 0:06:12");
  EXPECT_EQ(at_width(16), "training   52 %");
  EXPECT_EQ(at_width(5), "train");
}

TEST(ProgressBar, FitsEveryWidthWhateverItHolds) {
  const auto columns_of = [](const std::string& text) {
    std::size_t count = 0;
    bool in_code = false;
    for (const char byte : text) {
      in_code = in_code || byte == '\x1b';
      const bool begins = (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U;
      if (!in_code && begins) ++count;
      in_code = in_code && byte != 'm';
    }
    return count;
  };
  std::vector<BarLine> lines = {training(), {}};
  lines.push_back(training());
  lines.back().label = "questions x units äöü";
  lines.back().total = UINT64_MAX;
  lines.back().left = 1e300;
  lines.back().rate = 1e-300;
  lines.push_back(lines.back());
  lines.back().done = UINT64_MAX;
  lines.back().rate = 1e300;
  lines.back().detail = ", , one";
  for (const BarLine& line : lines) {
    for (std::size_t columns = 1; columns < 300; ++columns) {
      for (const BarStyle style : {BarStyle{false, false}, {true, false}, {true, true}})
        ASSERT_LE(columns_of(bar_line(line, columns, style)), columns);
    }
  }
}

TEST(ProgressBar, ColourAndUnicodeAreLeftOutWhereAsked) {
  for (const bool unicode : {false, true}) {
    const std::string plain = bar_line(training(), 79, {unicode, /*colour=*/false});
    EXPECT_THAT(plain, Not(HasSubstr("\x1b")));
    EXPECT_EQ(std::all_of(plain.begin(), plain.end(), [](char c) { return c >= ' '; }), !unicode);
  }
  EXPECT_THAT(bar_line(training(), 79, {/*unicode=*/true, /*colour=*/true}),
              HasSubstr("\x1b[36m━━━━━╸\x1b[90m━━━━━\x1b[0m   52 %"));
}

TEST(ProgressBar, RatesHaveTwoDigitsOrMore) {
  const std::pair<double, const char*> cases[] = {{0.02, " 50 s each "}, {0.25, " 0.25/s "},
                                                  {3.14, " 3.1/s "},     {12.34, " 12.3/s "},
                                                  {99.96, " 100/s "},    {123456.7, " 123,457/s "}};
  for (const auto& [rate, text] : cases) {
    BarLine line = training();
    line.unit.clear();
    line.rate = rate;
    EXPECT_THAT(bar_line(line, 160, {}), HasSubstr(text));
  }
}

TEST(ProgressDisplay, UnknownTotalCountsOn) {
  ProgressDisplay display(true, kStart);
  display.progress(at(1), "lines", 5, 0, "");
  EXPECT_THAT(display.progress(at(2), "lines", 7, 0, ""), HasSubstr("lines 7"));
  EXPECT_NE(display.tick(at(3)), "");
}

}  // namespace progress_display_test
}  // namespace qalof::cli
