// Names of quantization schemes: round trip, refusals, and the scheme of a plan.
#include "quant/scheme.h"

#include <gmock/gmock.h>

#include "quant/plan.h"
#include "quant/plan_test_util.h"
#include "support/error_of.h"

namespace qalof::quant {
namespace scheme_test {

using qalof::testing::error_of;
using ::testing::HasSubstr;

TEST(Scheme, NamesComeBackAsTheyWere) {
  for (const char* name : {"seed", "g32", "g64", "g128", "g32-asym", "g64-asym", "g128-asym"}) {
    EXPECT_EQ(to_string(parse_scheme(name, "--scheme")), name);
  }
  for (const char* name : {"int8", "llm_int8", "llm_int8-4.5", "nf4", "nf4-dq", "fp4", "fp4-dq"}) {
    EXPECT_EQ(to_string(parse_scheme(name, "--scheme")), name);
    EXPECT_FALSE(parse_scheme(name, "--scheme").is_minmax());
  }
  EXPECT_EQ(parse_scheme("llm_int8-6", "x"), parse_scheme("llm_int8", "x"));
  EXPECT_EQ(parse_scheme("seed", "x"), QuantScheme{});
  EXPECT_EQ(parse_scheme("g128-asym", "x"), (QuantScheme{128, true}));
  EXPECT_FALSE(parse_scheme("g32", "x").is_minmax());
}

TEST(Scheme, OtherNamesAreRefusedWithTheKnownOnes) {
  for (const char* name : {"", "g", "g16", "g256", "G64", "g64-sym", "g64-asym ", "seed-asym",
                           "nf4-asym", "int8-dq", "llm_int8-", "llm_int8-0", "llm_int8--1",
                           "llm_int8-nan", "llm_int8-inf", "llm_int8-6x", "llm_int8-1e99"}) {
    const auto error = error_of([&] { parse_scheme(name, "--scheme"); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage) << name;
    EXPECT_THAT(error.message, HasSubstr("--scheme: found "));
    EXPECT_THAT(error.message, HasSubstr("g128-asym"));
  }
}

TEST(Scheme, PartsStandInAnyOrderEachOnce) {
  const QuantScheme scheme = parse_scheme("mse+ag64+g64-asym+aasym", "x");
  EXPECT_EQ(scheme, (QuantScheme{64, true, true, true, 64}));
  EXPECT_EQ(to_string(scheme), "g64-asym+aasym+ag64+mse");
  EXPECT_EQ(parse_scheme(to_string(scheme), "x"), scheme);
  EXPECT_EQ(scheme.weights(), (QuantScheme{64, true, true}));
  EXPECT_EQ(to_string(parse_scheme("aasym", "x")), "seed+aasym");
  EXPECT_TRUE(parse_scheme("seed+aasym", "x").weights().is_minmax());
  EXPECT_FALSE(parse_scheme("tuned", "x").is_minmax());
  EXPECT_EQ(to_string(parse_scheme("rot+g64", "x")), "g64+rot");
  EXPECT_EQ(to_string(parse_scheme("rot", "x")), "seed+rot");
  EXPECT_EQ(to_string(parse_scheme("rot+nested+g64", "x")), "g64+nested+rot");
  EXPECT_EQ(to_string(parse_scheme("nested", "x")), "seed+nested");
  EXPECT_EQ(parse_scheme("seed+nested", "x"), parse_scheme("nested", "x"));
  EXPECT_EQ(to_string(parse_scheme("tuned", "x")), "g64-asym+aasym+ag64+mse+rot");
  EXPECT_EQ(to_string(parse_scheme("rot-mlp+g64+rot-heads", "x")), "g64+rot-heads+rot-mlp");
  EXPECT_EQ(to_string(parse_scheme("rot-residual+rot-mlp+rot-heads", "x")), "seed+rot");
  EXPECT_EQ(parse_scheme("rot-heads", "x").weights().rotations, (Rotations{.heads = true}));
  EXPECT_EQ(parse_scheme("rot", "x").weights().rotations, kAllRotations);
  EXPECT_FALSE(parse_scheme("rot", "x").is_minmax());
  for (const char* text : {"mse+mse",        "g64+g64",
                           "g64+seed",       "seed+g32",
                           "g64+",           "+g64",
                           "g64++mse",       "ag64+g64+ag64",
                           "tuned+mse",      "tuned+rot",
                           "rot+rot",        "rot+rot-mlp",
                           "rot-mlp+rot",    "rot-heads+rot-heads",
                           "rot-",           "rot-all",
                           "rot+tuned",      "tunedrot",
                           "nf4+rot",        "nested+nested",
                           "g64+nested+mse", "int8+nested"}) {
    EXPECT_EQ(error_of([&] { parse_scheme(text, "--scheme"); }).kind, ErrorKind::kUsage) << text;
  }
}

TEST(Scheme, GroupsOfActivationsAreThoseOfWeights) {
  for (const char* text : {"ag64", "seed+ag32", "g32+ag64"}) {
    const auto error = error_of([&] { parse_scheme(text, "plan", ErrorKind::kBadInput); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput) << text;
    EXPECT_THAT(error.message, HasSubstr("as large as those of weights"));
  }
}

TEST(Scheme, OfAPlanIsResolvedDescribedAndWritten) {
  const PlanTarget target = qalof::testing::two_layers();
  PlanSpec spec = parse_plan("w4a8kv8");
  EXPECT_EQ(resolve(spec, target).scheme, QuantScheme{});
  EXPECT_EQ(describe(resolve(spec, target), target), "w4a8kv8");
  spec.scheme = QuantScheme{64, true};
  EXPECT_EQ(resolve(spec, target).scheme, (QuantScheme{64, true}));
  EXPECT_EQ(describe(resolve(spec, target), target), "w4a8kv8, scheme g64-asym");
  EXPECT_EQ(to_json(spec)["scheme"], "g64-asym");
  EXPECT_EQ(plan_from_json(to_json(spec), "plan").scheme, spec.scheme);
  spec.modules["h.0.mlp.c_fc"] = {{8}, {8}};
  EXPECT_THAT(describe(resolve(spec, target), target), HasSubstr("weight bits, scheme g64-asym"));
}

}  // namespace scheme_test
}  // namespace qalof::quant
