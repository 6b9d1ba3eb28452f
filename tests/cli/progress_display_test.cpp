// Progress by the clock: every call carries its time, so that nothing waits.
#include "cli/progress_display.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <vector>

namespace qalof::cli {
namespace {

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
  EXPECT_THAT(display.progress(at(3), "train w8", 0, 100, ""), HasSubstr("train w8 0/100"));
  display.status(at(3), "step 1 of 100: w8 forward, batch 1 of 4");
  EXPECT_THAT(display.tick(at(4)), HasSubstr("(step 1 of 100: w8 forward, batch 1 of 4 1s)"));
  display.status(at(7), "step 1 of 100: w8 backward, batch 4 of 4");
  EXPECT_THAT(display.tick(at(9)), HasSubstr("train w8 0/100  6s  (step 1 of 100: w8 backward"));
}

TEST(ProgressDisplay, TimeLeftComesAfterTwoUnitsAndLeavesTheFirstOut) {
  ProgressDisplay display(true, kStart);
  display.progress(at(0), "train w8", 0, 10, "");
  EXPECT_THAT(display.progress(at(30), "train w8", 1, 10, "loss 2"), Not(HasSubstr("left")));
  EXPECT_THAT(display.progress(at(40), "train w8", 2, 10, "loss 1"),
              EndsWith("train w8 2/10  loss 1  1m20s left"));
  EXPECT_THAT(display.tick(at(45)), EndsWith("  1m15s left"));
  EXPECT_THAT(display.tick(at(999)), EndsWith("  0s left"));
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

TEST(ProgressDisplay, UnknownTotalCountsOn) {
  ProgressDisplay display(true, kStart);
  display.progress(at(1), "lines", 5, 0, "");
  EXPECT_THAT(display.progress(at(2), "lines", 7, 0, ""), HasSubstr("lines 7"));
  EXPECT_NE(display.tick(at(3)), "");
}

}  // namespace
}  // namespace qalof::cli
