// Allocations that fail say what they were for.
#include "core/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

#include "support/error_of.h"

namespace qalof {
namespace memory_test {

using testing::error_of;
using ::testing::HasSubstr;

TEST(ResizeFor, NamesWhatCannotBe) {
  std::vector<float> values;
  resize_for("a few numbers", values, 10);
  EXPECT_EQ(values.size(), 10U);
  // More than a vector may have.
  const auto error = error_of([&] { resize_for("a KV cache", values, SIZE_MAX / 2); });
  EXPECT_EQ(error.kind, ErrorKind::kResource);
  EXPECT_THAT(error.message, HasSubstr("out of memory: a KV cache needs"));
  EXPECT_EQ(values.size(), 10U);
}

// A process of its own, because the limit is the process's.
TEST(ResizeFor, NamesHowMuchTheSystemRefused) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs more addresses than the limit leaves";
#endif
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{std::size_t{1} << 30, std::size_t{1} << 30};
    ::setrlimit(RLIMIT_AS, &limit);
    std::vector<double> values;
    try {
      resize_for("buffers", values, 500'000'000);
    } catch (const OutOfMemory& error) {
      ::_exit(std::string(error.what()) == "out of memory: buffers need 4000 MB" ? 0 : 2);
    }
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace memory_test
}  // namespace qalof
