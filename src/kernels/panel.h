// How many rows of a weight lie side by side in packed storage (layouts: gemm.h).
#pragma once

#include <cstddef>

namespace qalof::kernels {

inline constexpr std::size_t kPanelRows = 16;

}  // namespace qalof::kernels
