// Packed files of every family give the bits of the directory, rotated ones too; a smoothed model
// keeps its function.
#include <gtest/gtest.h>

#include "runtime/fixture_model.h"
#include "support/family_model.h"
#include "weights/packed_file.h"
#include "weights/smoothing.h"

namespace qalof::runtime {
namespace family_packed_test {

using qalof::testing::family_base;
using qalof::testing::family_cases;
using qalof::testing::family_tokens;
using qalof::testing::hidden_of;

class FamilyPacked : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<const Execution> run(const std::shared_ptr<const weights::BaseModel>& base,
                                       const std::string& plan, const quant::QuantScheme& scheme) {
    quant::PrecisionPlan resolved = quant::resolve(quant::parse_plan(plan), base->target());
    resolved.scheme = scheme;
    return Execution::create(base, resolved, nullptr, serial_);
  }
  SerialFor serial_;
};

TEST_P(FamilyPacked, FileGivesTheBitsOfTheDirectory) {
  const auto base = family_base(GetParam());
  const model::ModelConfig& config = base->config();
  std::vector<quant::QuantScheme> schemes = {{}, {.group = 32}};
  for (const quant::Rotations& rotated : qalof::testing::possible_rotations(config))
    schemes.push_back({.rotations = rotated});
  const std::vector<std::int32_t> ids = family_tokens(30);
  for (const quant::QuantScheme& scheme : schemes) {
    SCOPED_TRACE(quant::to_string(scheme));
    const qalof::testing::TempDir dir;
    weights::PackRequest request;
    request.base = base;
    request.widths = {8, 4};
    request.scheme = scheme;
    weights::write_packed_file(dir.file("model.qalof"), request, serial_);
    const weights::PackedModel packed = weights::open_packed_file(dir.file("model.qalof"));
    EXPECT_EQ(packed.base->config().model_type, config.model_type);
    for (const char* plan : {"w8a8kv8", "w4a8kv4"}) {
      const auto expected = run(base, plan, scheme), found = run(packed.base, plan, scheme);
      const std::vector<float> hidden = hidden_of(*expected, ids);
      EXPECT_EQ(hidden, hidden_of(*found, ids)) << plan;
      EXPECT_EQ(lm_token_losses(*expected, hidden.data(), ids, serial_),
                lm_token_losses(*found, hidden.data(), ids, serial_))
          << plan;
    }
  }
}

TEST_P(FamilyPacked, SmoothingKeepsTheFunction) {
  const auto base = family_base(GetParam());
  weights::InputRanges ranges;
  for (const model::LinearSpec& spec : base->linears()) {
    std::vector<float>& range = ranges.emplace_back(spec.in);
    for (std::size_t i = 0; i < spec.in; ++i) range[i] = 0.25F + static_cast<float>(i % 7);
  }
  const std::vector<std::int32_t> ids = family_tokens(30);
  const std::vector<float> plain = hidden_of(*run(base, "32", {}), ids);
  const auto smoothed = weights::smooth(base, nullptr, ranges, 0.5F);
  const std::vector<float> found = hidden_of(*run(smoothed.base, "32", {}), ids);
  ASSERT_EQ(found.size(), plain.size());
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(found[i], plain[i], 2e-4F) << i;
}

INSTANTIATE_TEST_SUITE_P(, FamilyPacked, ::testing::ValuesIn(qalof::testing::family_case_names()),
                         [](const auto& test) { return test.param; });

}  // namespace family_packed_test
}  // namespace qalof::runtime
