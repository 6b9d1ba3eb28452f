// AVX2: ops.
#if defined(__x86_64__)
#include "kernels/kernel_table.h"
namespace qalof::kernels {
void set_avx2_ops(KernelTable& table) { (void)table; }
}  // namespace qalof::kernels
#endif
