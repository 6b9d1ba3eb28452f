// The most this machine does at the moment: multiply-adds of registers and reading of memory, as
// the measure of what products reach. Where a CPU lacks an instruction set, the next lower one
// counts.
#pragma once

namespace qalof::bench {

enum class Arithmetic { kF32, kBf16, kInt8 };

/// Gop/s of one thread (a multiplication and an addition are two), measured now.
double peak_gops(Arithmetic arithmetic);
/// GB/s at which one thread reads a range much larger than the caches, measured now.
double read_gbs();

}  // namespace qalof::bench
