// NEON with dot products (SDOT): integer products, four k per operation.
#if defined(__aarch64__)
#include "kernels/neon/dotprod_products.h"

namespace qalof::kernels {

void set_dotprod_int_gemm(KernelTable& table) { set_neon_int_formats<DotProducts>(table); }

}  // namespace qalof::kernels
#endif
