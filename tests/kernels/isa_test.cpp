#include "kernels/isa.h"

#include <gmock/gmock.h>

#include <cstdlib>

#include "core/error.h"

namespace qalof::kernels {
namespace {

TEST(Isa, TextFormsRoundTrip) {
  for (const Isa isa : available_isas()) EXPECT_EQ(parse_isa(to_string(isa)), isa);
}

TEST(Isa, PortableIsAlwaysAvailableAndFirst) {
  ASSERT_FALSE(available_isas().empty());
  EXPECT_EQ(available_isas().front(), Isa::kPortable);
}

TEST(Isa, UnknownNameIsAUsageErrorThatListsTheKnownOnes) {
  try {
    parse_isa("avx9");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.what(),
                testing::AllOf(testing::HasSubstr("avx9"), testing::HasSubstr("portable, avx2")));
  }
}

// The variable is read once, so each value needs a process of its own.
void expect_exit_with_variable(const char* value, int exit_code) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  setenv("QALOF_ISA", value, /*overwrite=*/1);
  EXPECT_EXIT(
      {
        try {
          std::exit(active_isa() == Isa::kPortable ? 10 : 11);
        } catch (const Error& error) {
          std::exit(static_cast<int>(error.kind()));
        }
      },
      testing::ExitedWithCode(exit_code), "");
  unsetenv("QALOF_ISA");
}

TEST(IsaDeathTest, VariableChoosesTheSet) { expect_exit_with_variable("portable", 10); }

TEST(IsaDeathTest, EmptyVariableMeansTheBest) {
  expect_exit_with_variable("", available_isas().back() == Isa::kPortable ? 10 : 11);
}

TEST(IsaDeathTest, UnknownVariableIsAUsageError) {
  expect_exit_with_variable("sse1", static_cast<int>(ErrorKind::kUsage));
}

TEST(Isa, ForceChangesTheActiveSet) {
  const Isa before = active_isa();
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    EXPECT_EQ(active_isa(), isa);
  }
  force_isa(before);
}

}  // namespace
}  // namespace qalof::kernels
