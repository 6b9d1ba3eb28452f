// Choosing the instruction set: names, order, the environment variable and its errors.
#include "kernels/isa.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "core/error.h"

namespace qalof::kernels {
namespace isa_test {

TEST(Isa, TextFormsRoundTrip) {
  for (const Isa isa : known_isas()) EXPECT_EQ(parse_isa(to_string(isa)), isa);
#if defined(__x86_64__)
  EXPECT_EQ(known_isas().size(), 7U);
  EXPECT_EQ(parse_isa("avx512vnni"), Isa::kAvx512Vnni);
#elif defined(__aarch64__)
  EXPECT_EQ(known_isas().size(), 4U);
  EXPECT_EQ(parse_isa("neon_i8mm"), Isa::kNeonI8mm);
#endif
}

TEST(Isa, AvailableSetsAreKnownInTheSameOrderAndImplyThoseTheyHold) {
  const std::vector<Isa> available = available_isas();
  EXPECT_TRUE(std::is_sorted(available.begin(), available.end()));
  const auto has = [&](Isa isa) {
    return std::find(available.begin(), available.end(), isa) != available.end();
  };
  for (const auto& [wide, held] : {std::pair{Isa::kAvxVnni, Isa::kAvx2},
                                   {Isa::kAvx512, Isa::kAvx2},
                                   {Isa::kAvx512Vnni, Isa::kAvx512},
                                   {Isa::kAvx512Bf16, Isa::kAvx512Vnni},
                                   {Isa::kAmx, Isa::kAvx512Bf16},
                                   {Isa::kNeonDotprod, Isa::kNeon},
                                   {Isa::kNeonI8mm, Isa::kNeonDotprod}}) {
    EXPECT_TRUE(!has(wide) || has(held)) << to_string(wide);
  }
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
    EXPECT_THAT(
        error.what(),
        testing::AllOf(testing::HasSubstr("avx9"),
                       testing::HasSubstr("portable, " + std::string(to_string(known_isas()[1])))));
  }
}

// Sets the variable and, at its end, what it was before: tests that follow may run on that set.
class VariableIs {
 public:
  explicit VariableIs(const std::string& value) {
    if (const char* before = std::getenv("QALOF_ISA")) before_ = before;
    setenv("QALOF_ISA", value.c_str(), /*overwrite=*/1);
  }
  ~VariableIs() {
    if (before_) {
      setenv("QALOF_ISA", before_->c_str(), /*overwrite=*/1);
    } else {
      unsetenv("QALOF_ISA");
    }
  }

 private:
  std::optional<std::string> before_;
};

// The variable is read once, so each value needs a process of its own.
void expect_exit_with_variable(const char* value, int exit_code) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const VariableIs variable(value);
  EXPECT_EXIT(
      {
        try {
          std::exit(active_isa() == Isa::kPortable ? 10 : 11);
        } catch (const Error& error) {
          std::exit(static_cast<int>(error.kind()));
        }
      },
      testing::ExitedWithCode(exit_code), "");
}

TEST(IsaDeathTest, VariableChoosesTheSet) { expect_exit_with_variable("portable", 10); }

TEST(IsaDeathTest, VariableChoosesEveryAvailableSetAndRefusesOthers) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const std::vector<Isa> available = available_isas();
  for (const Isa isa : known_isas()) {
    const bool can = std::find(available.begin(), available.end(), isa) != available.end();
    const VariableIs variable{std::string(to_string(isa))};
    EXPECT_EXIT(
        {
          try {
            std::exit(active_isa() == isa ? 20 : 21);
          } catch (const Error& error) {
            std::exit(error.kind() == ErrorKind::kUnsupported ? 22 : 23);
          }
        },
        testing::ExitedWithCode(can ? 20 : 22), "");
  }
}

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

}  // namespace isa_test
}  // namespace qalof::kernels
