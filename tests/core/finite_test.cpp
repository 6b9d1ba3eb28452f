#include "core/finite.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "support/error_of.h"

namespace qalof {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Finite, FindsTheFirstOfEveryKindAtEveryPlace) {
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

TEST(Finite, NamesFileTensorPlaceAndValue) {
  const std::vector<float> values = {1.0F, -kInfinity};
  EXPECT_NO_THROW(check_finite(std::span(values).first(1), "f", "t"));
  const auto error = testing::error_of([&] { check_finite(values, "dir", "wte.weight", 30); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_EQ(error.message,
            "dir: tensor wte.weight holds -inf at value 31, expected finite numbers");
}

}  // namespace
}  // namespace qalof
