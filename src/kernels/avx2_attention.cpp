// AVX2: attention.
#if defined(__x86_64__)
#include "kernels/kernel_table.h"
namespace qalof::kernels {
void set_avx2_attention(KernelTable& table) { (void)table; }
}  // namespace qalof::kernels
#endif
