#include "kernels/hadamard.h"

#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "kernels/kernel_table.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

namespace {

// order = power * 12^twelves; power is 0 where there is no such pair.
struct Factors {
  std::size_t power = 0, twelves = 0;
};

Factors factors_of(std::size_t order) {
  Factors factors{order, 0};
  while (factors.power % 12 == 0 && factors.power > 0) {
    factors.power /= 12;
    ++factors.twelves;
  }
  if (!std::has_single_bit(factors.power)) factors.power = 0;
  return factors;
}

// change(block) for every block of every row.
template <typename Change>
void for_blocks(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
                std::size_t order, ParallelFor& parallel, const Change& change) {
  for_ranges(parallel, rows, rows_per_piece(blocks * order),
             [&](std::size_t begin, std::size_t end) {
               for (std::size_t row = begin; row < end; ++row) {
                 for (std::size_t block = 0; block < blocks; ++block)
                   change(x + row * stride + block * order);
               }
             });
}

}  // namespace

bool is_hadamard_order(std::size_t n) { return factors_of(n).power != 0; }

Hadamard::Hadamard(std::size_t order) {
  const auto [power, twelves] = factors_of(order);
  QALOF_CHECK(power != 0, ErrorKind::kInternal, "Hadamard matrix of order {}", order);
  power_ = power;
  twelves_ = twelves;
  const auto length = static_cast<float>(1.0 / std::sqrt(static_cast<double>(order)));
  const RandomStream signs(0, "hadamard");
  for (std::size_t i = 0; i < order; ++i)
    factors_.push_back((signs.words(order, i)[0] & 1U) != 0 ? -length : length);
}

void Hadamard::apply(float* x) const {
  const KernelTable& table = active_table();
  table.multiply(factors_.data(), factors_.size(), x);
  table.hadamard(x, power_, twelves_);
}

void Hadamard::invert(float* x) const {
  const KernelTable& table = active_table();
  table.hadamard(x, power_, twelves_);
  table.multiply(factors_.data(), factors_.size(), x);
}

void Hadamard::apply(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
                     ParallelFor& parallel) const {
  for_blocks(x, rows, stride, blocks, order(), parallel, [&](float* block) { apply(block); });
}

void Hadamard::invert(float* x, std::size_t rows, std::size_t stride, std::size_t blocks,
                      ParallelFor& parallel) const {
  for_blocks(x, rows, stride, blocks, order(), parallel, [&](float* block) { invert(block); });
}

}  // namespace qalof::kernels
