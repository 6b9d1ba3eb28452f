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
constexpr std::size_t kFactorBlock = 64,
                      kFactorRows = 16;  // columns and rows of a factor at a time

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
                                   const std::vector<std::size_t>& order, ParallelFor& parallel,
                                   ProcessGroup* processes) {
  const std::size_t n = given.in();
  const auto at = [n](std::size_t i, std::size_t j) {
    return static_cast<std::ptrdiff_t>(i * n + j);
  };
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
  const auto fill = [&](std::size_t i, std::size_t j) {
    v[i * n + j] = (product(i, j) - dot_behind(i, j)) / v[j * n + j];
  };
  // A block of columns at a time, from the last: its own rows, which every process computes, then
  // those above, which do not depend on each other.
  for (std::size_t end = n, first = 0; end > 0; end = first) {
    first = (end - 1) / kFactorBlock * kFactorBlock;
    for (std::size_t j = end; j-- > first;) {
      const double pivot = product(j, j) + kDampening * mean - dot_behind(j, j);
      QALOF_CHECK(pivot > 0, ErrorKind::kBadInput,
                  "gptq: inputs of a linear have no positive definite product (pivot {})", pivot);
      v[j * n + j] = std::sqrt(pivot);
      for (std::size_t i = first; i < j; ++i) fill(i, j);
    }
    const IndexRange own = own_part(first, processes);
    parallel.run((own.end - own.first + kFactorRows - 1) / kFactorRows, [&](std::size_t task) {
      const std::size_t begin = own.first + task * kFactorRows;
      for (std::size_t i = begin; i < std::min(own.end, begin + kFactorRows); ++i)
        for (std::size_t j = end; j-- > first;) fill(i, j);
    });
    if (processes == nullptr) continue;
    std::vector<double> rows;
    for (std::size_t i = own.first; i < own.end; ++i)
      rows.insert(rows.end(), v.begin() + at(i, first), v.begin() + at(i, end));
    rows = join_values<double>(*processes, rows);
    auto next = rows.begin();
    for (std::size_t i = 0; i < first; ++i, next += at(0, end - first))
      std::copy_n(next, end - first, v.begin() + at(i, first));
  }
  // Column blocks of U do not depend on each other. Those with more rows come later.
  const std::size_t ranks = processes != nullptr ? processes->size() : 1;
  const std::size_t rank = processes != nullptr ? processes->rank() : 0;
  const std::size_t blocks = (n + kFactorBlock - 1) / kFactorBlock;
  parallel.run((blocks + ranks - 1 - rank) / ranks, [&](std::size_t task) {
    const std::size_t first = kFactorBlock * (task * ranks + rank);
    const std::size_t end = std::min(n, first + kFactorBlock);
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
  if (processes == nullptr) return u;
  std::vector<double> own;
  const auto for_rows_of = [&](std::size_t of_rank, const auto& work) {
    for (std::size_t first = kFactorBlock * of_rank; first < n; first += kFactorBlock * ranks) {
      const std::size_t end = std::min(n, first + kFactorBlock);
      for (std::size_t i = 0; i < end; ++i) work(u.begin() + at(i, first), end - first);
    }
  };
  for_rows_of(rank,
              [&](auto row, std::size_t count) { own.insert(own.end(), row, row + at(0, count)); });
  processes->wait_for_all();  // one may have had more to do
  const std::vector<double> all = join_values<double>(*processes, own);
  auto next = all.begin();
  for (std::size_t of_rank = 0; of_rank < ranks; ++of_rank)
    for_rows_of(of_rank, [&](auto row, std::size_t count) {
      std::copy_n(next, count, row);
      next += at(0, count);
    });
  return u;
}

// Rows of a linear that are processed together, so that U and the products are read once for all.
constexpr std::size_t kLanes = 8;
using Lanes = std::array<double, kLanes>;

// Of each of three differences d [in], per lane: the sum of (X d)^2 over the rows of X. Together,
// because reading the products takes longer than multiplying them.
using Three = std::array<Lanes, 3>;
Three energies_of(const InputProducts& products, const std::vector<Three>& d) {
  Three sums{};
  for (std::size_t i = 0; i < d.size(); ++i) {
    Three behind{};
    const double* row = products.row(i);
    for (std::size_t j = i + 1; j < d.size(); ++j) {
      const double product = row[j];
      for (std::size_t of = 0; of < sums.size(); ++of)
        for (std::size_t lane = 0; lane < kLanes; ++lane)
          behind[of][lane] += product * d[j][of][lane];
    }
    for (std::size_t of = 0; of < sums.size(); ++of)
      for (std::size_t lane = 0; lane < kLanes; ++lane)
        sums[of][lane] += d[i][of][lane] * (d[i][of][lane] * row[i] + 2 * behind[of][lane]);
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

GptqInputs::GptqInputs(InputProducts products, ParallelFor& parallel, ProcessGroup* processes)
    : products_(std::move(products)) {
  QALOF_CHECK(products_.rows() > 0, ErrorKind::kBadInput, "gptq: no calibration rows");
  order_ = falling_order(products_);
  factor_ = inverse_factor(products_, order_, parallel, processes);
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
    std::vector<Lanes> w(in);
    std::vector<Three> differences(in);  // from zero, from these codes, from the nearest
    for (std::size_t lane = 0; lane < rows; ++lane) {
      for (std::size_t j = 0; j < in; ++j) {
        const std::size_t at = (first + lane) * in + j;
        w[j][lane] = static_cast<double>(weights[at]);
        differences[j][0][lane] = w[j][lane];
        differences[j][2][lane] = w[j][lane] - static_cast<double>(nearest_reals[at]);
      }
    }
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
        differences[j][1][lane] = differences[j][0][lane] - real;
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
    const Three sums = energies_of(products, differences);
    energies[task] = {sum(sums[0]), sum(sums[1]), sum(sums[2])};
  });
  if (processes != nullptr) {
    processes->wait_for_all();  // one may have had more to do
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
