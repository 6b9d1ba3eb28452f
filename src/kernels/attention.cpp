// Drivers of attention: one task per (sequence, head, block of queries), backward per (sequence, kv
// head).
//
// A block's scores are kept whole ([queries, keys]), so a row's result is what it would be alone:
// maximum, exponentials and both sums run over that row's keys in the order of docs/numerics.md.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

namespace {

constexpr std::size_t kQueryBlock = 48;

// Distance of score rows: never a multiple of 4 KiB, which would put a column into one cache set.
std::size_t score_stride(std::size_t keys) { return ceil_div(keys, 16) * 16 + 16; }

struct HeadPointers {
  const float *q, *k, *v;
  float* out;
};

HeadPointers head_pointers(const AttentionShape& shape, const AttentionSequence& sequence,
                           std::size_t head) {
  const std::size_t kv_head = head / (shape.heads / shape.kv_heads);
  return {sequence.q + head * shape.head_dim, sequence.k + kv_head * shape.head_dim,
          sequence.v + kv_head * shape.head_dim, sequence.out + head * shape.head_dim};
}

void attend_block(const KernelTable& table, const AttentionShape& shape,
                  const AttentionSequence& sequence, std::size_t head, std::size_t begin,
                  std::size_t end) {
  thread_local std::vector<float> buffer;
  const std::size_t kv_head = head / (shape.heads / shape.kv_heads);
  const bool stored = sequence.stored_k != nullptr;
  const float* q = sequence.q + begin * shape.q_stride + head * shape.head_dim;
  const std::size_t rows = end - begin;
  const std::size_t keys = sequence.past + end;
  const std::size_t stride = score_stride(keys);
  float* scores = at_least(buffer, rows * stride);
  if (stored) {
    table.dot_stored(q, rows, shape.q_stride, sequence.stored_k[kv_head], keys, shape.head_dim,
                     shape.scale, scores, stride);
  } else {
    table.dot_rows(q, rows, shape.q_stride, sequence.k + kv_head * shape.head_dim, keys,
                   shape.k_stride, shape.head_dim, shape.scale, scores, stride);
  }
  float sums[kQueryBlock];
  for (std::size_t row = 0; row < rows; ++row) {
    float max = 0.0F;
    sums[row] = table.exp_row(scores + row * stride, sequence.past + begin + row + 1, &max);
    if (sequence.log_sum_exp != nullptr) {
      sequence.log_sum_exp[(begin + row) * shape.heads + head] = max + std::log(sums[row]);
    }
  }
  float* out = sequence.out + begin * shape.out_stride + head * shape.head_dim;
  for (std::size_t row = 0; row < rows; ++row)
    std::fill_n(out + row * shape.out_stride, shape.head_dim, 0.0F);
  const WeighRows work{.weights = scores,
                       .row_stride = stride,
                       .column_stride = 1,
                       .rows = rows,
                       .first_count = sequence.past + begin + 1,
                       .count_step = 1,
                       .v = stored ? nullptr : sequence.v + kv_head * shape.head_dim,
                       .v_stride = shape.v_stride,
                       .dim = shape.head_dim,
                       .out = out,
                       .out_stride = shape.out_stride};
  if (stored) {
    table.weigh_stored(work, sequence.stored_v[kv_head]);
  } else {
    table.weigh_rows(work);
  }
  for (std::size_t row = 0; row < rows; ++row)
    table.divide(out + row * shape.out_stride, shape.head_dim, sums[row]);
}

// Buffers of the backward pass, [queries, keys] each.
struct BackwardScratch {
  std::vector<float> probabilities, gradients;
};

void backward_block(const KernelTable& table, const AttentionShape& shape,
                    const AttentionSequence& sequence, const AttentionGradient& gradient,
                    std::size_t head, std::size_t begin, std::size_t end,
                    BackwardScratch& scratch) {
  const HeadPointers at = head_pointers(shape, sequence, head);
  const std::size_t kv_offset = static_cast<std::size_t>(at.k - sequence.k);
  const std::size_t rows = end - begin;
  const std::size_t stride = score_stride(end);
  float* p = at_least(scratch.probabilities, rows * stride);
  float* ds = at_least(scratch.gradients, rows * stride);
  const float* q = at.q + begin * shape.q_stride;
  const float* dout = gradient.dout + begin * shape.out_stride + head * shape.head_dim;
  const float* out = at.out + begin * shape.out_stride;
  float* dq = gradient.dq + begin * shape.q_stride + head * shape.head_dim;
  table.dot_rows(q, rows, shape.q_stride, at.k, end, shape.k_stride, shape.head_dim, shape.scale, p,
                 stride);
  table.dot_rows(dout, rows, shape.out_stride, at.v, end, shape.v_stride, shape.head_dim, 1.0F, ds,
                 stride);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t count = begin + row + 1;
    float* p_row = p + row * stride;
    float* ds_row = ds + row * stride;
    table.exp_shifted(p_row, count, sequence.log_sum_exp[(begin + row) * shape.heads + head]);
    float shift = 0.0F;
    table.dot_rows(dout + row * shape.out_stride, 1, 0, out + row * shape.out_stride, 1, 0,
                   shape.head_dim, 1.0F, &shift, 0);
    table.softmax_dx(p_row, count, shift, shape.scale, ds_row);
    std::fill(p_row + count, p_row + end, 0.0F);
    std::fill(ds_row + count, ds_row + end, 0.0F);
    std::fill_n(dq + row * shape.q_stride, shape.head_dim, 0.0F);
  }
  WeighRows work{.weights = ds,
                 .row_stride = stride,
                 .column_stride = 1,
                 .rows = rows,
                 .first_count = begin + 1,
                 .count_step = 1,
                 .v = at.k,
                 .v_stride = shape.k_stride,
                 .dim = shape.head_dim,
                 .out = dq,
                 .out_stride = shape.q_stride};
  table.weigh_rows(work);
  // Transposed weights: a key collects from the block's queries.
  work.row_stride = 1;
  work.column_stride = stride;
  work.rows = end;
  work.first_count = rows;
  work.count_step = 0;
  work.v = q;
  work.v_stride = shape.q_stride;
  work.out = gradient.dk + kv_offset;
  work.out_stride = shape.k_stride;
  table.weigh_rows(work);
  work.weights = p;
  work.v = dout;
  work.v_stride = shape.out_stride;
  work.out = gradient.dv + kv_offset;
  work.out_stride = shape.v_stride;
  table.weigh_rows(work);
}

}  // namespace

void attention(const AttentionShape& shape, const AttentionSequence* sequences,
               std::size_t num_sequences, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  std::size_t num_tasks = 0;
  for (std::size_t i = 0; i < num_sequences; ++i)
    num_tasks += ceil_div(sequences[i].q_len, kQueryBlock) * shape.heads;
  auto task = [&](std::size_t index) {
    const AttentionSequence* sequence = sequences;
    for (;; ++sequence) {
      const std::size_t here = ceil_div(sequence->q_len, kQueryBlock) * shape.heads;
      if (index < here) break;
      index -= here;
    }
    // Heads one after the other, so that their keys and values stay in the second-level cache, and
    // long blocks first, so that threads end together.
    const std::size_t blocks = ceil_div(sequence->q_len, kQueryBlock);
    const std::size_t begin = (blocks - 1 - index % blocks) * kQueryBlock;
    attend_block(table, shape, *sequence, index / blocks, begin,
                 std::min(begin + kQueryBlock, sequence->q_len));
  };
  run_tasks(parallel, num_tasks, task);
}

void attention_backward(const AttentionShape& shape, const AttentionSequence* sequences,
                        const AttentionGradient* gradients, std::size_t num_sequences,
                        ParallelFor& parallel) {
  const KernelTable& table = active_table();
  auto task = [&](std::size_t index) {
    thread_local BackwardScratch scratch;
    const AttentionSequence& sequence = sequences[index / shape.kv_heads];
    const AttentionGradient& gradient = gradients[index / shape.kv_heads];
    const std::size_t kv_head = index % shape.kv_heads;
    const std::size_t group = shape.heads / shape.kv_heads;
    for (std::size_t key = 0; key < sequence.q_len; ++key) {
      std::fill_n(gradient.dk + key * shape.k_stride + kv_head * shape.head_dim, shape.head_dim,
                  0.0F);
      std::fill_n(gradient.dv + key * shape.v_stride + kv_head * shape.head_dim, shape.head_dim,
                  0.0F);
    }
    for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (std::size_t begin = 0; begin < sequence.q_len; begin += kQueryBlock) {
        backward_block(table, shape, sequence, gradient, head, begin,
                       std::min(begin + kQueryBlock, sequence.q_len), scratch);
      }
    }
  };
  run_tasks(parallel, num_sequences * shape.kv_heads, task);
}

}  // namespace qalof::kernels
