// AVX-VNNI: integer products, four k per operation. One operand is unsigned: on int8 panels it is x
// + 128, which adds 128 times the sum of the weights' codes; on panels of fewer bits it is the
// stored code, code + offset, which adds offset times the sum of x. Sums start at minus that
// amount. Nothing saturates.
#if defined(__x86_64__)
#include "kernels/avx2/avxvnni_int_gemm.h"

namespace qalof::kernels {

void set_avxvnni_int_gemm(KernelTable& table) { set_pair_formats(table); }

}  // namespace qalof::kernels
#endif
