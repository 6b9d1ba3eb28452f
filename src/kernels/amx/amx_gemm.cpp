// AMX: integer and bfloat16 products of tiles (amx_tile.h). Integer products of few rows are left
// to AVX-512 VNNI, whose sums are equal; bfloat16 sums on AMX have their own order
// (docs/numerics.md, "Bfloat16"), so any number of rows is computed here.
#if defined(__x86_64__)
#include "kernels/amx/amx_tile.h"
#include "kernels/avx512/avx512_float.h"
#include "kernels/avx512/avx512_int_formats.h"

namespace qalof::kernels {

namespace {

// The unsigned operand is x on int8 panels, the weights on int4 panels.
#define QALOF_DOT(name, instruction)                   \
  struct name {                                        \
    static void multiply00() { instruction(0, 4, 6); } \
    static void multiply01() { instruction(1, 4, 7); } \
    static void multiply10() { instruction(2, 5, 6); } \
    static void multiply11() { instruction(3, 5, 7); } \
  };
QALOF_DOT(Int8Dot, _tile_dpbusd)
QALOF_DOT(Int4Dot, _tile_dpbsud)
QALOF_DOT(Bf16Dot, _tile_dpbf16ps)
#undef QALOF_DOT

// A vector of a panel is a tile's line and is read in place.
struct LinesInPlace {
  static constexpr std::size_t kLinesOfVector = 1;
  static const char* lines(const char* panel, std::size_t begin, std::size_t end,
                           std::size_t num_lines, char* buffer) {
    return lines_in_place(panel, begin, end, num_lines, buffer);
  }
};

template <typename Base_>
struct AmxInt8 : LinesInPlace {
  using Base = Base_;
  using Dot = Int8Dot;
  static constexpr std::size_t kElementBytes = 1;
  static std::size_t num_lines(const IntGemmBlock& block) { return (block.k + 3) / 4; }
};

template <typename Base_>
struct AmxInt4 {
  using Base = Base_;
  using Dot = Int4Dot;
  static constexpr std::size_t kElementBytes = 1, kLinesOfVector = 2;
  static std::size_t num_lines(const IntGemmBlock& block) { return (block.k + 7) / 8 * 2; }
  static const char* lines(const char* panel, std::size_t begin, std::size_t end,
                           std::size_t num_lines, char* buffer) {
    const __m512i low = _mm512_set1_epi8(15);
    for (std::size_t line = begin; line < end; line += 2) {
      const __m512i pair = line < num_lines ? _mm512_loadu_si512(panel + line / 2 * kLineBytes)
                                            : _mm512_setzero_si512();
      char* at = buffer + (line - begin) * kLineBytes;
      _mm512_store_si512(at, _mm512_and_si512(pair, low));
      _mm512_store_si512(at + kLineBytes, _mm512_and_si512(_mm512_srli_epi16(pair, 4), low));
    }
    return buffer;
  }
};

struct AmxBf16 : LinesInPlace {
  using Base = FloatFormat;
  using Dot = Bf16Dot;
  static constexpr std::size_t kElementBytes = 2;
  static std::size_t num_lines(const FloatGemmBlock& block) { return (block.k + 1) / 2; }
};

// Below this many rows a product mostly waits for its weights from memory.
constexpr std::size_t kFewRowsAmx = 8, kFewRowsNibbles = 16;

// Adds the low-rank product, which AVX-512 VNNI's kernels leave out.
void add_low_rank(const IntGemmBlock& block) {
  if (block.low_rank == nullptr) return;
  for (std::size_t row = 0; row < block.rows; ++row) {
    for (std::size_t first = 0; first < block.n; first += kPanelRows) {
      float* y = block.y + row * block.y_stride + first;
      const __mmask16 mask = panel_mask(block.n - first);
      const __m512 value = low_rank_value(*block.low_rank, row, first);
      _mm512_mask_storeu_ps(y, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value));
    }
  }
}

template <typename Format, bool kNibbles>
void multiply_int(const IntGemmBlock& block) {
  if (block.rows < (kNibbles ? kFewRowsNibbles : kFewRowsAmx)) {
    avx512vnni_gemm(block, kNibbles);
    return add_low_rank(block);
  }
  multiply_amx<Format>(block);
}

template <template <typename> typename Format, template <bool> typename Grouped, bool kNibbles>
void multiply_int_grouped(const IntGemmBlock& block) {
  // A stretch must hold whole groups.
  const bool even = kStretchLines * kXBytesOfLine % block.group == 0;
  if (block.rows < kFewRowsNibbles || !even) {
    avx512vnni_gemm_grouped(block, kNibbles);
    return add_low_rank(block);
  }
  return block.x_group_scales == nullptr ? multiply_amx<Format<Grouped<false>>>(block)
                                         : multiply_amx<Format<Grouped<true>>>(block);
}

}  // namespace

void set_amx_gemm(KernelTable& table) {
  table.adds_low_rank = true;
  table.gemm_int8 = multiply_int<AmxInt8<Int8Format>, false>;
  table.gemm_int4 = multiply_int<AmxInt4<Int4Format>, true>;
  table.gemm_int8_grouped = multiply_int_grouped<AmxInt8, GroupedInt8Format, false>;
  table.gemm_int4_grouped = multiply_int_grouped<AmxInt4, GroupedInt4Format, true>;
  // Reads rows prepared by AVX-512 BF16's prepare_bf16.
  table.gemm_bf16 = multiply_amx<AmxBf16>;
}

}  // namespace qalof::kernels
#endif
