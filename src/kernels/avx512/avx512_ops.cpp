// AVX-512: norms, activations, rotary pairs and addition (ops_row.h) with sixteen floats per
// vector.
#if defined(__x86_64__)
#include "kernels/avx512/avx512_math.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

void set_avx512_ops(KernelTable& table) { RowOps<SixteenFloats>::set(table); }

}  // namespace qalof::kernels
#endif
