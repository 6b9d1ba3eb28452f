// The products for AVX-VNNI, compiled for the same instruction as AVX-512 VL with VNNI has it, so
// that machines with either test them.
#if defined(__x86_64__) && !defined(__clang__)  // whose pragma is another
#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>

#include <fmt/format.h>

#include "kernels/gemm.h"
#include "kernels/kernel_table.h"
#include "kernels/kernel_test_util.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512vl,avx512vnni")
#include "kernels/avx2/avxvnni_int_gemm.h"
#pragma GCC pop_options

namespace qalof::kernels {
namespace avxvnni_test {

struct Case {
  std::size_t m, n, k, group;
  WeightFormat format;
  bool zero_points, biased;
};

// One product with the tables of this file and with portable ones.
void check(const Case& c, std::mt19937& random) {
  SerialFor serial;
  const std::size_t groups = num_groups(c.k, c.group);
  const std::size_t count = grouped_count(c.n, groups);
  const auto x = random_codes(c.m * c.k, -127, 127, random);
  const auto codes = random_codes(c.n * c.k, c.format, random);
  std::vector<std::uint8_t> panels(packed_matrix_bytes(c.format, c.n, c.k));
  // Exactly n values without groups, so that a read beyond them would be noticed by sanitizers.
  std::vector<std::int32_t> sums(c.group == 0 ? c.n : count);
  std::vector<float> scales = random_floats(sums.size(), random);
  const std::vector<std::int8_t> zeros = random_codes(count, c.format, random);
  if (c.group == 0) {
    pack_codes(codes.data(), c.n, c.k, c.format, panels.data(), sums.data(), serial);
  } else {
    pack_codes(codes.data(), c.n, c.k, c.format, c.group, panels.data(), sums.data(), serial);
  }
  const std::vector<float> x_scales = random_floats(c.m, random), bias = random_floats(c.n, random);
  const PackedMatrix w{.format = c.format,
                       .n = c.n,
                       .k = c.k,
                       .panels = panels.data(),
                       .scales = scales.data(),
                       .code_sums = sums.data(),
                       .group = c.group,
                       .zeros = c.zero_points ? zeros.data() : nullptr};
  const float* bias_or_null = c.biased ? bias.data() : nullptr;
  std::vector<float> expected(c.m * c.n);
  gemm_int(x.data(), x_scales.data(), c.m, w, bias_or_null, expected.data(), serial);

  KernelTable table = kPortableTable;
  set_pair_formats(table);
  const IntProducts& products = int_products(table, c.format);
  const PrepareRow<std::int8_t>& prepare = products.prepare;
  const std::size_t stride = prepared_stride(c.k, prepare.element_bytes);
  std::vector<char> prepared(c.m * stride, 0x55);
  std::vector<std::int32_t> x_sums(c.m * groups);
  for (std::size_t row = 0; row < c.m; ++row) {
    prepare.run(x.data() + row * c.k, c.k, prepared.data() + row * stride);
    for (std::size_t i = 0; i < c.k; ++i)
      x_sums[row * groups + (c.group == 0 ? 0 : i / c.group)] += x[row * c.k + i];
  }
  std::vector<float> y(c.m * c.n, std::numeric_limits<float>::quiet_NaN());
  IntGemmBlock block{.x = x.data(),
                     .x_stride = c.k,
                     .prepared = prepared.data(),
                     .prepared_stride = stride,
                     .rows = c.m,
                     .k = c.k,
                     .panels = panels.data(),
                     .n = c.n,
                     .group = c.group,
                     .groups = groups,
                     .zeros = w.zeros,
                     .x_sums = x_sums.data(),
                     .code_sums = sums.data(),
                     .x_scales = x_scales.data(),
                     .w_scales = scales.data(),
                     .bias = bias_or_null,
                     .y = y.data(),
                     .acc = nullptr,
                     .y_stride = c.n};
  (c.group == 0 ? products.gemm : products.grouped)(block);
  const std::string what = fmt::format("m {} n {} k {} group {} format {}", c.m, c.n, c.k, c.group,
                                       static_cast<int>(c.format));
  for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], expected[i]) << what << " at " << i;
  if (c.group != 0) return;
  std::vector<std::int32_t> acc(c.m * c.n, -1), expected_acc(c.m * c.n);
  gemm_int_acc(x.data(), c.m, w, expected_acc.data(), serial);
  block.y = nullptr;
  block.acc = acc.data();
  products.gemm(block);
  ASSERT_EQ(acc, expected_acc) << what;
}

TEST(AvxVnni, ProductsEqualPortableOnes) {
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vl")) {
    GTEST_SKIP() << "this CPU has no byte products of 256 bits";
  }
  const Isa before = active_isa();
  force_isa(Isa::kPortable);
  std::mt19937 random(5);
  std::uniform_int_distribution<std::size_t> rows(1, 60), outputs(1, 50), columns(1, 700),
      units(1, 6), bit(0, 1);
  for (std::size_t round = 0; round < 300 && !testing::Test::HasFatalFailure(); ++round) {
    const WeightFormat format = kIntegerFormats[round % std::size(kIntegerFormats)];
    const std::size_t unit = std::max<std::size_t>(8, code_layout(format).columns);
    const std::size_t group = bit(random) == 0 ? 0 : unit * units(random);
    check({rows(random), outputs(random), columns(random), group, format,
           group != 0 && bit(random) == 0, bit(random) == 0},
          random);
  }
  force_isa(before);
}

}  // namespace avxvnni_test
}  // namespace qalof::kernels
#endif
