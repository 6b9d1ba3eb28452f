// Products with group scales for instruction sets without a grouped kernel: integer sums of one
// panel and group at a time, then the float sum of docs/numerics.md, "Linear".
#include <algorithm>

#include "kernels/gemm.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

constexpr std::size_t kRows = 48;

// total += float(acc) * scale * factor. Out of line and with a variable count: sixteen known
// elements are not vectorized by the compiler, which takes three times as long as the products.
[[gnu::noinline]] void add_scaled(const std::int32_t* __restrict acc,
                                  const float* __restrict scales, float factor, std::size_t count,
                                  float* __restrict total) {
  for (std::size_t j = 0; j < count; ++j)
    total[j] += static_cast<float>(acc[j]) * scales[j] * factor;
}

// Multiplies rows begin .. begin + rows by one panel, which block describes.
void multiply_panel(const IntGemmBlock& block, const GroupSteps& steps, std::size_t begin,
                    std::size_t rows) {
  float totals[kRows * kPanelRows] = {};
  std::int32_t acc[kRows * kPanelRows];
  std::int32_t sums[kRows];
  IntGemmBlock part = block;
  part.rows = rows;
  part.n = kPanelRows;
  part.x_sums = sums;
  part.y = nullptr;
  part.acc = acc;
  part.y_stride = kPanelRows;
  for (std::size_t group = 0; group < block.groups; ++group) {
    const std::size_t at = group * block.group;
    part.x = block.x + begin * block.x_stride + at;
    part.prepared = block.prepared == nullptr
                        ? nullptr
                        : static_cast<const char*>(block.prepared) + begin * block.prepared_stride +
                              at * steps.element_bytes;
    part.k = std::min(block.group, block.k - at);
    part.panels = static_cast<const char*>(block.panels) + group * steps.group_bytes;
    part.code_sums = block.code_sums + group * kPanelRows;
    for (std::size_t row = 0; row < rows && block.x_sums != nullptr; ++row)
      sums[row] = block.x_sums[(begin + row) * block.groups + group];
    steps.gemm(part);
    const std::int8_t* zeros = block.zeros == nullptr ? nullptr : block.zeros + group * kPanelRows;
    for (std::size_t row = 0; row < rows; ++row) {
      std::int32_t* acc_row = acc + row * kPanelRows;
      if (zeros != nullptr) {
        for (std::size_t j = 0; j < kPanelRows; ++j) acc_row[j] -= zeros[j] * sums[row];
      }
      const float factor = block.x_group_scales == nullptr
                               ? 1.0F
                               : block.x_group_scales[(begin + row) * block.groups + group];
      add_scaled(acc_row, block.w_scales + group * kPanelRows, factor, kPanelRows,
                 totals + row * kPanelRows);
    }
  }
  const std::size_t count = std::min(kPanelRows, block.n);
  for (std::size_t row = 0; row < rows; ++row) {
    float* y = block.y + (begin + row) * block.y_stride;
    for (std::size_t j = 0; j < count; ++j) {
      const float value = totals[row * kPanelRows + j] * block.x_scales[begin + row];
      y[j] = block.bias == nullptr ? value : value + block.bias[j];
    }
  }
}

}  // namespace

void multiply_groups(const IntGemmBlock& block, const GroupSteps& steps) {
  for (std::size_t first = 0; first < block.n; first += kPanelRows) {
    IntGemmBlock panel = block;
    const std::size_t skip = first * block.groups;
    panel.panels = static_cast<const char*>(block.panels) + first / kPanelRows * steps.panel_bytes;
    panel.n = block.n - first;
    panel.zeros = block.zeros == nullptr ? nullptr : block.zeros + skip;
    panel.code_sums = block.code_sums + skip;
    panel.w_scales = block.w_scales + skip;
    panel.bias = block.bias == nullptr ? nullptr : block.bias + first;
    panel.y = block.y + first;
    for (std::size_t begin = 0; begin < block.rows; begin += kRows)
      multiply_panel(panel, steps, begin, std::min(kRows, block.rows - begin));
  }
}

}  // namespace qalof::kernels
