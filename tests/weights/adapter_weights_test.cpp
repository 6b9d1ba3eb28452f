// Weights that adapters own: learned steps and clip factors, and merged products, in executions,
// packed files and directories.
#include "weights/adapter_weights.h"

#include <gmock/gmock.h>

#include "core/file.h"
#include "core/json.h"
#include "io/adapter_dir.h"
#include "io/safetensors.h"
#include "runtime/fixture_model.h"
#include "support/error_of.h"
#include "support/tiny_model.h"
#include "weights/derived_model.h"
#include "weights/packed_file.h"

namespace qalof::runtime {
namespace adapter_weights_test {

using qalof::testing::error_of;
using qalof::testing::execution_of;
using qalof::testing::hidden_of;
using qalof::testing::TempDir;
using qalof::testing::tensor_values;
using ::testing::HasSubstr;

const std::vector<std::int32_t> kIds = {1, 5, 96, 33, 33, 7, 0, 64, 12, 90};

class AdapterWeightsTest : public ::testing::Test {
 protected:
  AdapterWeightsTest() {
    qalof::testing::write_model(dir_.path(), qalof::testing::tiny_config());
    base_ = weights::BaseModel::load_directory(dir_.path());
  }

  // Learned values for 4 bits: steps a little larger than the scheme's, clips below 1.
  weights::LearnedQuantizers learned_for(const quant::QuantScheme& scheme) {
    weights::LearnedQuantizers learned{4, scheme, {}};
    for (std::size_t i = 0; i < base_->linears().size(); ++i) {
      const model::LinearSpec& spec = base_->linears()[i];
      const weights::RowCodes start = weights::quantize_weights(
          base_->source().linear_f32(i), spec.out, spec.in, 4, scheme, serial_);
      weights::LearnedLinear& values = learned.linears.emplace_back();
      values.steps = start.scales;
      values.zeros = start.zeros;
      // Powers of two are exact in every stored form.
      for (std::size_t j = 0; j < values.steps.size(); j += 3) values.steps[j] *= 0.5F;
      values.clip = 0.5F + 0.01F * static_cast<float>(i % 7);
    }
    return learned;
  }
  std::shared_ptr<weights::Adapter> adapter_of(int width, bool merged) {
    auto adapter = std::make_shared<weights::Adapter>();
    adapter->rank = 3;
    adapter->alpha = 6;
    adapter->merged = merged;
    for (const model::LinearSpec& spec : base_->linears()) {
      const std::string name = fmt::format("{}.{}", spec.name, width);
      adapter->linears.push_back(std::make_unique<weights::LoraLinear>(
          3, 2.0F, tensor_values(name + "a", 3 * spec.in, 0.1F),
          tensor_values(name + "b", 3 * spec.out, 0.1F), spec.in, spec.out));
    }
    adapter->qa_head =
        weights::Head{2, tensor_values("head", 2 * base_->config().hidden, 0.3F), {0, 0}};
    return adapter;
  }
  // Adapters of 8 and 4 bits; the second has learned values where a scheme is given.
  std::shared_ptr<weights::AdapterSet> set_of(
      bool merged, std::optional<quant::QuantScheme> learned = std::nullopt) {
    auto set = std::make_shared<weights::AdapterSet>();
    for (const int width : {8, 4}) {
      const std::shared_ptr<weights::Adapter> adapter = adapter_of(width, merged);
      if (width == 4 && learned) adapter->learned = learned_for(*learned);
      set->by_width[width] = adapter;
    }
    return set;
  }
  std::vector<float> hidden(const std::shared_ptr<const weights::BaseModel>& base,
                            const std::string& plan,
                            std::shared_ptr<const weights::AdapterSet> adapters,
                            const quant::QuantScheme& scheme = {}) {
    quant::PlanSpec spec = quant::parse_plan(plan);
    spec.scheme = scheme;
    return hidden_of(*Execution::create(base, quant::resolve(spec, base->target()),
                                        std::move(adapters), serial_),
                     kIds);
  }
  weights::PackedModel packed(const std::shared_ptr<const weights::AdapterSet>& adapters,
                              const quant::QuantScheme& scheme = {}) {
    weights::PackRequest request{base_, adapters, {8, 4}, std::nullopt, dir_.path(), scheme};
    weights::write_packed_file(dir_.file("packed"), request, serial_);
    return weights::open_packed_file(dir_.file("packed"));
  }

  TempDir dir_;
  SerialFor serial_;
  std::shared_ptr<const weights::BaseModel> base_;
};

TEST_F(AdapterWeightsTest, LearnedValuesRunInTheirWidthAlone) {
  for (const char* name : {"seed", "g32", "g32-asym+aasym+ag32"}) {
    SCOPED_TRACE(name);
    const quant::QuantScheme scheme = quant::parse_scheme(name, "test");
    const auto plain = set_of(/*merged=*/false);
    const auto learned = set_of(/*merged=*/false, scheme);
    EXPECT_EQ(hidden(base_, "8", plain, scheme), hidden(base_, "8", learned, scheme));
    EXPECT_EQ(hidden(base_, "16", plain), hidden(base_, "16", learned));
    const auto at_four = hidden(base_, "w4a4kv8", learned, scheme);
    EXPECT_NE(hidden(base_, "w4a4kv8", plain, scheme), at_four);
    // The weights and the range of one linear, from the definition.
    quant::PlanSpec spec = quant::parse_plan("4");
    spec.scheme = scheme;
    const auto execution =
        Execution::create(base_, quant::resolve(spec, base_->target()), learned, serial_);
    const weights::LearnedLinear& values = learned->by_width.at(4)->learned->linears[1];
    const weights::LinearCall& call = execution->linear(1);
    EXPECT_EQ(call.range.clip, values.clip);
    const std::vector<float> weights = base_->source().linear_f32(1);
    const std::vector<float> reals = weights::unpack_reals(call.weight, serial_);
    const model::LinearSpec& linear = base_->linears()[1];
    const std::size_t groups = values.steps.size() / linear.out;
    for (std::size_t i = 0; i < reals.size(); ++i) {
      const std::size_t row = i / linear.in, col = i % linear.in;
      const std::size_t cell = row * groups + (scheme.group == 0 ? 0 : col / scheme.group);
      const float zero = values.zeros.empty() ? 0.0F : static_cast<float>(values.zeros[cell]);
      const float low = values.zeros.empty() ? -7.0F : -8.0F;
      const float step = values.steps[cell];
      const float code = std::clamp(std::nearbyint(weights[i] / step) + zero, low, 7.0F);
      ASSERT_EQ(reals[i], (code - zero) * step) << i;
    }
    // Steps serve other activations, clip factors do not.
    spec = quant::parse_plan("w4a8kv8");
    spec.scheme = scheme;
    const auto mixed =
        Execution::create(base_, quant::resolve(spec, base_->target()), learned, serial_);
    EXPECT_EQ(mixed->linear(1).range.clip, 1.0F);
    EXPECT_EQ(weights::unpack_reals(mixed->linear(1).weight, serial_), reals);
    EXPECT_THAT(mixed->description(), HasSubstr("learned quantizers w4"));
  }
}

TEST_F(AdapterWeightsTest, PackedFilesHoldTheAdaptersWeights) {
  for (const char* name : {"seed", "g32-asym+aasym+ag32"}) {
    const quant::QuantScheme scheme = quant::parse_scheme(name, "test");
    for (const bool merged : {false, true}) {
      SCOPED_TRACE(fmt::format("{} {}", name, merged));
      const auto adapters = set_of(merged, scheme);
      const weights::PackedModel model = packed(adapters, scheme);
      EXPECT_TRUE(model.has_adapter_weights);
      for (const char* plan : {"w4a4kv8", "w8a8kv8", "w4a8kv8", "w4a16"}) {
        EXPECT_EQ(hidden(model.base, plan, model.adapters, scheme),
                  hidden(base_, plan, adapters, scheme))
            << plan;
      }
    }
  }
  EXPECT_FALSE(packed(set_of(/*merged=*/false)).has_adapter_weights);
}

TEST_F(AdapterWeightsTest, MergedAdaptersAreQuantizedWithTheBase) {
  const auto merged = set_of(/*merged=*/true);
  weights::DerivedWeights sums;
  for (std::size_t i = 0; i < base_->linears().size(); ++i) {
    const model::LinearSpec& spec = base_->linears()[i];
    const weights::LoraLinear& pair = *merged->by_width.at(4)->linears[i];
    std::vector<float> weights = base_->source().linear_f32(i);
    const std::vector<float> found =
        weights::adapted_floats(*base_, *merged->by_width.at(4), i, serial_);
    for (std::size_t row = 0; row < spec.out; ++row) {
      for (std::size_t col = 0; col < spec.in; ++col) {
        double sum = 0;
        for (std::size_t r = 0; r < 3; ++r)
          sum += double{pair.b()[row * 3 + r]} * double{pair.a()[r * spec.in + col]};
        float& weight = weights[row * spec.in + col];
        ASSERT_NEAR(found[row * spec.in + col], double{weight} + 2 * sum, 1e-6);
        weight = found[row * spec.in + col];
      }
    }
    sums.linears[i] = std::move(weights);
  }
  const auto summed = weights::derive_model(base_, std::move(sums));
  for (const char* plan : {"4", "w4a16", "w4a8kv8"})
    EXPECT_EQ(hidden(base_, plan, merged), hidden(summed, plan, nullptr)) << plan;
  // Without quantization the form makes no difference but for the order of sums.
  auto only = std::make_shared<weights::AdapterSet>();
  only->by_width[32] = merged->by_width.at(4);
  auto separate = std::make_shared<weights::AdapterSet>();
  separate->by_width[32] = adapter_of(4, /*merged=*/false);
  const auto found = hidden(base_, "32", only), expected = hidden(base_, "32", separate);
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-4);
}

TEST_F(AdapterWeightsTest, WeightsAreMadeOnce) {
  const auto adapters = set_of(/*merged=*/true);
  const auto first = execution_of(base_, "4", adapters),
             second = execution_of(base_, "4", adapters);
  EXPECT_EQ(first->linear(0).weight.panels, second->linear(0).weight.panels);
  // Another base has sums of its own.
  const auto other = weights::BaseModel::load_directory(dir_.path());
  EXPECT_NE(execution_of(other, "4", adapters)->linear(0).weight.panels,
            first->linear(0).weight.panels);
}

TEST_F(AdapterWeightsTest, AnotherSchemeIsRefused) {
  const auto adapters = set_of(/*merged=*/false, quant::QuantScheme{});
  const auto error =
      error_of([&] { hidden(base_, "4", adapters, quant::parse_scheme("g32", "test")); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("learned in scheme seed"));
}

TEST_F(AdapterWeightsTest, DirectoriesReadBack) {
  const quant::QuantScheme scheme = quant::parse_scheme("g32-asym", "test");
  const auto set = set_of(/*merged=*/true, scheme);
  io::AdapterDir dir;
  dir.scheme = "g32-asym";
  dir.merged = true;
  const std::string out = dir_.file("out");
  for (const auto& [width, adapter] : set->by_width) {
    dir.adapters[width] = fmt::format("w{}", width);
    weights::save_adapter(fmt::format("{}/w{}", out, width), *adapter, base_->config(),
                          weights::HeadKind::kSpan, "tiny");
  }
  dir.quantizers[4] = "w4";
  io::write_adapter_dir(out, dir);
  const auto loaded =
      std::make_shared<weights::AdapterSet>(weights::load_adapters(out, base_->config()));
  EXPECT_TRUE(loaded->warnings.empty());
  for (const char* plan : {"4", "8"})
    EXPECT_EQ(hidden(base_, plan, loaded, scheme), hidden(base_, plan, set, scheme));
  // Read alone, the sub-directory is an adapter like any other.
  const weights::AdapterSet alone = weights::load_adapters(out + "/w4", base_->config());
  EXPECT_THAT(alone.warnings, ::testing::Contains(HasSubstr("is not used")));

  dir.quantizers[8] = "w8";
  io::write_adapter_dir(out, dir);
  EXPECT_THAT(error_of([&] { weights::load_adapters(out, base_->config()); }).message,
              HasSubstr("w8/quant.safetensors"));
  dir.quantizers = {{4, "w8"}};
  io::write_adapter_dir(out, dir);
  EXPECT_THAT(error_of([&] { weights::load_adapters(out, base_->config()); }).message,
              HasSubstr("not the directory of that width's adapter"));
  Json json = read_json_file(out + "/qalof.json");
  json["adapter_form"] = "woven";
  write_file_atomic(out + "/qalof.json", json.dump());
  EXPECT_EQ(error_of([&] { weights::load_adapters(out, base_->config()); }).kind,
            ErrorKind::kUnsupported);
}

TEST_F(AdapterWeightsTest, DamagedValuesAreRefused) {
  const std::string path = dir_.file("quant.safetensors");
  const auto& linears = base_->linears();
  const std::string name = linears.front().name;
  const weights::LearnedQuantizers good = learned_for({});
  const auto message_of = [&](const auto& change) {
    weights::LearnedQuantizers bad = good;
    change(bad);
    weights::write_learned_quantizers(path, bad, linears);
    return error_of([&] { weights::read_learned_quantizers(path, linears); }).message;
  };
  weights::write_learned_quantizers(path, good, linears);
  EXPECT_EQ(weights::read_learned_quantizers(path, linears).linears[2].steps,
            good.linears[2].steps);
  EXPECT_THAT(message_of([](auto& bad) { bad.linears[1].steps[3] = std::nanf(""); }),
              HasSubstr(linears[1].name + ".steps holds nan"));
  EXPECT_THAT(message_of([](auto& bad) { bad.linears[1].steps[3] = INFINITY; }), HasSubstr("inf"));
  EXPECT_THAT(message_of([](auto& bad) { bad.linears[1].steps[3] = -1; }), HasSubstr("-1"));
  EXPECT_THAT(message_of([](auto& bad) { bad.linears[0].clip = 1.5F; }),
              HasSubstr(name + ".clip holds 1.5"));
  EXPECT_THAT(message_of([](auto& bad) { bad.linears[0].clip = 0; }), HasSubstr("clip"));
  EXPECT_THAT(message_of([](auto& bad) { bad.linears[2].steps = {}; }),
              HasSubstr(linears[2].name + ".steps is missing"));
  EXPECT_THAT(message_of([](auto& bad) { bad.linears[0].steps = {}; }), HasSubstr("belong"));
  EXPECT_THAT(message_of([](auto& bad) { bad.bits = 9; }), HasSubstr("bits"));
  // Of another shape: the values of groups read as those of rows.
  weights::write_learned_quantizers(path, learned_for(quant::parse_scheme("g32", "test")), linears);
  weights::LearnedQuantizers grouped = weights::read_learned_quantizers(path, linears);
  EXPECT_EQ(grouped.scheme.group, 32U);
  std::vector<model::LinearSpec> others = linears;
  others.front().out += 1;
  EXPECT_THAT(error_of([&] { weights::read_learned_quantizers(path, others); }).message,
              HasSubstr("expected F32"));
}

}  // namespace adapter_weights_test
}  // namespace qalof::runtime
