// Drivers of the matrix products: blocks of rows times groups of panels, one task each. The size of
// blocks affects speed only.
#include "kernels/gemm.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include "kernels/gemm_shared.h"
#include "kernels/hadamard.h"
#include "kernels/kernel_table.h"
#include "kernels/parallel.h"
#include "kernels/quantize.h"

namespace qalof::kernels {

namespace {

// How a product is cut into blocks: the rows of a block should stay in the second-level cache while
// its panels are read.
struct Blocks {
  std::size_t rows, panels;          // of a block
  std::size_t num_rows, num_panels;  // blocks

  Blocks(std::size_t m, std::size_t n, std::size_t row_bytes, int threads) {
    constexpr std::size_t kCacheBytes = 1024 * 1024;
    // A multiple of every tile's height, so that only the last block has leftover rows.
    constexpr std::size_t kTileRows = 24;
    const std::size_t panels_all = ceil_div(n, kPanelRows);
    rows = std::max(kTileRows,
                    kCacheBytes / std::max<std::size_t>(row_bytes, 1) / kTileRows * kTileRows);
    rows = std::min(rows, std::size_t{768});
    // Equal blocks, so that the last one is not tiny.
    if (m > 0) rows = ceil_div(ceil_div(m, ceil_div(m, rows)), kTileRows) * kTileRows;
    num_rows = ceil_div(m, rows);
    const std::size_t wanted = threads == 1 ? 1 : static_cast<std::size_t>(threads) * 4;
    const std::size_t groups =
        std::clamp<std::size_t>(ceil_div(wanted, std::max<std::size_t>(num_rows, 1)), 1,
                                std::max<std::size_t>(panels_all / 4, 1));
    panels = std::max<std::size_t>(ceil_div(panels_all, groups), 1);
    if (panels > 3) panels = ceil_div(panels, 3) * 3;  // the widest tiles take three
    num_panels = ceil_div(panels_all, panels);
  }
};

// Below this many multiply-adds a second thread costs more than it saves.
constexpr std::size_t kSmallProduct = 128 * 1024;

// Calls body(first row, rows, first panel, outputs) for block i.
template <typename Body>
void do_block(const Blocks& blocks, std::size_t i, std::size_t m, std::size_t n, Body&& body) {
  const std::size_t row = i / blocks.num_panels * blocks.rows;
  const std::size_t panel = i % blocks.num_panels * blocks.panels;
  const std::size_t first = panel * kPanelRows;
  body(row, std::min(blocks.rows, m - row), panel, std::min(blocks.panels * kPanelRows, n - first));
}

// do_block for every block.
template <typename Body>
void for_blocks(std::size_t m, std::size_t n, std::size_t row_bytes, ParallelFor& parallel,
                Body&& body) {
  if (m == 0 || n == 0) return;
  const bool small = m * n * row_bytes < kSmallProduct;
  const Blocks blocks(m, n, row_bytes, small ? 1 : parallel.num_threads());
  auto task = [&](std::size_t i) { do_block(blocks, i, m, n, body); };
  run_tasks(parallel, blocks.num_rows * blocks.num_panels, task);
}

template <typename T>
T* offset_or_null(T* pointer, std::size_t offset) {
  return pointer == nullptr ? nullptr : pointer + offset;
}

const void* panel_at(const PackedMatrix& w, std::size_t panel) {
  const std::size_t bytes = packed_matrix_bytes(w.format, kPanelRows, w.k);
  return static_cast<const char*>(w.panels) + panel * bytes;
}

// Memory for prepared rows of x, one buffer per calling thread, aligned to cache lines.
char* prepared_rows(std::size_t bytes) {
  thread_local std::vector<char> buffer;
  char* begin = at_least(buffer, bytes + 64);
  return begin + (64 - reinterpret_cast<std::uintptr_t>(begin) % 64) % 64;
}

// Sums of a row's codes, one per group.
void sum_rows(const KernelTable& table, const std::int8_t* x, std::size_t k, std::size_t group,
              std::int32_t* sums) {
  const std::size_t length = group == 0 ? k : group;
  for (std::size_t begin = 0; begin == 0 || begin < k; begin += length)
    *sums++ = table.sum_codes(x + begin, std::min(length, k - begin));
}

// The left operand of an integer product.
struct CodeRows {
  const std::int8_t* codes;   // [m, k], or null where the kernels read prepared rows only
  char* prepared;             // or null
  std::size_t stride;         // of prepared
  std::int32_t* sums;         // [m, groups] or null
  const float* scales;        // [m] or null
  const float* group_scales;  // [m, groups], then scales are all 1; or null
};

// Prepares the rows of a product with w. The memory is reused by the next product of this thread.
struct RowPreparation {
  const KernelTable& table;
  const PackedMatrix& w;
  const IntProducts& products;
  const PrepareRow<std::int8_t>& prepare;
  std::size_t groups;
  CodeRows rows;

  RowPreparation(const KernelTable& table_, const PackedMatrix& w_, std::size_t m)
      : table(table_),
        w(w_),
        products(int_products(table, w.format)),
        prepare(products.prepare),
        groups(num_groups(w.k, w.group)),
        rows{} {
    // Fewer bits are multiplied as code + offset, which adds offset times the row's sum.
    thread_local std::vector<std::int32_t> sums_buffer;
    if (code_layout(w.format).offset != 0 || w.zeros != nullptr)
      rows.sums = at_least(sums_buffer, m * groups);
    rows.stride = prepared_stride(w.k, prepare.element_bytes);
    if (prepare.run != nullptr) rows.prepared = prepared_rows(m * rows.stride);
  }
  // scales [m], or [m, groups] if x_groups.
  void set_scales(const float* scales, std::size_t m, bool x_groups) {
    rows.scales = scales;
    if (!x_groups) return;
    // Only ever holds 1, and a factor of 1 changes no bit.
    thread_local std::vector<float> ones;
    if (ones.size() < m) ones.assign(m, 1.0F);
    rows.scales = ones.data();
    rows.group_scales = scales;
  }
  bool needed() const { return rows.sums != nullptr || prepare.run != nullptr; }
  void run(const std::int8_t* codes, std::size_t row) const {
    if (rows.sums != nullptr) sum_rows(table, codes, w.k, w.group, rows.sums + row * groups);
    if (prepare.run != nullptr) prepare.run(codes, w.k, rows.prepared + row * rows.stride);
  }
};

auto float_gemm(const KernelTable& table, WeightFormat format) {
  if (format == WeightFormat::kBf16) return table.gemm_bf16;
  return format == WeightFormat::kNarrowF32 ? table.gemm_narrow_f32 : table.gemm_f32;
}

FloatGemmBlock inner_block(const float* x, const LowRankInput& input, std::size_t row,
                           std::size_t rows) {
  FloatGemmBlock block{};
  block.x = x + row * input.a.k;
  block.rows = rows;
  block.x_stride = input.a.k;
  block.k = input.a.k;
  block.panels = input.a.panels;
  block.n = input.a.n;
  block.alpha = 1.0F;
  block.y = input.inner + row * input.a.n;
  block.y_stride = input.a.n;
  return block;
}

// Called after each row of begin .. end: multiplies the last few rows while they are in the cache.
void multiply_hot_rows(const KernelTable& table, const float* x, const LowRankInput& input,
                       std::size_t begin, std::size_t row, std::size_t end) {
  constexpr std::size_t kHotRows = 8;
  const std::size_t hot = (row - begin) % kHotRows + 1;
  if (hot != kHotRows && row + 1 != end) return;
  float_gemm(table, input.a.format)(inner_block(x, input, row + 1 - hot, hot));
}

// The first product of an adapter when there are few rows: too small for two threads, so one thread
// computes it while the others already multiply by the weights. The first thread to arrive claims
// it, so no thread ever waits for a task that has not started.
class InnerProduct {
 public:
  explicit InnerProduct(const FloatGemmBlock& block, WeightFormat format)
      : block_(block), gemm_(float_gemm(active_table(), format)) {}
  void start() {
    int open = kOpen;
    if (!state_.compare_exchange_strong(open, kRunning)) return;
    gemm_(block_);
    state_.store(kDone, std::memory_order_release);
  }
  void finish() {
    start();
    while (state_.load(std::memory_order_acquire) != kDone) std::this_thread::yield();
  }

 private:
  static constexpr int kOpen = 0, kRunning = 1, kDone = 2;
  FloatGemmBlock block_;
  void (*gemm_)(const FloatGemmBlock& block);
  std::atomic<int> state_{kOpen};
};

// A block of y: its rows, and n outputs from a panel on.
struct OutputBlock {
  std::size_t row, rows, panel, n;
};

// True where y is too large for the caches to hold until it is read; its stores then bypass them.
bool goes_past_caches(const KernelTable& table, std::size_t m, std::size_t n, const float* y) {
  constexpr std::size_t kManyBytes = std::size_t{16} << 20;
  return table.adds_low_rank && m * n * sizeof(float) >= kManyBytes && n % kPanelRows == 0 &&
         reinterpret_cast<std::uintptr_t>(y) % 64 == 0;
}

// Calls multiply(block, low_rank) and adds the second product, if any: inside the kernel, or after
// a few panels at a time, while y is in the cache. inner, if not null, must finish before the
// second product.
template <typename Multiply>
void multiply_and_add(const LowRankSum* sum, InnerProduct* inner, const OutputBlock& block,
                      float* y, std::size_t y_stride, const Multiply& multiply) {
  if (sum == nullptr) return multiply(block, nullptr);
  const std::size_t rank = sum->b.k;
  if (active_table().adds_low_rank && inner == nullptr && sum->b.format == WeightFormat::kF32) {
    const auto* panels = static_cast<const float*>(panel_at(sum->b, block.panel));
    const LowRankBlock added = {sum->inner + block.row * rank, rank, panels, sum->scaling};
    return multiply(block, &added);
  }
  if (inner != nullptr) inner->start();
  constexpr std::size_t kOutputs = 12 * kPanelRows;
  for (std::size_t at = 0; at < block.n; at += kOutputs) {
    const OutputBlock part = {block.row, block.rows, block.panel + at / kPanelRows,
                              std::min(kOutputs, block.n - at)};
    // Loads the adapter from memory together with the weights instead of after them.
    const auto* adapter = static_cast<const char*>(panel_at(sum->b, part.panel));
    for (std::size_t i = 0; i < part.n * rank * sizeof(float); i += 64)
      __builtin_prefetch(adapter + i);
    multiply(part, nullptr);
    if (inner != nullptr) inner->finish();
    FloatGemmBlock added{};
    added.x = sum->inner + part.row * rank;
    added.rows = part.rows;
    added.x_stride = rank;
    added.k = rank;
    added.panels = panel_at(sum->b, part.panel);
    added.n = part.n;
    added.alpha = sum->scaling;
    added.add = true;
    added.y = y + part.row * y_stride + part.panel * kPanelRows;
    added.y_stride = y_stride;
    float_gemm(active_table(), sum->b.format)(added);
  }
}

// An integer product whose rows are prepared, block by block.
class IntProduct {
 public:
  IntProduct(const RowPreparation& preparation, const PackedMatrix& w, std::size_t m,
             const float* bias, float* y, std::int32_t* acc)
      : x_(preparation.rows),
        w_(w),
        groups_(preparation.groups),
        bias_(bias),
        y_(y),
        acc_(acc),
        streams_(y != nullptr && goes_past_caches(preparation.table, m, w.n, y)) {
    steps_ = {preparation.products.gemm, packed_matrix_bytes(w.format, kPanelRows, w.k),
              packed_matrix_bytes(w.format, kPanelRows, w.group),
              preparation.prepare.element_bytes};
    grouped_ = preparation.products.grouped;
  }

  void multiply(const OutputBlock& part, const LowRankBlock* low_rank) const {
    const std::size_t row = part.row, panel = part.panel, first = panel * kPanelRows;
    IntGemmBlock block;
    block.x = offset_or_null(x_.codes, row * w_.k);
    block.x_stride = w_.k;
    block.prepared = offset_or_null(x_.prepared, row * x_.stride);
    block.prepared_stride = x_.stride;
    block.rows = part.rows;
    block.k = w_.k;
    block.panels = panel_at(w_, panel);
    block.n = part.n;
    block.group = w_.group;
    block.groups = groups_;
    block.zeros = offset_or_null(w_.zeros, first * groups_);
    block.x_sums = offset_or_null(x_.sums, row * groups_);
    block.code_sums = offset_or_null(w_.code_sums, first * groups_);
    block.x_scales = offset_or_null(x_.scales, row);
    block.x_group_scales = offset_or_null(x_.group_scales, row * groups_);
    block.w_scales = offset_or_null(w_.scales, first * groups_);
    block.bias = offset_or_null(bias_, first);
    block.y = offset_or_null(y_, row * w_.n + first);
    block.acc = offset_or_null(acc_, row * w_.n + first);
    block.y_stride = w_.n;
    block.low_rank = low_rank;
    block.streams = streams_;
    if (w_.group == 0) {
      steps_.gemm(block);
    } else if (grouped_ != nullptr) {
      grouped_(block);
    } else {
      multiply_groups(block, steps_);
    }
  }
  // Of a row of x as blocks read it.
  std::size_t row_bytes() const { return w_.k * std::max<std::size_t>(steps_.element_bytes, 1); }

 private:
  const CodeRows& x_;
  const PackedMatrix& w_;
  std::size_t groups_;
  const float* bias_;
  float* y_;
  std::int32_t* acc_;
  bool streams_;
  GroupSteps steps_{};
  void (*grouped_)(const IntGemmBlock& block) = nullptr;
};

void multiply_rows(const RowPreparation& preparation, std::size_t m, const float* bias,
                   const LowRankSum* sum, InnerProduct* inner, float* y, std::int32_t* acc,
                   ParallelFor& parallel) {
  const PackedMatrix& w = preparation.w;
  const IntProduct product(preparation, w, m, bias, y, acc);
  const auto multiply = [&](const OutputBlock& part, const LowRankBlock* low_rank) {
    product.multiply(part, low_rank);
  };
  for_blocks(m, w.n, product.row_bytes(), parallel,
             [&](std::size_t row, std::size_t rows, std::size_t panel, std::size_t n) {
               multiply_and_add(sum, inner, {row, rows, panel, n}, y, w.n, multiply);
             });
}

void multiply_codes(const std::int8_t* x_codes, const float* x_scales, std::size_t m,
                    const PackedMatrix& w, const float* bias, const LowRankSum* sum, float* y,
                    std::int32_t* acc, ParallelFor& parallel, bool x_groups = false) {
  RowPreparation preparation(active_table(), w, m);
  preparation.rows.codes = x_codes;
  preparation.set_scales(x_scales, m, x_groups);
  if (preparation.needed()) {
    for_ranges(parallel, m, rows_per_piece(w.k), [&](std::size_t begin, std::size_t end) {
      for (std::size_t row = begin; row < end; ++row) preparation.run(x_codes + row * w.k, row);
    });
  }
  multiply_rows(preparation, m, bias, sum, nullptr, y, acc, parallel);
}

// The row of input after its operation; scratch provides memory for a row.
const float* apply(const KernelTable& table, const RowInput& input, std::size_t row, std::size_t k,
                   std::vector<float>& scratch) {
  const std::size_t stride = input.stride != 0 ? input.stride : k;
  const float* x = input.x + row * stride;
  if (input.op == RowInput::Op::kNone) return x;
  float* dst = input.result != nullptr ? input.result + row * k : at_least(scratch, k);
  float stats[2];
  switch (input.op) {
    case RowInput::Op::kNone:
      break;
    case RowInput::Op::kLayerNorm:
      table.layer_norm(x, k, input.gamma, input.beta, input.eps, dst, stats);
      break;
    case RowInput::Op::kGeluTanh:
      table.gelu(x, k, dst);
      break;
    case RowInput::Op::kGeluErf:
      table.gelu_erf(x, k, dst);
      break;
    case RowInput::Op::kRmsNorm:
      table.rms_norm(x, k, input.gamma, input.eps, dst, stats);
      break;
    case RowInput::Op::kSwiGlu:
      table.swiglu(x, input.up + row * stride, k, dst);
      break;
    case RowInput::Op::kGeGluTanh:
      table.gelu(x, k, dst);
      table.multiply(input.up + row * stride, k, dst);
      break;
    case RowInput::Op::kGeGluErf:
      table.gelu_erf(x, k, dst);
      table.multiply(input.up + row * stride, k, dst);
      break;
  }
  if (input.hadamard != nullptr) input.hadamard->apply(dst);
  return dst;
}

struct FloatProduct {
  const float* x;
  std::size_t m, x_stride;
  const float* bias;
  float alpha;
  bool add;
  const LowRankSum* sum;
  float* y;
};

void multiply_floats(const FloatProduct& product, const char* prepared, std::size_t stride,
                     const PackedMatrix& w, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  const std::size_t element =
      prepared == nullptr ? sizeof(float) : table.prepare_bf16.element_bytes;
  const bool streams = w.format == WeightFormat::kBf16 && !product.add &&
                       goes_past_caches(table, product.m, w.n, product.y);
  const auto multiply = [&](const OutputBlock& part, const LowRankBlock* low_rank) {
    const std::size_t row = part.row, panel = part.panel, first = panel * kPanelRows;
    FloatGemmBlock block;
    block.x = product.x + row * product.x_stride;
    block.prepared = offset_or_null(prepared, row * stride);
    block.prepared_stride = stride;
    block.rows = part.rows;
    block.x_stride = product.x_stride;
    block.k = w.k;
    block.panels = panel_at(w, panel);
    block.n = part.n;
    block.scales = offset_or_null(w.scales, first);
    block.bias = offset_or_null(product.bias, first);
    block.alpha = product.alpha;
    block.add = product.add;
    block.y = product.y + row * w.n + first;
    block.y_stride = w.n;
    block.low_rank = low_rank;
    block.streams = streams;
    float_gemm(table, w.format)(block);
  };
  for_blocks(
      product.m, w.n, w.k * element, parallel,
      [&](std::size_t row, std::size_t rows, std::size_t panel, std::size_t n) {
        multiply_and_add(product.sum, nullptr, {row, rows, panel, n}, product.y, w.n, multiply);
      });
}

}  // namespace

void gemm_f32(const float* x, std::size_t m, std::size_t x_stride, const PackedMatrix& w,
              float alpha, const float* bias, Accumulate accumulate, float* y,
              ParallelFor& parallel) {
  const PrepareRow<float>& prepare = active_table().prepare_bf16;
  const std::size_t stride = prepared_stride(w.k, prepare.element_bytes);
  char* prepared = nullptr;
  if (w.format == WeightFormat::kBf16 && prepare.run != nullptr) {
    prepared = prepared_rows(m * stride);
    for_ranges(parallel, m, rows_per_piece(w.k), [&](std::size_t begin, std::size_t end) {
      for (std::size_t row = begin; row < end; ++row)
        prepare.run(x + row * x_stride, w.k, prepared + row * stride);
    });
  }
  multiply_floats({x, m, x_stride, bias, alpha, accumulate == Accumulate::kAdd, nullptr, y},
                  prepared, stride, w, parallel);
}

void gemm_bf16(const float* x, std::size_t m, const float* x_scales, const PackedMatrix& w,
               const float* bias, float* y, ParallelFor& parallel, const LowRankSum* sum,
               const LowRankInput* input) {
  const KernelTable& table = active_table();
  const PrepareRow<float>& prepare = table.prepare_bf16;
  const bool narrow = prepare.run != nullptr;
  const std::size_t stride = prepared_stride(w.k, narrow ? prepare.element_bytes : sizeof(float));
  char* prepared = prepared_rows(m * stride);
  for_ranges(parallel, m, rows_per_piece(w.k), [&](std::size_t begin, std::size_t end) {
    thread_local std::vector<float> buffer;
    float* scaled = narrow ? at_least(buffer, w.k) : nullptr;
    for (std::size_t row = begin; row < end; ++row) {
      const float* source = x + row * w.k;
      if (!narrow) scaled = reinterpret_cast<float*>(prepared + row * stride);
      if (x_scales != nullptr) {
        for (std::size_t i = 0; i < w.k; ++i) scaled[i] = source[i] * x_scales[i];
        source = scaled;
      }
      if (prepare.rounds) {
        prepare.run(source, w.k, prepared + row * stride);
      } else {
        table.round_to_bf16(source, w.k, scaled);
        if (narrow) prepare.run(scaled, w.k, prepared + row * stride);
      }
      if (input != nullptr) multiply_hot_rows(table, x, *input, begin, row, end);
    }
  });
  FloatProduct product{x, m, w.k, bias, 1.0F, false, sum, y};
  if (!narrow) {
    product.x = reinterpret_cast<const float*>(prepared);
    product.x_stride = stride / sizeof(float);
  }
  multiply_floats(product, narrow ? prepared : nullptr, stride, w, parallel);
}

void gemm_transposed(const float* a, std::size_t m, std::size_t r, const float* x, std::size_t n,
                     float alpha, float* y, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  // These rows stay in the caches while the columns of a task are processed.
  constexpr std::size_t kColumns = 128, kRows = 32;
  for_ranges(parallel, ceil_div(n, kColumns), rows_per_piece(m * kColumns),
             [&](std::size_t begin, std::size_t end) {
               const std::size_t first = begin * kColumns, last = std::min(end * kColumns, n);
               for (std::size_t i = 0; i < r; ++i)
                 std::fill(y + i * n + first, y + i * n + last, 0.0F);
               for (std::size_t row = 0; row < m; row += kRows) {
                 for (std::size_t column = first; column < last; column += kColumns) {
                   // The next part is in other pages, which hardware does not prefetch.
                   const bool more = column + kColumns < last;
                   const std::size_t next_row = more ? row : row + kRows;
                   const std::size_t next = more ? column + kColumns : first;
                   for (std::size_t i = next_row; i < std::min(m, next_row + kRows); ++i) {
                     for (std::size_t c = next; c < std::min(last, next + kColumns); c += 16)
                       __builtin_prefetch(x + i * n + c);
                   }
                   WeighRows work{};
                   work.weights = a + row * r;
                   work.row_stride = 1;
                   work.column_stride = r;
                   work.rows = r;
                   work.first_count = std::min(kRows, m - row);
                   work.v = x + row * n + column;
                   work.v_stride = n;
                   work.dim = std::min(kColumns, last - column);
                   work.out = y + column;
                   work.out_stride = n;
                   table.weigh_rows(work);
                 }
               }
               for (std::size_t i = 0; i < r; ++i) {
                 for (std::size_t c = first; c < last; ++c) y[i * n + c] *= alpha;
               }
             });
}

void gemm_int(const std::int8_t* x_codes, const float* x_scales, std::size_t m,
              const PackedMatrix& w, const float* bias, float* y, ParallelFor& parallel,
              const LowRankSum* sum, bool x_groups) {
  multiply_codes(x_codes, x_scales, m, w, bias, sum, y, nullptr, parallel, x_groups);
}

namespace {

// Rows after their operation, quantized and prepared; after_row(begin, row, end) follows each row
// of a range begin .. end.
template <typename AfterRow>
void quantize_and_prepare(const RowInput& input, int bits, std::size_t m, const RowRange& range,
                          RowPreparation& preparation, ParallelFor& parallel,
                          const AfterRow& after_row) {
  const KernelTable& table = preparation.table;
  const std::size_t k = preparation.w.k;
  thread_local std::vector<float> scales_buffer;
  thread_local std::vector<std::int8_t> codes_buffer;
  const std::size_t x_groups = num_groups(k, range.group);
  float* scales = at_least(scales_buffer, m * x_groups);
  preparation.set_scales(scales, m, range.group != 0);
  // Where kernels read prepared rows only, codes of one row at a time suffice.
  const bool keep = preparation.prepare.run == nullptr;
  std::int8_t* codes = keep ? at_least(codes_buffer, m * k) : nullptr;
  preparation.rows.codes = codes;
  for_ranges(parallel, m, rows_per_piece(k), [&](std::size_t begin, std::size_t end) {
    // Buffers of the thread that runs the task.
    thread_local std::vector<float> row_buffer;
    thread_local std::vector<std::int8_t> row_codes_buffer;
    std::int8_t* row_codes = keep ? nullptr : at_least(row_codes_buffer, k);
    for (std::size_t row = begin; row < end; ++row) {
      const float* x = apply(table, input, row, k, row_buffer);
      if (keep) row_codes = codes + row * k;
      quantize_row(table, x, k, bits, range, row_codes, scales + row * x_groups);
      preparation.run(row_codes, row);
      after_row(begin, row, end);
    }
  });
}

}  // namespace

void quantize_gemm_int(const RowInput& input, int bits, std::size_t m, const PackedMatrix& w,
                       const float* bias, const LowRankProduct* adapter, float* inner, float* y,
                       ParallelFor& parallel, const RowRange& range) {
  const KernelTable& table = active_table();
  RowPreparation preparation(table, w, m);
  // The adapter's first product: with many rows while they are in the cache, with few rows
  // concurrently with the product by the weights.
  constexpr std::size_t kFewRows = 4;
  const bool many = m > kFewRows;
  const float* floats = input.op == RowInput::Op::kNone ? input.x : input.result;
  LowRankInput first;
  if (adapter != nullptr) first = {adapter->a, inner};
  quantize_and_prepare(input, bits, m, range, preparation, parallel,
                       [&](std::size_t begin, std::size_t row, std::size_t end) {
                         if (many && adapter != nullptr)
                           multiply_hot_rows(table, floats, first, begin, row, end);
                       });
  if (adapter == nullptr) {
    return multiply_rows(preparation, m, bias, nullptr, nullptr, y, nullptr, parallel);
  }
  const LowRankSum sum = {inner, adapter->b, adapter->scaling};
  if (many) return multiply_rows(preparation, m, bias, &sum, nullptr, y, nullptr, parallel);
  InnerProduct beside(inner_block(floats, first, 0, m), adapter->a.format);
  multiply_rows(preparation, m, bias, &sum, &beside, y, nullptr, parallel);
}

bool share_rows(const PackedMatrix& a, const PackedMatrix& b) {
  return a.format == b.format && a.k == b.k && a.group == b.group &&
         (a.zeros == nullptr) == (b.zeros == nullptr);
}

void quantize_gemm_int_shared(const RowInput& input, int bits, std::size_t m,
                              std::span<const SharedProduct> products, ParallelFor& parallel,
                              const RowRange& range) {
  const KernelTable& table = active_table();
  if (m == 0 || products.empty()) return;
  RowPreparation preparation(table, *products.front().w, m);
  quantize_and_prepare(input, bits, m, range, preparation, parallel,
                       [](std::size_t, std::size_t, std::size_t) {});
  constexpr std::size_t kMost = 4;
  std::optional<IntProduct> parts[kMost];
  std::optional<Blocks> blocks[kMost];
  for (std::size_t first = 0; first < products.size(); first += kMost) {
    const std::size_t count = std::min(kMost, products.size() - first);
    std::size_t outputs = 0, tasks = 0;
    for (std::size_t i = 0; i < count; ++i) outputs += products[first + i].w->n;
    for (std::size_t i = 0; i < count; ++i) {
      const SharedProduct& product = products[first + i];
      parts[i].emplace(preparation, *product.w, m, product.bias, product.y, nullptr);
      const std::size_t row_bytes = parts[i]->row_bytes();
      const bool small = m * outputs * row_bytes < kSmallProduct;
      blocks[i].emplace(m, product.w->n, row_bytes, small ? 1 : parallel.num_threads());
      tasks += blocks[i]->num_rows * blocks[i]->num_panels;
    }
    auto task = [&](std::size_t index) {
      std::size_t i = 0;
      while (index >= blocks[i]->num_rows * blocks[i]->num_panels) {
        index -= blocks[i]->num_rows * blocks[i]->num_panels;
        ++i;
      }
      do_block(*blocks[i], index, m, products[first + i].w->n,
               [&](std::size_t row, std::size_t rows, std::size_t panel, std::size_t n) {
                 parts[i]->multiply({row, rows, panel, n}, nullptr);
               });
    };
    run_tasks(parallel, tasks, task);
  }
}

void gemm_int_acc(const std::int8_t* x_codes, std::size_t m, const PackedMatrix& w,
                  std::int32_t* acc, ParallelFor& parallel) {
  multiply_codes(x_codes, nullptr, m, w, nullptr, nullptr, nullptr, acc, parallel);
}

}  // namespace qalof::kernels
