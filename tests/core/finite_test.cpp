// Checks for NaN and infinity: which number, of which kind, in which file, tensor and place.
#include "core/finite.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "support/error_of.h"

namespace qalof {
namespace finite_test {

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

TEST(FiniteTensor, FindsTheFirstOfEveryKindAtEveryPlace) {
  EXPECT_EQ(first_not_finite({}), 0U);
  for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity}) {
    std::vector<float> values(5000, std::numeric_limits<float>::max());
    values[7] = -std::numeric_limits<float>::max();
    values[8] = std::numeric_limits<float>::denorm_min();
    EXPECT_EQ(first_not_finite(values), values.size());
    for (const std::size_t at : {4999U, 4097U, 4096U, 4095U, 17U, 0U}) {
      values[at] = bad;
      EXPECT_EQ(first_not_finite(values), at);
    }
  }
}

TEST(FiniteTensor, NamesFileTensorPlaceAndValue) {
  const std::vector<float> values = {1.0F, -kInfinity};
  EXPECT_NO_THROW(check_finite_tensor(std::span(values).first(1), "f", "t"));
  const auto error =
      testing::error_of([&] { check_finite_tensor(values, "dir", "wte.weight", 30); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_EQ(error.message,
            "dir: tensor wte.weight holds -inf at value 31, expected finite numbers");
}

}  // namespace finite_test
}  // namespace qalof
