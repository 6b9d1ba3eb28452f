#include "core/finite.h"

#include <gmock/gmock.h>

#include <limits>
#include <vector>

#include "core/error.h"
#include "support/error_of.h"

namespace qalof {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Finite, NamesWhatIsNotAndWhere) {
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    const auto error = qalof::testing::error_of(
        [&] { check_finite(value, "the loss", [] { return std::string("t.txt: token 7"); }); });
    EXPECT_EQ(error.kind, ErrorKind::kDiverged);
    EXPECT_THAT(error.message, AllOf(HasSubstr("t.txt: token 7: the loss is "),
                                     HasSubstr(fmt::format("{}", value))));
  }
}

TEST(Finite, AsksWhereOnFailureAlone) {
  int asked = 0;
  const auto where = [&] {
    ++asked;
    return std::string("here");
  };
  check_finite(1e308, "a number", where);
  std::vector<float> values = {0.0F, -3e38F, 3e38F};
  check_finite(std::span<const float>(values), "a number", where);
  EXPECT_EQ(asked, 0);
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    values[1] = bad;
    EXPECT_EQ(qalof::testing::error_of([&] {
                check_finite(std::span<const float>(values), "a number", where);
              }).kind,
              ErrorKind::kDiverged);
  }
  EXPECT_EQ(asked, 3);
}

}  // namespace
}  // namespace qalof
