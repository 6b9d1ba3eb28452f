// Schemes int8, llm_int8, nf4 and fp4 in the runtime: products are those of dequantized weights, a
// packed file gives the bits of the directory it came from, and no token sees another.
#include <gmock/gmock.h>

#include "core/file.h"
#include "kernels/codebook.h"
#include "runtime/footprint.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"
#include "weights/codebook_weights.h"
#include "weights/packed_file.h"
#include "weights/packed_layout.h"

namespace qalof::runtime {
namespace bitsandbytes_schemes_test {

using qalof::testing::error_of;
using qalof::testing::same_bytes;
using qalof::testing::TempDir;
using qalof::testing::TinyRuntime;
using ::testing::HasSubstr;

struct Case {
  const char* scheme;
  const char* precision;
};
const std::vector<Case> kCases = {
    {"int8", "w8a8"}, {"int8", "w8a16"},   {"llm_int8", "w8a8"}, {"llm_int8-0.5", "w8a8kv8"},
    {"nf4", "w4a16"}, {"nf4-dq", "w4a32"}, {"fp4", "w4a32kv8"},  {"fp4-dq", "w4a16"}};

Json odd_config() {
  Json config = qalof::testing::tiny_config();
  config["n_embd"] = 72;  // blocks of 64 cross rows
  return config;
}

class BitsandbytesSchemesTest : public ::testing::Test {
 protected:
  std::shared_ptr<const Execution> execution(const std::shared_ptr<const weights::BaseModel>& base,
                                             const Case& c) {
    quant::PlanSpec spec = quant::parse_plan(c.precision);
    spec.scheme = quant::parse_scheme(c.scheme, "test");
    return Execution::create(base, quant::resolve(spec, base->target()), adapters_, serial_);
  }
  std::vector<float> hidden(const Execution& execution, std::size_t chunk = 0) {
    return tiny_.run(execution, tiny_.ids(20), chunk, two_threads_);
  }

  SerialFor serial_;
  ThreadPool two_threads_{2};
  TinyRuntime tiny_{odd_config()};
  std::shared_ptr<weights::AdapterSet> adapters_ =
      qalof::testing::random_adapters(tiny_.config(), {8});
  TempDir dir_;
  const std::string path_ = dir_.file("model.qalof");
};

TEST_F(BitsandbytesSchemesTest, APackedFileGivesTheBitsOfTheDirectory) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(std::string(c.scheme) + " " + c.precision);
    weights::PackRequest request;
    request.base = tiny_.base();
    request.plan = quant::parse_plan(c.precision);
    request.scheme = quant::parse_scheme(c.scheme, "test");
    weights::write_packed_file(path_, request, serial_);
    const weights::PackedModel packed = weights::open_packed_file(path_);
    EXPECT_EQ(packed.plan.scheme, request.scheme);
    const auto wanted = execution(tiny_.base(), c);
    const auto found = execution(packed.base, c);
    EXPECT_THAT(found->description(), HasSubstr(std::string("scheme ") + c.scheme));
    const std::vector<float> expected = hidden(*wanted);
    EXPECT_TRUE(same_bytes(hidden(*found), expected));
    // In chunks and alone, the same.
    EXPECT_TRUE(same_bytes(tiny_.run(*found, tiny_.ids(20), 1, serial_), expected));
    EXPECT_TRUE(same_bytes(tiny_.run(*found, tiny_.ids(20), 7, serial_), expected));
  }
}

TEST_F(BitsandbytesSchemesTest, FloatsOfACodebookAreItsReals) {
  const std::size_t index = 2;
  const model::LinearSpec& spec = tiny_.base()->linears()[index];
  const std::vector<float> weights = tiny_.base()->source().linear_f32(index);
  for (const char* name : {"nf4", "nf4-dq", "fp4", "fp4-dq"}) {
    const quant::QuantScheme scheme = quant::parse_scheme(name, "test");
    const weights::CodebookWeights codes =
        weights::quantize_with_codebook(weights, spec.out, spec.in, scheme, serial_);
    const std::vector<float> reals = weights::dequantize_codes(codes, serial_);
    for (const int bits : {16, 32}) {
      const auto expected =
          weights::pack_weights(reals, spec.out, spec.in, {{bits}, {bits}}, {}, serial_);
      const kernels::PackedMatrix& found =
          tiny_.base()->packed(index, {{4}, {bits}}, scheme, serial_);
      EXPECT_EQ(found.format, expected->view.format);
      EXPECT_EQ(std::memcmp(found.panels, expected->view.panels, expected->panels.size()), 0);
    }
    double error = 0, energy = 0;
    for (std::size_t i = 0; i < reals.size(); ++i) {
      error += std::pow(static_cast<double>(reals[i] - weights[i]), 2);
      energy += std::pow(static_cast<double>(weights[i]), 2);
    }
    // 4 bits: better than 15 dB, and not exact.
    EXPECT_LT(error, 0.0316 * energy) << name;
    EXPECT_GT(error, 0.001 * energy) << name;
  }
}

TEST_F(BitsandbytesSchemesTest, RowsOfInt8AreThoseOfTheQuantizer) {
  const std::vector<float> weights = tiny_.base()->source().linear_f32(0);
  const model::LinearSpec& spec = tiny_.base()->linears()[0];
  std::vector<std::int8_t> codes(weights.size());
  std::vector<float> stats(spec.out);
  kernels::quantize_vectorwise(weights.data(), spec.out, spec.in, codes.data(), stats.data(),
                               serial_);
  const weights::RowCodes rows = weights::quantize_weights(
      weights, spec.out, spec.in, 8, quant::parse_scheme("int8", ""), serial_);
  EXPECT_EQ(rows.codes, codes);
  for (std::size_t row = 0; row < spec.out; ++row)
    EXPECT_FLOAT_EQ(rows.scales[row], stats[row] / 127.0F);
}

TEST_F(BitsandbytesSchemesTest, OutliersAreMultipliedAsFloatsAndTheRestInInt8) {
  const model::LinearSpec& spec = tiny_.base()->linears()[0];
  const quant::QuantScheme scheme = quant::parse_scheme("llm_int8-2.5", "test");
  weights::LinearCall call;
  call.precision = {{8}, {8}};
  call.weight = tiny_.base()->packed(0, call.precision, scheme, serial_);
  const std::vector<float> reals = weights::unpack_reals(call.weight, serial_);
  const std::size_t rows = 9;
  std::vector<float> x = qalof::testing::tensor_values("x", rows * spec.in, 1.0F);
  x[3] = -2.5F;  // at the threshold: an outlier
  x[4] = 80.0F;
  weights::LinearWorkspace workspace;
  const auto run = [&](float threshold, const float* from, std::size_t count) {
    call.outlier_threshold = threshold;
    std::vector<float> y(count * spec.out);
    weights::run_linear(call, from, count, y.data(), workspace, serial_);
    return y;
  };
  std::vector<float> inliers = x;
  std::size_t outliers = 0;
  for (float& value : inliers) {
    if (std::fabs(value) < 2.5F) continue;
    value = 0.0F;
    ++outliers;
  }
  ASSERT_GT(outliers, 5U);
  std::vector<float> expected = run(0.0F, inliers.data(), rows);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t j = 0; j < spec.in; ++j) {
      const float value = x[row * spec.in + j];
      if (std::fabs(value) < 2.5F) continue;
      for (std::size_t n = 0; n < spec.out; ++n)
        expected[row * spec.out + n] += value * reals[n * spec.in + j];
    }
  }
  const std::vector<float> found = run(2.5F, x.data(), rows);
  EXPECT_TRUE(same_bytes(found, expected));
  for (std::size_t row = 0; row < rows; ++row) {
    const std::vector<float> alone = run(2.5F, x.data() + row * spec.in, 1);
    EXPECT_TRUE(same_bytes(alone, std::span(found).subspan(row * spec.out, spec.out)));
  }
  // One entry of 80 coarsens the whole row of plain int8.
  const auto error = [&](const std::vector<float>& y) {
    double sum = 0;
    for (std::size_t n = 0; n < spec.out; ++n) {
      double exact = 0;
      for (std::size_t j = 0; j < spec.in; ++j)
        exact += static_cast<double>(x[j]) * static_cast<double>(reals[n * spec.in + j]);
      sum += std::pow(static_cast<double>(y[n]) - exact, 2);
    }
    return sum;
  };
  EXPECT_LT(error(found), 0.01 * error(run(0.0F, x.data(), rows)));
}

TEST_F(BitsandbytesSchemesTest, BitsPerWeightCountScales) {
  const auto bits = [&](const char* scheme, int width) {
    weights::PackRequest request;
    request.base = tiny_.base();
    request.widths = {width};
    request.scheme = quant::parse_scheme(scheme, "test");
    return weights::write_packed_file(path_, request, serial_).bits_per_weight;
  };
  EXPECT_NEAR(bits("nf4", 4), 4.5, 0.01);
  EXPECT_NEAR(bits("nf4-dq", 4), 4.0 + 8.0 / 64, 0.05);
  EXPECT_LT(bits("fp4-dq", 4), bits("fp4", 4));
  EXPECT_DOUBLE_EQ(bits("int8", 8), bits("llm_int8", 8));
  const Footprint footprint = measure_footprint(*execution(tiny_.base(), {"nf4", "w4a16"}));
  EXPECT_NEAR(footprint.bits_per_weight, 4.5, 0.01);
}

TEST_F(BitsandbytesSchemesTest, WidthsThatASchemeLacksAreRefused) {
  for (const Case& c : std::vector<Case>{{"nf4", "4"},
                                         {"nf4", "w8a16"},
                                         {"fp4-dq", "w4a8"},
                                         {"int8", "w4a8"},
                                         {"llm_int8", "w8a16"}}) {
    const auto error = error_of([&] { execution(tiny_.base(), c); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage) << c.scheme << c.precision;
    EXPECT_THAT(error.message, HasSubstr(std::string("scheme ") + c.scheme));
  }
  weights::PackRequest request;
  request.base = tiny_.base();
  request.widths = {8, 4};
  request.scheme = quant::parse_scheme("nf4", "test");
  EXPECT_EQ(error_of([&] { weights::write_packed_file(path_, request, serial_); }).kind,
            ErrorKind::kUsage);
  EXPECT_FALSE(path_exists(path_));
}

TEST_F(BitsandbytesSchemesTest, DamageOfEveryTensorIsFound) {
  weights::PackRequest request;
  request.base = tiny_.base();
  request.widths = {4};
  request.scheme = quant::parse_scheme("nf4-dq", "test");
  weights::write_packed_file(path_, request, serial_);
  const std::string sound = read_file(path_, std::size_t{1} << 24);
  const io::SafetensorsFile file = io::SafetensorsFile::open(path_);
  for (const char* part : {"codes", "absmax", "absmax_scales", "absmax_mean"}) {
    const auto& view = file.tensors().at(weights::width_prefix("h.0.mlp.c_fc", 4) + part);
    const std::size_t at = static_cast<std::size_t>(view.bytes.data() - file.file_bytes().data()) +
                           view.bytes.size() / 2;
    std::string damaged = sound;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    const std::string other = dir_.file("damaged.qalof");
    write_file_atomic(other, damaged);
    const auto error = error_of([&] {
      const weights::PackedModel packed = weights::open_packed_file(other);
      execution(packed.base, {"nf4-dq", "w4a16"});
    });
    EXPECT_EQ(error.kind, ErrorKind::kCorruptFile) << part;
    EXPECT_THAT(error.message, HasSubstr(part));
  }
}

}  // namespace bitsandbytes_schemes_test
}  // namespace qalof::runtime
