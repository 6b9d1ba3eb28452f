// AVX2 and FMA: norms, activations, rotary pairs and addition (ops_row.h) with eight floats per
// vector.
#if defined(__x86_64__)
#include "kernels/avx2/avx2_math.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

void set_avx2_ops(KernelTable& table) { RowOps<EightFloats>::set(table); }

}  // namespace qalof::kernels
#endif
