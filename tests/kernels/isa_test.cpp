#include "kernels/isa.h"

#include <gmock/gmock.h>

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
