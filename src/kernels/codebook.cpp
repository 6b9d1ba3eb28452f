// NF4, FP4 and the 8-bit dynamic map: tables, nearest codes and block scales with bitsandbytes'
// rounding.
#include "kernels/codebook.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernel_table.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

namespace {

constexpr std::array<float, 16> kNf4Reals = {-1.0F,        -0.6961928F,  -0.52507305F,  -0.3949175F,
                                             -0.28444138F, -0.18477343F, -0.091050036F, 0.0F,
                                             0.0795803F,   0.1609302F,   0.2461123F,    0.33791524F,
                                             0.44070983F,  0.562617F,    0.72295684F,   1.0F};
// A sign, two exponent bits and one fraction bit, divided by the largest value, 12.
constexpr std::array<float, 16> kFp4Reals = {
    0.0F, 0.0625F / 12.0F,  8.0F / 12.0F,  1.0F,  4.0F / 12.0F,  0.5F,  2.0F / 12.0F,  0.25F,
    0.0F, -0.0625F / 12.0F, -8.0F / 12.0F, -1.0F, -4.0F / 12.0F, -0.5F, -2.0F / 12.0F, -0.25F};

// Codes sorted by value, and the midpoints between neighbours; a number at a midpoint takes the
// lower code.
struct Sorted {
  std::array<std::uint8_t, 16> codes{};
  std::array<float, 15> middles{};

  explicit Sorted(const std::array<float, 16>& reals) {
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i);
    std::stable_sort(codes.begin(), codes.end(),
                     [&](std::uint8_t a, std::uint8_t b) { return reals[a] < reals[b]; });
    for (std::size_t i = 0; i < middles.size(); ++i)
      middles[i] = (reals[codes[i]] + reals[codes[i + 1]]) / 2.0F;
  }
  std::uint8_t code_of(float value) const {
    std::size_t rank = 0;
    for (const float middle : middles) rank += middle < value ? 1 : 0;
    return codes[rank];
  }
};

const Sorted& sorted(Codebook codebook) {
  static const Sorted nf4(kNf4Reals), fp4(kFp4Reals);
  return codebook == Codebook::kNf4 ? nf4 : fp4;
}

constexpr float kSmallestScale = 1e-38F;

float clamp_unit(float value) { return std::min(std::max(value, -1.0F), 1.0F); }

// Calls body(block, index of its first element, number of elements) for every block.
template <typename Body>
void for_blocks(std::size_t count, ParallelFor& parallel, const Body& body) {
  for_ranges(parallel, codebook_blocks(count), kMinPiece / kCodebookBlock,
             [&](std::size_t begin, std::size_t end) {
               for (std::size_t block = begin; block < end; ++block) {
                 const std::size_t first = block * kCodebookBlock;
                 body(block, first, std::min(kCodebookBlock, count - first));
               }
             });
}

std::array<float, 256> make_dynamic_map() {
  // Seven decades with 2^i fractions each, both signs, then 0 and 1.
  std::array<float, 256> map{};
  std::size_t size = 0;
  const auto boundary = [](int i, int last) {
    const float step = (1.0F - 0.1F) / static_cast<float>(last);
    // Each half is computed from its own end.
    return i < (last + 1) / 2 ? std::fma(step, static_cast<float>(i), 0.1F)
                              : std::fma(-step, static_cast<float>(last - i), 1.0F);
  };
  for (int decade = 0; decade < 7; ++decade) {
    const auto factor = static_cast<float>(std::pow(10.0, decade - 6));
    const int fractions = 1 << decade;
    for (int i = 0; i < fractions; ++i) {
      const float mean = (boundary(i, fractions) + boundary(i + 1, fractions)) / 2.0F;
      map[size++] = factor * mean;
      map[size++] = -factor * mean;
    }
  }
  map[size++] = 0.0F;
  map[size++] = 1.0F;
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

const std::array<float, 16>& codebook_reals(Codebook codebook) {
  return codebook == Codebook::kNf4 ? kNf4Reals : kFp4Reals;
}

void quantize_codebook(const float* src, std::size_t count, Codebook codebook, std::uint8_t* packed,
                       float* scales, ParallelFor& parallel) {
  const Sorted& table = sorted(codebook);
  for_blocks(count, parallel, [&](std::size_t block, std::size_t first, std::size_t size) {
    const float* x = src + first;
    const float largest = active_table().max_abs(x, size);
    const float divisor = std::max(largest, kSmallestScale);
    // An incomplete block is divided by its scale instead of multiplied by the inverse, and its
    // scale is never 0: both differences are bitsandbytes' own.
    const bool is_full = size == kCodebookBlock;
    const float inverse = 1.0F / divisor;
    scales[block] = is_full ? largest : divisor;
    for (std::size_t i = 0; i < size; i += 2) {
      const auto code = [&](std::size_t at) -> unsigned {
        if (at >= size) return table.code_of(0.0F);
        return table.code_of(clamp_unit(is_full ? x[at] * inverse : x[at] / divisor));
      };
      packed[(first + i) / 2] = static_cast<std::uint8_t>(code(i) << 4 | code(i + 1));
    }
  });
}

void dequantize_codebook(const std::uint8_t* packed, const float* scales, std::size_t count,
                         Codebook codebook, float* dst, ParallelFor& parallel) {
  const std::array<float, 16>& reals = codebook_reals(codebook);
  for_blocks(count, parallel, [&](std::size_t block, std::size_t first, std::size_t size) {
    for (std::size_t i = first; i < first + size; ++i) {
      const unsigned code = i % 2 == 0 ? packed[i / 2] >> 4U : packed[i / 2] & 15U;
      dst[i] = reals[code] * scales[block];
    }
  });
}

const std::array<float, 256>& dynamic_map() {
  static const std::array<float, 256> map = make_dynamic_map();
  return map;
}

float quantize_scales(const float* scales, std::size_t blocks, std::uint8_t* codes,
                      float* block_scales) {
  double sum = 0;
  for (std::size_t i = 0; i < blocks; ++i) sum += static_cast<double>(scales[i]);
  const auto mean = static_cast<float>(sum / static_cast<double>(std::max<std::size_t>(blocks, 1)));
  quantize_scales(scales, blocks, mean, codes, block_scales);
  return mean;
}

void quantize_scales(const float* scales, std::size_t blocks, float mean, std::uint8_t* codes,
                     float* block_scales) {
  const std::array<float, 256>& map = dynamic_map();
  for (std::size_t first = 0; first < blocks; first += kScaleBlock) {
    const std::size_t end = std::min(blocks, first + kScaleBlock);
    float largest = 0.0F;
    for (std::size_t i = first; i < end; ++i)
      largest = std::max(largest, std::fabs(scales[i] - mean));
    block_scales[first / kScaleBlock] = largest;
    if (largest == 0.0F) {  // every code means 0
      std::fill(codes + first, codes + end, std::uint8_t{0});
      continue;
    }
    const float inverse = 1.0F / largest;
    for (std::size_t i = first; i < end; ++i) {
      const float value = clamp_unit((scales[i] - mean) * inverse);
      const auto above = std::lower_bound(map.begin(), map.end(), value);
      auto code = static_cast<std::size_t>(above - map.begin());
      if (code > 0 && value <= (map[code - 1] + map[code]) / 2.0F) --code;
      codes[i] = static_cast<std::uint8_t>(code);
    }
  }
}

void dequantize_scales(const std::uint8_t* codes, const float* block_scales, float mean,
                       std::size_t blocks, float* scales) {
  for (std::size_t i = 0; i < blocks; ++i) {
    const float difference = dynamic_map()[codes[i]] * block_scales[i / kScaleBlock];
    scales[i] = difference + mean;
  }
}

void quantize_vectorwise(const float* src, std::size_t rows, std::size_t cols, std::int8_t* codes,
                         float* stats, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  for_ranges(parallel, rows, rows_per_piece(cols), [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const float* x = src + row * cols;
      stats[row] = table.max_abs(x, cols);
      const float multiplier = stats[row] > 0.0F ? 127.0F / stats[row] : 0.0F;
      // Below 127 / FLT_MAX the quotient is infinite, which would make the codes infinite too.
      table.quantize(x, cols, std::isfinite(multiplier) ? multiplier : 0.0F, codes + row * cols);
    }
  });
}

}  // namespace qalof::kernels
