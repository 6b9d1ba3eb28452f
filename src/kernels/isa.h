// Which instruction set the kernels run on. Chosen once from the CPU and the variable QALOF_ISA
// (portable | avx2); tests force each in turn.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qalof::kernels {

enum class Isa { kPortable, kAvx2 };

/// Sets this CPU can run, best last.
std::vector<Isa> available_isas();
/// The set in use: QALOF_ISA if given (Error{kUsage} where unknown, Error{kUnsupported} where this
/// CPU lacks it), else the best available.
Isa active_isa();
/// Overrides the choice from now on. For tests and benchmarks: not while kernels run on other
/// threads.
void force_isa(Isa isa);
std::string_view to_string(Isa isa);
/// Text form to Isa; Error{kUsage} names the known ones.
Isa parse_isa(std::string_view text);

}  // namespace qalof::kernels
