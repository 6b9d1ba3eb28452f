// AVX2: gemm.
#if defined(__x86_64__)
#include "kernels/kernel_table.h"
namespace qalof::kernels {
void set_avx2_gemm(KernelTable& table) { (void)table; }
}  // namespace qalof::kernels
#endif
