// The instruction set that kernels run on: chosen once from the CPU and the environment variable
// QALOF_ISA (a name of to_string); tests force each in turn.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qalof::kernels {

/// Each set includes those before it, except that kAvx512 does not need kAvxVnni:
///   kAvx2        with FMA, F16C, BMI2
///   kAvxVnni     AVX2 and byte products of 256 bits
///   kAvx512      AVX2 and AVX-512 F, BW, DQ, VL
///   kAvx512Vnni  and byte products of 512 bits
///   kAvx512Bf16  and bfloat16 products of 512 bits
///   kAmx         and byte and bfloat16 products of tiles (Linux only, which grants the tile
///                registers on request)
/// and on 64-bit Arm
///   kNeon         what every such processor has
///   kNeonDotprod  and byte products of four pairs (SDOT, Armv8.4 and earlier as an option)
///   kNeonI8mm     and byte products of 2 x 8 by 8 x 2 (SMMLA, Armv8.6 and earlier as an option)
enum class Isa {
  kPortable,
  kAvx2,
  kAvxVnni,
  kAvx512,
  kAvx512Vnni,
  kAvx512Bf16,
  kAmx,
  kNeon,
  kNeonDotprod,
  kNeonI8mm
};

/// All sets of the kind of processor that this program is compiled for, in the order of Isa.
const std::vector<Isa>& known_isas();

/// Sets that this CPU can run, best last.
std::vector<Isa> available_isas();
/// The set in use: QALOF_ISA if set (Error{kUsage} where unknown, Error{kUnsupported} where this
/// CPU lacks it), else the best available.
Isa active_isa();
/// Overrides the choice from now on. For tests and benchmarks: must not be called while kernels run
/// on other threads.
void force_isa(Isa isa);
std::string_view to_string(Isa isa);
/// Text form to Isa; Error{kUsage} names the known ones.
Isa parse_isa(std::string_view text);

}  // namespace qalof::kernels
