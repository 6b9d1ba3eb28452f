// Rounds f32 values to the types of GGUF files that this project writes.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "io/gguf_blocks.h"

namespace qalof::io {

/// True for F32, F16, BF16, Q8_0, Q4_0 and Q4_1.
bool is_gguf_type_written(GgufType type);

/// Converts whole blocks, bit-equal to the reference rounding of llama.cpp (ggml-quants.c,
/// quantize_row_*_ref) and of gguf-py for finite values: f16 and bfloat16 to nearest, ties to even;
/// codes from the f32 scale before it is rounded to f16. Blocks whose f32 scale is so small that
/// its inverse overflows (the reference divides infinities there) get the codes of zeros.
///
/// Returns false where a value or a scale exceeds the range of f16; dst then holds an infinity.
/// values and dst must hold the same number of blocks. Threads may share nothing but values.
bool blocks_of_f32(GgufType type, std::span<const float> values, std::span<std::byte> dst);

}  // namespace qalof::io
