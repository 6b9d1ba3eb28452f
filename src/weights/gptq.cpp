// GPTQ's inner loop: input products, their inverse Cholesky factor and column-by-column rounding.
#include "weights/gptq.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/finite.h"
#include "core/segment_sums.h"
#include "kernels/gemm.h"

namespace qalof::weights {

namespace {

constexpr double kDampening = 0.01;
constexpr std::size_t kChunkRows = 256, kBlockColumns = 256;

// Input indices by falling sum of squares; ties keep their order.
std::vector<std::size_t> falling_order(const InputProducts& products) {
  std::vector<std::size_t> order(products.in());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return products.at(a, a) > products.at(b, b);
  });
  return order;
}

// The upper triangular U [in, in] of (H + damping)^-1 = U^T U, inputs in the given order. With
// H = V V^T, V upper triangular (a Cholesky factorization from the last row up), U is V's inverse.
std::vector<double> inverse_factor(const InputProducts& given,
                                   const std::vector<std::size_t>& order, ParallelFor& parallel) {
  const std::size_t n = given.in();
  const auto product = [&](std::size_t i, std::size_t j) {
    const auto [first, second] = std::minmax(order[i], order[j]);
    return given.at(first, second);
  };
  double mean = 0;
  for (std::size_t i = 0; i < n; ++i) mean += product(i, i) / static_cast<double>(n);
  check_finite(mean, "the mean square of a linear's inputs", [] { return "gptq"; });
  QALOF_CHECK(mean > 0, ErrorKind::kBadInput, "gptq: inputs of a linear are all zero");
  std::vector<double> v(n * n, 0.0), u(n * n, 0.0);
  const auto dot_behind = [&](std::size_t i, std::size_t j) {  // over columns after j
    const double *a = v.data() + i * n, *b = v.data() + j * n;
    double sums[4] = {};
    std::size_t p = j + 1;
    for (; p + 4 <= n; p += 4)
      for (std::size_t lane = 0; lane < 4; ++lane) sums[lane] += a[p + lane] * b[p + lane];
    for (; p < n; ++p) sums[0] += a[p] * b[p];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  };
  for (std::size_t j = n; j-- > 0;) {
    const double pivot = product(j, j) + kDampening * mean - dot_behind(j, j);
    QALOF_CHECK(pivot > 0, ErrorKind::kBadInput,
                "gptq: inputs of a linear have no positive definite product (pivot {})", pivot);
    v[j * n + j] = std::sqrt(pivot);
    parallel.run((j + 63) / 64, [&](std::size_t task) {
      for (std::size_t i = 64 * task; i < std::min(j, 64 * task + 64); ++i)
        v[i * n + j] = (product(i, j) - dot_behind(i, j)) / v[j * n + j];
    });
  }
  // Column blocks of U do not depend on each other.
  parallel.run((n + 63) / 64, [&](std::size_t task) {
    const std::size_t first = 64 * task, end = std::min(n, first + 64);
    for (std::size_t i = end; i-- > 0;) {
      double* row = u.data() + i * n;
      if (i >= first) row[i] = 1.0;
      for (std::size_t p = i + 1; p < end; ++p) {
        const double factor = v[i * n + p];
        for (std::size_t c = std::max(first, p); c < end; ++c) row[c] -= factor * u[p * n + c];
      }
      for (std::size_t c = std::max(first, i); c < end; ++c) row[c] /= v[i * n + i];
    }
  });
  return u;
}

// Rows of a linear that are processed together, so that U and the products are read once for all.
constexpr std::size_t kLanes = 8;
using Lanes = std::array<double, kLanes>;

// Per lane: the sum of (X d)^2 over the rows of X, for differences d [in].
Lanes energies_of(const InputProducts& products, const std::vector<Lanes>& d) {
  Lanes sums{};
  for (std::size_t i = 0; i < d.size(); ++i) {
    Lanes behind{};
    const double* row = products.row(i);
    for (std::size_t j = i + 1; j < d.size(); ++j) {
      const double product = row[j];
      for (std::size_t lane = 0; lane < kLanes; ++lane) behind[lane] += product * d[j][lane];
    }
    const double own = products.at(i, i);
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      sums[lane] += d[i][lane] * (d[i][lane] * own + 2 * behind[lane]);
  }
  return sums;
}

struct CodeRange {
  int low, high;
};
CodeRange code_range(int bits, bool asymmetric) {
  const int top = (1 << (bits - 1)) - 1;
  return {asymmetric ? std::max(-top - 1, -127) : -top, top};
}

}  // namespace

void InputProducts::add(const float* x, std::size_t rows, ParallelFor& parallel) {
  rows_ += rows;
  std::vector<float> columns, panels, products;
  for (; rows > 0; x += std::min(rows, kChunkRows) * in_, rows -= std::min(rows, kChunkRows)) {
    const std::size_t chunk = std::min(rows, kChunkRows);
    columns.resize(in_ * chunk);
    for (std::size_t row = 0; row < chunk; ++row)
      for (std::size_t i = 0; i < in_; ++i) columns[i * chunk + row] = x[row * in_ + i];
    for (std::size_t first = 0; first < in_; first += kBlockColumns) {
      const std::size_t end = std::min(in_, first + kBlockColumns), n = end - first;
      panels.resize(kernels::packed_matrix_bytes(kernels::WeightFormat::kF32, n, chunk) /
                    sizeof(float));
      kernels::pack_f32(columns.data() + first * chunk, n, chunk, chunk, false, panels.data(),
                        parallel);
      const kernels::PackedMatrix block{kernels::WeightFormat::kF32, n, chunk, panels.data()};
      products.resize(end * n);
      kernels::gemm_f32(columns.data(), end, chunk, block, 1.0F, nullptr,
                        kernels::Accumulate::kStore, products.data(), parallel);
      for (std::size_t i = 0; i < end; ++i) {
        double* sums = sums_.data() + row_start(i) + first;
        for (std::size_t j = std::max(first, i) - first; j < n; ++j)
          sums[j] += static_cast<double>(products[i * n + j]);
      }
    }
  }
}

GptqInputs::GptqInputs(InputProducts products, ParallelFor& parallel)
    : products_(std::move(products)) {
  QALOF_CHECK(products_.rows() > 0, ErrorKind::kBadInput, "gptq: no calibration rows");
  order_ = falling_order(products_);
  factor_ = inverse_factor(products_, order_, parallel);
}

GptqResult quantize_gptq(const std::vector<float>& weights, std::size_t out,
                         const GptqInputs& inputs, int bits, quant::QuantScheme scheme,
                         ParallelFor& parallel, ProcessGroup* processes) {
  const InputProducts& products = inputs.products();
  const std::vector<std::size_t>& order = inputs.order();
  const std::size_t in = products.in();
  QALOF_CHECK(weights.size() == out * in && scheme.kind == quant::CodeKind::kUniform,
              ErrorKind::kInternal, "gptq: {} weights for [{}, {}], scheme {}", weights.size(), out,
              in, quant::to_string(scheme));
  const CodeRange range = code_range(bits, scheme.asymmetric);
  GptqResult result;
  RowCodes& codes = result.codes;
  // Scales and zero points are those of the nearest codes.
  const RowCodes nearest = quantize_weights(weights, out, in, bits, scheme, parallel);
  codes = nearest;
  const std::vector<float> nearest_reals = dequantize_codes(nearest, parallel);
  const std::size_t groups = codes.groups(), group = scheme.group == 0 ? in : scheme.group;
  struct Energies {
    double all = 0, error = 0, nearest = 0;
  };
  const std::size_t tasks = (out + kLanes - 1) / kLanes;
  const IndexRange own = own_part(tasks, processes);
  std::vector<Energies> energies(own.end - own.first);
  parallel.run(energies.size(), [&](std::size_t task) {
    const std::size_t first = (own.first + task) * kLanes, rows = std::min(kLanes, out - first);
    std::vector<Lanes> w(in), difference(in), nearest_difference(in);
    for (std::size_t lane = 0; lane < rows; ++lane) {
      for (std::size_t j = 0; j < in; ++j) {
        const std::size_t at = (first + lane) * in + j;
        w[j][lane] = static_cast<double>(weights[at]);
        nearest_difference[j][lane] = w[j][lane] - static_cast<double>(nearest_reals[at]);
      }
    }
    const std::vector<Lanes> original = w;
    for (std::size_t step = 0; step < in; ++step) {
      const std::size_t j = order[step];
      const double* follow = inputs.factor_row(step);
      Lanes error{};
      for (std::size_t lane = 0; lane < rows; ++lane) {
        const std::size_t row = first + lane, at = row * groups + j / group;
        const auto scale = static_cast<double>(codes.scales[at]);
        const int zero = scheme.asymmetric ? codes.zeros[at] : 0;
        const double steps = scale == 0 ? 0 : std::nearbyint(w[j][lane] / scale);
        const double code = std::clamp(steps + zero, static_cast<double>(range.low),
                                       static_cast<double>(range.high));
        codes.codes[row * in + j] = static_cast<std::int8_t>(code);
        const double real = (code - zero) * scale;
        difference[j][lane] = original[j][lane] - real;
        error[lane] = (w[j][lane] - real) / follow[step];
      }
      for (std::size_t p = step + 1; p < in; ++p) {
        Lanes& later = w[order[p]];
        for (std::size_t lane = 0; lane < kLanes; ++lane) later[lane] -= error[lane] * follow[p];
      }
    }
    const auto sum = [](const Lanes& lanes) {
      return std::accumulate(lanes.begin(), lanes.end(), 0.0);
    };
    energies[task] = {sum(energies_of(products, original)), sum(energies_of(products, difference)),
                      sum(energies_of(products, nearest_difference))};
  });
  if (processes != nullptr) {
    const std::size_t first = own.first * kLanes * in, end = std::min(out, own.end * kLanes) * in;
    codes.codes =
        join_values<std::int8_t>(*processes, std::span(codes.codes).subspan(first, end - first));
    energies = join_values<Energies>(*processes, energies);
  }
  Energies total;
  for (const Energies& of_task : energies) {
    total.all += of_task.all;
    total.error += of_task.error;
    total.nearest += of_task.nearest;
  }
  if (total.all > 0) {
    result.error = total.error / total.all;
    result.nearest_error = total.nearest / total.all;
  }
  return result;
}

}  // namespace qalof::weights
