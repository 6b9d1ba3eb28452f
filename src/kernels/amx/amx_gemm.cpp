// AMX: integer and bfloat16 products of tiles (amx_tile.h). Integer products of few rows are left
// to AVX-512 VNNI, whose sums are equal; bfloat16 sums on AMX have their own order
// (docs/numerics.md, "Bfloat16"), so any number of rows is computed here.
#if defined(__x86_64__)
#include "kernels/amx/amx_tile.h"
#include "kernels/avx512/avx512_float.h"
#include "kernels/avx512/avx512_int_formats.h"

namespace qalof::kernels {

namespace {

// The unsigned operand is x on int8 panels, the weights on panels of fewer bits.
#define QALOF_DOT(name, instruction)                   \
  struct name {                                        \
    static void multiply00() { instruction(0, 4, 6); } \
    static void multiply01() { instruction(1, 4, 7); } \
    static void multiply10() { instruction(2, 5, 6); } \
    static void multiply11() { instruction(3, 5, 7); } \
  };
QALOF_DOT(Int8Dot, _tile_dpbusd)
QALOF_DOT(FewBitDot, _tile_dpbsud)
QALOF_DOT(Bf16Dot, _tile_dpbf16ps)
#undef QALOF_DOT

// A vector of a panel is a tile's line and is read in place.
struct LinesInPlace {
  static std::size_t panel_bytes(std::size_t num_lines) { return num_lines * kLineBytes; }
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

template <typename Base_, WeightFormat kFormat>
struct AmxFewBit {
  using Base = Base_;
  using Dot = FewBitDot;
  static constexpr CodeLayout kLayout = code_layout(kFormat);
  static constexpr std::size_t kElementBytes = 1, kUnitLines = kLayout.columns / kXBytesOfLine;
  static std::size_t num_lines(const IntGemmBlock& block) {
    return (block.k + kLayout.columns - 1) / kLayout.columns * kUnitLines;
  }
  static std::size_t panel_bytes(std::size_t num_lines) {
    return num_lines / kUnitLines * kLayout.bytes;
  }
  // begin and end are multiples of kUnitLines: those of a stretch and of groups are.
  static const char* lines(const char* panel, std::size_t begin, std::size_t end,
                           std::size_t num_lines, char* buffer) {
    for (std::size_t line = begin; line < end; line += kUnitLines) {
      char* at = buffer + (line - begin) * kLineBytes;
      const char* unit = panel + line / kUnitLines * kLayout.bytes;
      for (int step = 0; step < static_cast<int>(kUnitLines); ++step, at += kLineBytes) {
        _mm512_store_si512(
            at, line < num_lines ? stored_codes<kFormat>(unit, step) : _mm512_setzero_si512());
      }
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
constexpr std::size_t kFewRowsAmx = 8, kFewRowsFewBits = 16;

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

// The AMX format of a WeightFormat on an AVX-512 format.
template <WeightFormat kFormat, typename Base>
struct AmxOf {
  using Format = AmxFewBit<Base, kFormat>;
};
template <typename Base>
struct AmxOf<WeightFormat::kInt8, Base> {
  using Format = AmxInt8<Base>;
};

template <WeightFormat kFormat>
void multiply_int(const IntGemmBlock& block) {
  if (block.rows < (kFormat == WeightFormat::kInt8 ? kFewRowsAmx : kFewRowsFewBits)) {
    avx512vnni_gemm(block, kFormat);
    return add_low_rank(block);
  }
  multiply_amx<typename AmxOf<kFormat, typename FormatsOf<kFormat>::Plain>::Format>(block);
}

template <WeightFormat kFormat>
void multiply_int_grouped(const IntGemmBlock& block) {
  // A stretch must hold whole groups.
  const bool even = kStretchLines * kXBytesOfLine % block.group == 0;
  if (block.rows < kFewRowsFewBits || !even) {
    avx512vnni_gemm_grouped(block, kFormat);
    return add_low_rank(block);
  }
  using Formats = FormatsOf<kFormat>;
  using Plain = typename AmxOf<kFormat, typename Formats::template Grouped<false>>::Format;
  using Scaled = typename AmxOf<kFormat, typename Formats::template Grouped<true>>::Format;
  return block.x_group_scales == nullptr ? multiply_amx<Plain>(block) : multiply_amx<Scaled>(block);
}

// Rows are prepared as for AVX-512 VNNI.
template <WeightFormat kFormat>
void set_products(IntProducts& products) {
  products.gemm = multiply_int<kFormat>;
  products.grouped = multiply_int_grouped<kFormat>;
}

}  // namespace

void set_amx_gemm(KernelTable& table) {
  table.adds_low_rank = true;
  set_products<WeightFormat::kInt8>(table.int8);
  set_products<WeightFormat::kInt4>(table.int4);
  set_products<WeightFormat::kInt3>(table.int3);
  set_products<WeightFormat::kInt2>(table.int2);
  // Reads rows prepared by AVX-512 BF16's prepare_bf16.
  table.gemm_bf16 = multiply_amx<AmxBf16>;
}

}  // namespace qalof::kernels
#endif
