// Fixed random signs and block sizes of the Hadamard rotation; the transform itself is per
// instruction set (hadamard_row.h).
#include "kernels/hadamard.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "kernels/kernel_table.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

namespace {

// block = power * 12^twelves is the largest divisor of n of that form, where power is a power of
// two.
struct Factors {
  std::size_t power = 1, twelves = 0, block = 1;
};

Factors factors_of(std::size_t n) {
  Factors factors;
  while (n % 12 == 0) {
    n /= 12;
    factors.block *= 12;
    ++factors.twelves;
  }
  for (; n % 2 == 0; n /= 2) factors.power *= 2;
  factors.block *= factors.power;
  return factors;
}

// Calls change(block) for every block of every row; with from, rows are first copied from there.
template <typename Change>
void for_blocks(const float* from, float* x, std::size_t rows, std::size_t stride,
                std::size_t blocks, std::size_t order, ParallelFor& parallel,
                const Change& change) {
  for_ranges(parallel, rows, rows_per_piece(blocks * order),
             [&](std::size_t begin, std::size_t end) {
               for (std::size_t row = begin; row < end; ++row) {
                 if (from != nullptr) std::copy_n(from + row * stride, stride, x + row * stride);
                 for (std::size_t block = 0; block < blocks; ++block)
                   change(x + row * stride + block * order);
               }
             });
}

}  // namespace

std::size_t hadamard_block(std::size_t n) { return factors_of(n).block; }

Hadamard::Hadamard(std::size_t order) {
  QALOF_CHECK(order > 0, ErrorKind::kInternal, "rotation of order 0");
  const auto [power, twelves, block] = factors_of(order);
  power_ = power;
  twelves_ = twelves;
  block_ = block;
  const auto length = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block_)));
  const RandomStream signs(0, "hadamard");
  for (std::size_t i = 0; i < order; ++i)
    factors_.push_back((signs.words(order, i)[0] & 1U) != 0 ? -length : length);
}

void Hadamard::apply(float* x) const {
  const KernelTable& table = active_table();
  table.multiply(factors_.data(), order(), x);
  for (std::size_t first = 0; first < order(); first += block_)
    table.hadamard(x + first, power_, twelves_);
}

void Hadamard::invert(float* x) const {
  const KernelTable& table = active_table();
  for (std::size_t first = 0; first < order(); first += block_)
    table.hadamard(x + first, power_, twelves_);
  table.multiply(factors_.data(), order(), x);
}

void Hadamard::apply(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
                     ParallelFor& parallel, const float* from) const {
  for_blocks(from, x, rows, stride, blocks, order(), parallel, [&](float* block) { apply(block); });
}

void Hadamard::invert(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
                      ParallelFor& parallel, const float* from) const {
  for_blocks(from, x, rows, stride, blocks, order(), parallel,
             [&](float* block) { invert(block); });
}

}  // namespace qalof::kernels
