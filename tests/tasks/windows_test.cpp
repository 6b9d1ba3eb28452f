// Windows in a file are those that were added.
#include "tasks/windows.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "support/temp_dir.h"

namespace qalof::tasks {
namespace windows_test {

TEST(Windows, InAFileAreThoseInMemory) {
  std::vector<Example> examples(4);
  examples[0].ids = {5, 6, 7};
  examples[1].ids = {1, 2};
  examples[1].scored = {0, 1};
  examples[2].ids = {9};
  examples[2].start = 3;
  examples[2].end = 4;
  examples[2].label = -1;
  examples[3].ids.assign(5000, 8);
  const qalof::testing::TempDir dir;
  WindowFile file(dir.file("windows"));
  EXPECT_TRUE(Windows(file).empty());
  for (const Example& example : examples) file.add(example);
  EXPECT_EQ(file.longest(), 5000U);
  for (const Windows& windows : {Windows(examples), Windows(file)}) {
    ASSERT_EQ(windows.size(), 4U);
    EXPECT_EQ(windows.tokens(), 5006U);
    for (const std::size_t w : {3U, 0U, 2U, 1U}) {
      const Example read = windows[w];
      EXPECT_EQ(windows.length(w), examples[w].ids.size());
      EXPECT_EQ(read.ids, examples[w].ids);
      EXPECT_EQ(read.scored, examples[w].scored);
      EXPECT_EQ(read.start, examples[w].start);
      EXPECT_EQ(read.end, examples[w].end);
      EXPECT_EQ(read.label, examples[w].label);
    }
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path())) << "the file has no name";
}

}  // namespace windows_test
}  // namespace qalof::tasks
