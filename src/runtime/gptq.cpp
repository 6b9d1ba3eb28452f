#include "runtime/gptq.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace qalof::runtime {

namespace {

constexpr double kDampening = 0.01;

// The upper factor U of (H + damping)^-1 = U^T U, rows of [in, in]. With H = V V^T, V upper (a
// Cholesky factorization from the last row up), U is V's inverse.
std::vector<double> inverse_factor(const InputProducts& products, ParallelFor& parallel) {
  const std::size_t n = products.in();
  double mean = 0;
  for (std::size_t i = 0; i < n; ++i) mean += products.at(i, i) / static_cast<double>(n);
  QALOF_CHECK(std::isfinite(mean) && mean > 0, ErrorKind::kBadInput,
              "gptq: inputs of a linear are all zero or not finite (mean square {})", mean);
  std::vector<double> v(n * n, 0.0), u(n * n, 0.0);
  const auto dot_behind = [&](std::size_t i, std::size_t j) {  // over columns behind j
    const double *a = v.data() + i * n, *b = v.data() + j * n;
    double sums[4] = {};
    std::size_t p = j + 1;
    for (; p + 4 <= n; p += 4)
      for (std::size_t lane = 0; lane < 4; ++lane) sums[lane] += a[p + lane] * b[p + lane];
    for (; p < n; ++p) sums[0] += a[p] * b[p];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  };
  for (std::size_t j = n; j-- > 0;) {
    const double pivot = products.at(j, j) + kDampening * mean - dot_behind(j, j);
    QALOF_CHECK(pivot > 0, ErrorKind::kBadInput,
                "gptq: inputs of a linear have no positive definite product (pivot {})", pivot);
    v[j * n + j] = std::sqrt(pivot);
    parallel.run((j + 63) / 64, [&](std::size_t task) {
      for (std::size_t i = 64 * task; i < std::min(j, 64 * task + 64); ++i)
        v[i * n + j] = (products.at(i, j) - dot_behind(i, j)) / v[j * n + j];
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

// sum over rows of X of (X d)^2 for one difference d [in].
double energy(const InputProducts& products, const std::vector<double>& d) {
  double sum = 0;
  for (std::size_t i = 0; i < d.size(); ++i) {
    if (d[i] == 0) continue;
    double behind = 0;
    for (std::size_t j = i + 1; j < d.size(); ++j) behind += products.at(i, j) * d[j];
    sum += d[i] * (d[i] * products.at(i, i) + 2 * behind);
  }
  return sum;
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
  parallel.run((in_ + 15) / 16, [&](std::size_t task) {
    for (std::size_t i = 16 * task; i < std::min(in_, 16 * task + 16); ++i) {
      double* sums = sums_.data() + i * in_;
      for (std::size_t row = 0; row < rows; ++row) {
        const float* values = x + row * in_;
        const auto factor = static_cast<double>(values[i]);
        for (std::size_t j = i; j < in_; ++j) sums[j] += factor * static_cast<double>(values[j]);
      }
    }
  });
}

GptqResult quantize_gptq(const std::vector<float>& weights, std::size_t out,
                         const InputProducts& products, int bits, quant::QuantScheme scheme,
                         ParallelFor& parallel) {
  const std::size_t in = products.in();
  QALOF_CHECK(weights.size() == out * in && scheme.kind == quant::CodeKind::kUniform,
              ErrorKind::kInternal, "gptq: {} weights for [{}, {}], scheme {}", weights.size(), out,
              in, quant::to_string(scheme));
  QALOF_CHECK(products.rows() > 0, ErrorKind::kBadInput, "gptq: no calibration rows");
  const std::vector<double> u = inverse_factor(products, parallel);
  const CodeRange range = code_range(bits, scheme.asymmetric);
  GptqResult result;
  RowCodes& codes = result.codes;
  // Scales of rows are those of the nearest codes; scales of groups are made again as errors come.
  const RowCodes nearest = quantize_weights(weights, out, in, bits, scheme, parallel);
  codes = nearest;
  const std::vector<float> nearest_reals = reals_of(nearest, parallel);
  const std::size_t groups = codes.groups(), group = scheme.group == 0 ? in : scheme.group;
  struct Energies {
    double all, error, nearest;
  };
  std::vector<Energies> energies(out);
  parallel.run(out, [&](std::size_t row) {
    SerialFor serial;
    const float* original = weights.data() + row * in;
    std::vector<double> w(original, original + in), difference(in);
    for (std::size_t j = 0; j < in; ++j) {
      const std::size_t at = row * groups + j / group;
      if (scheme.group != 0 && j % group == 0) {
        const std::size_t end = std::min(in, j + group);
        const std::vector<float> part(w.begin() + static_cast<std::ptrdiff_t>(j),
                                      w.begin() + static_cast<std::ptrdiff_t>(end));
        const RowCodes own = quantize_weights(part, 1, part.size(), bits, scheme, serial);
        codes.scales[at] = own.scales[0];
        if (scheme.asymmetric) codes.zeros[at] = own.zeros[0];
      }
      const auto scale = static_cast<double>(codes.scales[at]);
      const int zero = scheme.asymmetric ? codes.zeros[at] : 0;
      const double steps = scale == 0 ? 0 : std::nearbyint(w[j] / scale);
      const double code =
          std::clamp(steps + zero, static_cast<double>(range.low), static_cast<double>(range.high));
      codes.codes[row * in + j] = static_cast<std::int8_t>(code);
      const double real = (code - zero) * scale;
      difference[j] = static_cast<double>(original[j]) - real;
      const double* follow = u.data() + j * in;
      const double error = (w[j] - real) / follow[j];
      for (std::size_t p = j + 1; p < in; ++p) w[p] -= error * follow[p];
    }
    Energies& of_row = energies[row];
    of_row.error = energy(products, difference);
    for (std::size_t j = 0; j < in; ++j) {
      difference[j] =
          static_cast<double>(original[j]) - static_cast<double>(nearest_reals[row * in + j]);
      w[j] = static_cast<double>(original[j]);
    }
    of_row.nearest = energy(products, difference);
    of_row.all = energy(products, w);
  });
  Energies total{};
  for (const Energies& row : energies) {
    total.all += row.all;
    total.error += row.error;
    total.nearest += row.nearest;
  }
  if (total.all > 0) {
    result.error = total.error / total.all;
    result.nearest_error = total.nearest / total.all;
  }
  return result;
}

}  // namespace qalof::runtime
