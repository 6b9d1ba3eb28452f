// GPTQ against its definition, and what it promises: less error of outputs than the nearest codes.
#include "weights/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "support/error_of.h"
#include "support/group_of_threads.h"
#include "support/tiny_runtime.h"
#include "weights/derived_model.h"
#include "weights/packed_file.h"

namespace qalof::runtime {
namespace gptq_test {

using qalof::testing::error_of;
using qalof::testing::same_bytes;
using qalof::testing::tensor_values;
using ::testing::HasSubstr;

constexpr std::size_t kIn = 80, kOut = 24, kRows = 300;

// Rows whose entries vary together, as activations do.
std::vector<float> correlated_rows() {
  const std::vector<float> own = tensor_values("own", kRows * kIn, 0.3F);
  const std::vector<float> shared = tensor_values("shared", kRows * 4, 1.0F);
  const std::vector<float> mix = tensor_values("mix", 4 * kIn, 1.0F);
  std::vector<float> x = own;
  for (std::size_t row = 0; row < kRows; ++row)
    for (std::size_t j = 0; j < kIn; ++j)
      for (std::size_t f = 0; f < 4; ++f)
        x[row * kIn + j] += shared[row * 4 + f] * mix[f * kIn + j];
  return x;
}

class GptqTest : public ::testing::Test {
 protected:
  GptqTest() { products_.add(x_.data(), kRows, serial_); }

  // |X (W - real)^T|^2 / |X W^T|^2 by the rows themselves.
  double output_error(const std::vector<float>& reals) const {
    double error = 0, all = 0;
    for (std::size_t row = 0; row < kRows; ++row) {
      for (std::size_t o = 0; o < kOut; ++o) {
        double exact = 0, found = 0;
        for (std::size_t j = 0; j < kIn; ++j) {
          const auto value = static_cast<double>(x_[row * kIn + j]);
          exact += value * static_cast<double>(weights_[o * kIn + j]);
          found += value * static_cast<double>(reals[o * kIn + j]);
        }
        error += (exact - found) * (exact - found);
        all += exact * exact;
      }
    }
    return error / all;
  }

  SerialFor serial_;
  ThreadPool threads_{3};
  const std::vector<float> x_ = correlated_rows();
  const std::vector<float> weights_ = tensor_values("weights", kOut* kIn, 0.05F);
  weights::InputProducts products_{kIn};
};

TEST_F(GptqTest, OutputsAreNearerThanThoseOfTheNearestCodesInEveryScheme) {
  for (const char* name : {"seed", "g32", "g64", "g32-asym", "g64+mse"}) {
    for (const int bits : {3, 4, 8}) {
      SCOPED_TRACE(::testing::Message() << name << " " << bits);
      const quant::QuantScheme scheme = quant::parse_scheme(name, "test");
      const weights::GptqResult found =
          weights::quantize_gptq(weights_, kOut, {products_, serial_}, bits, scheme, serial_);
      const weights::RowCodes nearest =
          weights::quantize_weights(weights_, kOut, kIn, bits, scheme, serial_);
      const double error = output_error(weights::dequantize_codes(found.codes, serial_));
      const double nearest_error = output_error(weights::dequantize_codes(nearest, serial_));
      // Reals are rounded to f32 here, and their error at 8 bits is 1e-3 of them.
      EXPECT_NEAR(found.error, error, 1e-4 * error);
      EXPECT_NEAR(found.nearest_error, nearest_error, 1e-4 * nearest_error);
      EXPECT_LT(error, 0.6 * nearest_error);
      const int top = (1 << (bits - 1)) - 1;
      const int low = scheme.asymmetric ? std::max(-top - 1, -127) : -top;
      for (const std::int8_t code : found.codes.codes) {
        ASSERT_GE(code, low);
        ASSERT_LE(code, top);
      }
    }
  }
}

TEST_F(GptqTest, UncorrelatedInputsGetTheNearestCodes) {
  weights::InputProducts products(kIn);
  std::vector<float> unit(kIn * kIn, 0.0F);
  for (std::size_t i = 0; i < kIn; ++i) unit[i * kIn + i] = 2.0F;
  products.add(unit.data(), kIn, serial_);
  const weights::RowCodes nearest = weights::quantize_weights(weights_, kOut, kIn, 4, {}, serial_);
  const weights::GptqResult found =
      weights::quantize_gptq(weights_, kOut, {products, serial_}, 4, {}, serial_);
  // A quotient by the scale and a product with the multiplier may round a middle differently.
  std::size_t different = 0;
  for (std::size_t i = 0; i < nearest.codes.size(); ++i)
    different += found.codes.codes[i] != nearest.codes[i] ? 1 : 0;
  EXPECT_LE(different, 1U);
  EXPECT_EQ(found.codes.scales, nearest.scales);
}

TEST_F(GptqTest, CodesFollowTheDefinitionByEliminationColumnByColumn) {
  // The textbook form, from the input with the largest sum of squares on: after column j, the
  // remaining weights move by -e / [H^-1]_jj * [H^-1]_j, and column j is eliminated from H^-1.
  std::vector<double> h(kIn * kIn), inverse(kIn * kIn, 0.0);
  double mean = 0;
  for (std::size_t i = 0; i < kIn; ++i) {
    for (std::size_t j = 0; j < kIn; ++j)
      h[i * kIn + j] = products_.at(std::min(i, j), std::max(i, j));
    mean += h[i * kIn + i] / kIn;
    inverse[i * kIn + i] = 1;
  }
  for (std::size_t i = 0; i < kIn; ++i) h[i * kIn + i] += 0.01 * mean;
  for (std::size_t p = 0; p < kIn; ++p) {  // Gauss-Jordan
    const double pivot = h[p * kIn + p];
    for (std::size_t c = 0; c < kIn; ++c) h[p * kIn + c] /= pivot, inverse[p * kIn + c] /= pivot;
    for (std::size_t r = 0; r < kIn; ++r) {
      const double factor = h[r * kIn + p];
      if (r == p || factor == 0) continue;
      for (std::size_t c = 0; c < kIn; ++c) {
        h[r * kIn + c] -= factor * h[p * kIn + c];
        inverse[r * kIn + c] -= factor * inverse[p * kIn + c];
      }
    }
  }
  const weights::GptqResult found =
      weights::quantize_gptq(weights_, kOut, {products_, serial_}, 4, {}, serial_);
  std::vector<double> w(weights_.begin(), weights_.end());
  std::vector<std::size_t> remaining(kIn);
  std::iota(remaining.begin(), remaining.end(), std::size_t{0});
  std::stable_sort(remaining.begin(), remaining.end(), [&](std::size_t a, std::size_t b) {
    return products_.at(a, a) > products_.at(b, b);
  });
  std::size_t different = 0;
  while (!remaining.empty()) {
    const std::size_t j = remaining.front();
    for (std::size_t o = 0; o < kOut; ++o) {
      const auto scale = static_cast<double>(found.codes.scales[o]);
      const double code = std::clamp(std::nearbyint(w[o * kIn + j] / scale), -7.0, 7.0);
      different += code != found.codes.codes[o * kIn + j] ? 1 : 0;
      // On with the codes found, so that one middle does not upset the rest.
      const double error =
          (w[o * kIn + j] - found.codes.codes[o * kIn + j] * scale) / inverse[j * kIn + j];
      for (const std::size_t c : remaining) w[o * kIn + c] -= error * inverse[j * kIn + c];
    }
    const std::vector<double> row(inverse.begin() + static_cast<std::ptrdiff_t>(j * kIn),
                                  inverse.begin() + static_cast<std::ptrdiff_t>((j + 1) * kIn));
    for (const std::size_t a : remaining)
      for (const std::size_t b : remaining) inverse[a * kIn + b] -= row[a] * row[b] / row[j];
    remaining.erase(remaining.begin());
  }
  EXPECT_LE(different, 1U);
}

TEST_F(GptqTest, ThreadsChangeNothing) {
  weights::InputProducts other_products(kIn);
  other_products.add(x_.data(), kRows, threads_);
  const quant::QuantScheme scheme{32, true};
  const weights::GptqResult one =
      weights::quantize_gptq(weights_, kOut, {products_, serial_}, 4, scheme, serial_);
  const weights::GptqResult other =
      weights::quantize_gptq(weights_, kOut, {other_products, serial_}, 4, scheme, threads_);
  EXPECT_EQ(one.codes.codes, other.codes.codes);
  EXPECT_EQ(one.codes.scales, other.codes.scales);
  EXPECT_EQ(one.codes.zeros, other.codes.zeros);
  EXPECT_EQ(one.error, other.error);
}

// Sums of a few rows are f32: 2^-24 of the terms for each of 256 additions at most.
TEST_F(GptqTest, ProductsAreThoseOfTheRowsInAnyBatches) {
  weights::InputProducts batches(kIn);
  batches.add(x_.data(), 100, threads_);
  batches.add(x_.data() + 100 * kIn, kRows - 100, threads_);
  ASSERT_EQ(batches.rows(), kRows);
  for (std::size_t i = 0; i < kIn; ++i) {
    for (std::size_t j = i; j < kIn; ++j) {
      double sum = 0, sizes = 0;
      for (std::size_t row = 0; row < kRows; ++row) {
        const double term =
            static_cast<double>(x_[row * kIn + i]) * static_cast<double>(x_[row * kIn + j]);
        sum += term;
        sizes += std::abs(term);
      }
      ASSERT_NEAR(products_.at(i, j), sum, 256 * 0x1p-24 * sizes) << i << " " << j;
      ASSERT_NEAR(batches.at(i, j), sum, 256 * 0x1p-24 * sizes) << i << " " << j;
    }
  }
}

TEST_F(GptqTest, ProcessesShareFactorAndRowsToTheSameResult) {
  const weights::GptqInputs inputs(products_, serial_);
  const weights::GptqResult alone = weights::quantize_gptq(weights_, kOut, inputs, 4, {}, serial_);
  for (const std::size_t ranks : {2U, 3U, 5U}) {  // 24 rows are three tasks
    qalof::testing::GroupOfThreads::Meeting meeting(ranks);
    std::vector<std::thread> processes;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      processes.emplace_back([&, rank] {
        qalof::testing::GroupOfThreads group(meeting, rank);
        SerialFor serial;
        const weights::GptqInputs shared(products_, serial, &group);
        EXPECT_TRUE(std::equal(shared.factor_row(0), shared.factor_row(kIn), inputs.factor_row(0)));
        const weights::GptqResult found =
            weights::quantize_gptq(weights_, kOut, shared, 4, {}, serial, &group);
        EXPECT_EQ(found.codes.codes, alone.codes.codes);
        EXPECT_EQ(found.error, alone.error);
        EXPECT_EQ(found.nearest_error, alone.nearest_error);
      });
    }
    for (std::thread& process : processes) process.join();
  }
}

TEST_F(GptqTest, InputsThatSayNothingAreRefused) {
  weights::InputProducts none(kIn), zeros(kIn), bad(kIn);
  const auto message = [&](const weights::InputProducts& products,
                           ErrorKind kind = ErrorKind::kBadInput) {
    const auto error = error_of([&] {
      weights::quantize_gptq(weights_, kOut, {products, serial_}, 4, {}, serial_);
    });
    EXPECT_EQ(error.kind, kind);
    return error.message;
  };
  EXPECT_THAT(message(none), HasSubstr("no calibration rows"));
  std::vector<float> row(kIn, 0.0F);
  zeros.add(row.data(), 1, serial_);
  EXPECT_THAT(message(zeros), HasSubstr("all zero"));
  row[3] = std::nanf("");
  bad.add(row.data(), 1, serial_);
  EXPECT_THAT(message(bad, ErrorKind::kDiverged), HasSubstr("mean square"));
}

TEST_F(GptqTest, ReadyCodesArePackedAsTheyAre) {
  qalof::testing::TinyRuntime tiny;
  const model::LinearSpec& spec = tiny.base()->linears()[1];
  const quant::QuantScheme scheme{32, false};
  weights::RowCodes codes = weights::quantize_weights(tiny.base()->source().linear_f32(1), spec.out,
                                                      spec.in, 4, scheme, serial_);
  for (std::int8_t& code : codes.codes) code = static_cast<std::int8_t>(-code);
  weights::DerivedWeights weights;
  weights.codes[{1, 4}] = codes;
  weights.scheme = scheme;
  qalof::testing::TempDir dir;
  weights::PackRequest request;
  request.base = weights::derive_model(tiny.base(), weights);
  request.widths = {4};
  request.scheme = scheme;
  request.method = "gptq";
  weights::write_packed_file(dir.file("x"), request, serial_);
  const weights::PackedModel packed = weights::open_packed_file(dir.file("x"));
  EXPECT_EQ(packed.method, "gptq");
  for (const int activation : {8, 32}) {
    const quant::Precision precision{{4}, {activation}};
    const auto expected = weights::pack_codes(codes, precision, serial_);
    const kernels::PackedMatrix& found = packed.base->packed(1, precision, scheme, serial_);
    EXPECT_EQ(std::memcmp(found.panels, expected->view.panels, expected->panels.size()), 0);
    EXPECT_NE(std::memcmp(tiny.base()->packed(1, precision, scheme, serial_).panels,
                          expected->view.panels, expected->panels.size()),
              0);
  }
  // Other schemes and linears are the base's.
  const kernels::PackedMatrix& other = request.base->packed(1, {{8}, {8}}, {}, serial_);
  const kernels::PackedMatrix& same = tiny.base()->packed(1, {{8}, {8}}, {}, serial_);
  EXPECT_EQ(std::memcmp(other.panels, same.panels,
                        kernels::packed_matrix_bytes(same.format, same.n, same.k)),
            0);
}

}  // namespace gptq_test
}  // namespace qalof::runtime
