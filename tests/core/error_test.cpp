// Error messages: whole and harmless whatever a file put into them.
#include "core/error.h"

#include <gtest/gtest.h>

#include "support/error_of.h"

namespace qalof {
namespace error_test {

TEST(Error, KeepsKindAndWords) {
  const auto error = testing::error_of(
      [] { fail(ErrorKind::kBadInput, "a.json: bits {}, expected {}", 9, "2..8"); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_EQ(error.message, "a.json: bits 9, expected 2..8");
}

TEST(Error, WritesControlBytesOut) {
  const Error error(ErrorKind::kBadInput, std::string("a\0b\x1b[2Jc\x7f \xc3\xa9\n", 13));
  EXPECT_EQ(std::string(error.what()), "a\\x00b\\x1b[2Jc\\x7f \xc3\xa9\n");
}

TEST(QalofCheck, ThrowsOnlyWhereTheConditionFails) {
  EXPECT_NO_THROW(QALOF_CHECK(1 + 1 == 2, ErrorKind::kUsage, "never"));
  EXPECT_EQ(testing::error_of([] { QALOF_CHECK(false, ErrorKind::kUsage, "x is {}", 1); }).message,
            "x is 1");
}

}  // namespace error_test
}  // namespace qalof
