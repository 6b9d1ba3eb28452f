// NEON: norms, activations, rotary pairs and addition (ops_row.h) with eight floats per vector.
#if defined(__aarch64__)
#include "kernels/kernel_table.h"
#include "kernels/neon/neon_math.h"

namespace qalof::kernels {

void set_neon_ops(KernelTable& table) { RowOps<EightFloats>::set(table); }

}  // namespace qalof::kernels
#endif
