// Drivers of attention: forward, one task per (sequence, head, block of queries), or per (sequence,
// kv head) where sequences have one new token; backward, one per (sequence, kv head).
//
// A block's scores are stored whole ([queries, keys]), so a row's result does not depend on other
// rows: maximum, exponentials and both sums run over that row's keys in the order of
// docs/numerics.md.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/ops.h"
#include "kernels/parallel.h"

namespace qalof::kernels {

namespace {

// Queries per block: more where the scores still fit the second-level cache, for fewer passes over
// keys and values.
constexpr std::size_t kQueryBlock = 48, kLongQueryBlock = 96;
constexpr std::size_t kLongBlockKeys = 1024;

std::size_t query_block(std::size_t keys) {
  return keys <= kLongBlockKeys ? kLongQueryBlock : kQueryBlock;
}
std::size_t query_block(const AttentionSequence& sequence) {
  return query_block(sequence.past + sequence.q_len);
}

// Calls dots(row, rows, key, keys) to score a block's rows, where row r sees past + r + 1 keys:
// first all rows with the keys that all of them see, then a few rows at a time, which skips most of
// the scores that are masked.
template <typename Dots>
void for_causal_parts(std::size_t rows, std::size_t past, const Dots& dots) {
  constexpr std::size_t kStrip = 24;
  if (rows <= kStrip) return dots(0, rows, 0, past + rows);
  if (past > 0) dots(0, rows, 0, past);
  for (std::size_t row = 0; row < rows; row += kStrip) {
    const std::size_t end = std::min(rows, row + kStrip);
    dots(row, end - row, past, end);
  }
}

// Floats from one row of scores to the next: never a multiple of 4 KiB, which would map a column to
// one cache set.
std::size_t score_stride(std::size_t keys) { return ceil_div(keys, 16) * 16 + 16; }

// The first key that a query at a position sees.
std::size_t first_key(const AttentionShape& shape, std::size_t position) {
  return shape.window == 0 || position < shape.window ? 0 : position + 1 - shape.window;
}

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

StoredKv rows_from(StoredKv stored, std::size_t row) {
  stored.rows = static_cast<const char*>(stored.rows) + row * stored.row_bytes;
  if (stored.scales != nullptr) stored.scales += row;
  return stored;
}

// Loads a cache's rows ahead of use. They are in memory, since all weights were read after the last
// token; reading them in order and at once is twice as fast as at the pace of the products.
void fetch_rows(const StoredKv& stored, std::size_t rows) {
  constexpr std::size_t kLine = 64, kMost = 256 * 1024;
  const std::size_t bytes = std::min(rows * stored.row_bytes, kMost);
  const auto* at = static_cast<const unsigned char*>(stored.rows);
  unsigned sum = 0;
  for (std::size_t i = 0; i < bytes; i += kLine) sum += at[i];
  const volatile unsigned read = sum;
  (void)read;
}

// Query rows of one kv head: row r is at position `past + begin + r * step` of its sequence. Either
// neighbouring queries of one head (step 1), or one token's queries of the heads that share the kv
// head (step 0), so that stored keys and values are converted once for all of them.
struct QueryRows {
  const float* q;
  float* out;
  std::size_t q_stride, out_stride, rows, begin, step, kv_head;
  float* log_sum_exp = nullptr;  // of row 0, rows shape.heads apart; or null
};

void attend_rows(const KernelTable& table, const AttentionShape& shape,
                 const AttentionSequence& sequence, const QueryRows& queries) {
  thread_local std::vector<float> buffer;
  const bool stored = sequence.stored_k != nullptr;
  const std::size_t rows = queries.rows, first = sequence.past + queries.begin;
  // Scores are stored from the first key that any of the rows sees.
  const std::size_t start = first_key(shape, first), seen = first - start;
  const std::size_t keys = seen + (rows - 1) * queries.step + 1;
  const std::size_t stride = score_stride(keys);
  float* scores = at_least(buffer, rows * stride);
  StoredKv stored_k{}, stored_v{};
  if (stored) {
    stored_k = rows_from(sequence.stored_k[queries.kv_head], start);
    stored_v = rows_from(sequence.stored_v[queries.kv_head], start);
    fetch_rows(stored_k, keys);
    fetch_rows(stored_v, keys);
  }
  const float* k = sequence.k + queries.kv_head * shape.head_dim + start * shape.k_stride;
  const auto dots = [&](std::size_t row, std::size_t num_rows, std::size_t key,
                        std::size_t num_keys) {
    const float* a = queries.q + row * queries.q_stride;
    float* dst = scores + row * stride + key;
    if (stored) {
      table.dot_stored(a, num_rows, queries.q_stride, rows_from(stored_k, key), num_keys,
                       shape.head_dim, shape.scale, dst, stride);
    } else {
      table.dot_rows(a, num_rows, queries.q_stride, k + key * shape.k_stride, num_keys,
                     shape.k_stride, shape.head_dim, shape.scale, dst, stride);
    }
  };
  if (queries.step == 0) {
    dots(0, rows, 0, keys);
  } else {
    for_causal_parts(rows, seen, dots);
  }
  float sums[kLongQueryBlock];
  for (std::size_t row = 0; row < rows; ++row) {
    float* row_scores = scores + row * stride;
    const std::size_t hidden = first_key(shape, first + row * queries.step) - start;
    const std::size_t visible = seen + row * queries.step + 1 - hidden;
    if (shape.score_cap != 0) soft_cap_row(table, row_scores + hidden, visible, shape.score_cap);
    float max = 0.0F;
    sums[row] = table.exp_row(row_scores + hidden, visible, &max);
    std::fill_n(row_scores, hidden, 0.0F);
    if (queries.log_sum_exp != nullptr)
      queries.log_sum_exp[row * shape.heads] = max + std::log(sums[row]);
  }
  for (std::size_t row = 0; row < rows; ++row)
    std::fill_n(queries.out + row * queries.out_stride, shape.head_dim, 0.0F);
  const WeighRows work{
      .weights = scores,
      .row_stride = stride,
      .column_stride = 1,
      .rows = rows,
      .first_count = seen + 1,
      .count_step = queries.step,
      .v =
          stored ? nullptr : sequence.v + queries.kv_head * shape.head_dim + start * shape.v_stride,
      .v_stride = shape.v_stride,
      .dim = shape.head_dim,
      .out = queries.out,
      .out_stride = queries.out_stride};
  if (stored) {
    table.weigh_stored(work, stored_v);
  } else {
    table.weigh_rows(work);
  }
  for (std::size_t row = 0; row < rows; ++row)
    table.divide(queries.out + row * queries.out_stride, shape.head_dim, sums[row]);
}

// Queries begin .. end - 1 of a head.
void attend_block(const KernelTable& table, const AttentionShape& shape,
                  const AttentionSequence& sequence, std::size_t head, std::size_t begin,
                  std::size_t end) {
  attend_rows(table, shape, sequence,
              {.q = sequence.q + begin * shape.q_stride + head * shape.head_dim,
               .out = sequence.out + begin * shape.out_stride + head * shape.head_dim,
               .q_stride = shape.q_stride,
               .out_stride = shape.out_stride,
               .rows = end - begin,
               .begin = begin,
               .step = 1,
               .kv_head = head / (shape.heads / shape.kv_heads),
               .log_sum_exp = sequence.log_sum_exp == nullptr
                                  ? nullptr
                                  : sequence.log_sum_exp + begin * shape.heads + head});
}

// A sequence of one new token: its queries of all heads that share a kv head.
void attend_token(const KernelTable& table, const AttentionShape& shape,
                  const AttentionSequence& sequence, std::size_t kv_head) {
  const std::size_t group = shape.heads / shape.kv_heads;
  const std::size_t at = kv_head * group * shape.head_dim;
  attend_rows(table, shape, sequence,
              {.q = sequence.q + at,
               .out = sequence.out + at,
               .q_stride = shape.head_dim,
               .out_stride = shape.head_dim,
               .rows = group,
               .begin = 0,
               .step = 0,
               .kv_head = kv_head});
}

// Queries per block of attention on codes, all heads of a kv head together.
std::size_t code_block(const AttentionShape& shape) {
  return std::max<std::size_t>(kLongQueryBlock / (shape.heads / shape.kv_heads), 1);
}

// Queries begin .. end - 1 of the heads that share a kv head, whose keys and values are codes. Rows
// are ordered by query, then by head.
void attend_codes(const KernelTable& table, const AttentionShape& shape,
                  const AttentionSequence& sequence, std::size_t kv_head, std::size_t begin,
                  std::size_t end) {
  thread_local std::vector<float> score_buffer, scale_buffer, row_buffer;
  thread_local std::vector<CodeQuery> query_scale_buffer;
  thread_local std::vector<std::int8_t> query_buffer;
  thread_local std::vector<std::uint8_t> weight_buffer;
  thread_local std::vector<float*> out_buffer;
  const std::size_t group = shape.heads / shape.kv_heads, rows = (end - begin) * group;
  const std::size_t seen = sequence.past + begin, keys = sequence.past + end;
  const std::size_t stride = ceil_div(keys, 32) * 32 + 16, dim = shape.head_dim;
  constexpr std::size_t kLine = 64;  // distances are odd numbers of them
  const std::size_t query_stride = kCodeDigits * ceil_div(dim, kLine) * kLine + kLine;
  const std::size_t plane = ceil_div(keys, kLine) * kLine + kLine;
  const std::size_t weight_stride = kCodeDigits * plane;
  float* scores = at_least(score_buffer, rows * stride);
  constexpr std::size_t kManyKeys = 256;  // a buffer that seldom grows
  float* scales = at_least(scale_buffer, 2 * ceil_div(keys, kManyKeys) * kManyKeys);
  float* sums = at_least(row_buffer, 2 * rows);
  float* units = sums + rows;
  CodeQuery* query_scales = at_least(query_scale_buffer, rows);
  std::int8_t* queries = at_least(query_buffer, rows * query_stride);
  std::uint8_t* weights = at_least(weight_buffer, rows * weight_stride);
  float** out = at_least(out_buffer, rows);
  StoredKv k = sequence.stored_k[kv_head], v = sequence.stored_v[kv_head];
  if (sequence.q_len == 1) {
    fetch_rows(k, keys);
    fetch_rows(v, keys);
  }
  for (std::size_t key = 0; key < keys; ++key) {
    scales[key] = k.scales[key * k.scale_stride];
    scales[keys + key] = v.scales[key * v.scale_stride];
  }
  k.scales = scales;
  v.scales = nullptr;
  const auto query_of = [&](std::size_t row) { return begin + row / group; };
  const auto head_of = [&](std::size_t row) { return kv_head * group + row % group; };
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t query = query_of(row), head = head_of(row);
    query_scales[row] = table.round_query(sequence.q + query * shape.q_stride + head * dim, dim,
                                          queries + row * query_stride);
    out[row] = sequence.out + query * shape.out_stride + head * dim;
  }
  table.score_codes({queries, query_stride, query_scales, rows, group, seen, k, keys, dim,
                     shape.scale, scores, stride});
  for (std::size_t row = 0; row < rows; ++row) {
    float* row_scores = scores + row * stride;
    const std::size_t visible = seen + row / group + 1;
    if (shape.score_cap != 0) soft_cap_row(table, row_scores, visible, shape.score_cap);
    float max = 0.0F;
    sums[row] = table.exp_row(row_scores, visible, &max);
    if (sequence.log_sum_exp != nullptr)
      sequence.log_sum_exp[query_of(row) * shape.heads + head_of(row)] = max + std::log(sums[row]);
    units[row] = table.round_weights(row_scores, visible, keys, scales + keys,
                                     weights + row * weight_stride, plane);
  }
  table.weigh_codes({weights, weight_stride, plane, units, rows, group, seen, v, keys, dim, out});
  for (std::size_t row = 0; row < rows; ++row) table.divide(out[row], dim, sums[row]);
}

// True where every sequence has one new token and heads that share keys can be taken together with
// work enough for all threads.
bool takes_heads_together(const AttentionShape& shape, const AttentionSequence* sequences,
                          std::size_t count, int threads) {
  const std::size_t group = shape.heads / shape.kv_heads;
  return group > 1 && group <= kLongQueryBlock &&
         count * shape.kv_heads >= static_cast<std::size_t>(threads) &&
         std::all_of(sequences, sequences + count, [](const AttentionSequence& sequence) {
           return sequence.q_len == 1 && sequence.log_sum_exp == nullptr &&
                  !sequence.multiplies_codes;
         });
}

// Buffers of the backward pass, [queries, keys] each.
struct BackwardScratch {
  std::vector<float> probabilities, gradients, slopes;
};

void backward_block(const KernelTable& table, const AttentionShape& shape,
                    const AttentionSequence& sequence, const AttentionGradient& gradient,
                    const float* shifts, std::size_t head, std::size_t begin, std::size_t end,
                    BackwardScratch& scratch) {
  const HeadPointers at = head_pointers(shape, sequence, head);
  const std::size_t kv_offset = static_cast<std::size_t>(at.k - sequence.k);
  const std::size_t rows = end - begin;
  // As in attend_block.
  const std::size_t start = first_key(shape, begin);
  const std::size_t keys = end - start, seen = begin - start;
  const std::size_t stride = score_stride(keys);
  float* p = at_least(scratch.probabilities, rows * stride);
  float* ds = at_least(scratch.gradients, rows * stride);
  float* slopes = at_least(scratch.slopes, shape.score_cap != 0 ? keys : 0);
  const float* q = at.q + begin * shape.q_stride;
  const float* k = at.k + start * shape.k_stride;
  const float* v = at.v + start * shape.v_stride;
  const float* dout = gradient.dout + begin * shape.out_stride + head * shape.head_dim;
  float* dq = gradient.dq + begin * shape.q_stride + head * shape.head_dim;
  for_causal_parts(
      rows, seen,
      [&](std::size_t row, std::size_t num_rows, std::size_t key, std::size_t num_keys) {
        const std::size_t to = row * stride + key;
        table.dot_rows(q + row * shape.q_stride, num_rows, shape.q_stride, k + key * shape.k_stride,
                       num_keys, shape.k_stride, shape.head_dim, shape.scale, p + to, stride);
        table.dot_rows(dout + row * shape.out_stride, num_rows, shape.out_stride,
                       v + key * shape.v_stride, num_keys, shape.v_stride, shape.head_dim, 1.0F,
                       ds + to, stride);
      });
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t hidden = first_key(shape, begin + row) - start;
    const std::size_t end_of_row = seen + row + 1, count = end_of_row - hidden;
    float* p_row = p + row * stride + hidden;
    float* ds_row = ds + row * stride + hidden;
    if (shape.score_cap != 0) {
      soft_cap_row(table, p_row, count, shape.score_cap);
      for (std::size_t i = 0; i < count; ++i) {
        const float t = p_row[i] / shape.score_cap;
        slopes[i] = 1.0F - t * t;
      }
    }
    table.exp_shifted(p_row, count, sequence.log_sum_exp[(begin + row) * shape.heads + head]);
    table.softmax_dx(p_row, count, shifts[(begin + row) * shape.heads + head], shape.scale, ds_row);
    if (shape.score_cap != 0) table.multiply(slopes, count, ds_row);
    for (float* all : {p + row * stride, ds + row * stride}) {
      std::fill_n(all, hidden, 0.0F);
      std::fill(all + end_of_row, all + keys, 0.0F);
    }
    std::fill_n(dq + row * shape.q_stride, shape.head_dim, 0.0F);
  }
  WeighRows work{.weights = ds,
                 .row_stride = stride,
                 .column_stride = 1,
                 .rows = rows,
                 .first_count = seen + 1,
                 .count_step = 1,
                 .v = k,
                 .v_stride = shape.k_stride,
                 .dim = shape.head_dim,
                 .out = dq,
                 .out_stride = shape.q_stride};
  table.weigh_rows(work);
  // Transposed weights: each key sums over the block's queries.
  work.row_stride = 1;
  work.column_stride = stride;
  work.rows = keys;
  work.first_count = rows;
  work.count_step = 0;
  work.v = q;
  work.v_stride = shape.q_stride;
  work.out = gradient.dk + start * shape.k_stride + kv_offset;
  work.out_stride = shape.k_stride;
  table.weigh_rows(work);
  work.weights = p;
  work.v = dout;
  work.v_stride = shape.out_stride;
  work.out = gradient.dv + start * shape.v_stride + kv_offset;
  work.out_stride = shape.v_stride;
  table.weigh_rows(work);
}

}  // namespace

bool can_multiply_codes(const AttentionShape& shape) {
  return active_table().score_codes != nullptr && shape.window == 0 &&
         shape.head_dim <= kMostCodeDim;
}

void attention(const AttentionShape& shape, const AttentionSequence* sequences,
               std::size_t num_sequences, ParallelFor& parallel) {
  const KernelTable& table = active_table();
  if (takes_heads_together(shape, sequences, num_sequences, parallel.num_threads())) {
    auto token = [&](std::size_t index) {
      attend_token(table, shape, sequences[index / shape.kv_heads], index % shape.kv_heads);
    };
    return run_tasks(parallel, num_sequences * shape.kv_heads, token);
  }
  const auto block_of = [&](const AttentionSequence& sequence) {
    return sequence.multiplies_codes ? code_block(shape) : query_block(sequence);
  };
  const auto tasks_of = [&](const AttentionSequence& sequence) {
    return ceil_div(sequence.q_len, block_of(sequence)) *
           (sequence.multiplies_codes ? shape.kv_heads : shape.heads);
  };
  std::size_t num_tasks = 0;
  for (std::size_t i = 0; i < num_sequences; ++i) num_tasks += tasks_of(sequences[i]);
  auto task = [&](std::size_t index) {
    const AttentionSequence* sequence = sequences;
    for (; index >= tasks_of(*sequence); ++sequence) index -= tasks_of(*sequence);
    // Heads in order, so that their keys and values stay in the second-level cache, and long blocks
    // first, so that threads finish together.
    const std::size_t block = block_of(*sequence), blocks = ceil_div(sequence->q_len, block);
    const std::size_t begin = (blocks - 1 - index % blocks) * block;
    const std::size_t end = std::min(begin + block, sequence->q_len);
    const auto attend = sequence->multiplies_codes ? attend_codes : attend_block;
    attend(table, shape, *sequence, index / blocks, begin, end);
  };
  run_tasks(parallel, num_tasks, task);
}

void attention_backward(const AttentionShape& shape, const AttentionSequence* sequences,
                        const AttentionGradient* gradients, std::size_t num_sequences,
                        ParallelFor& parallel) {
  const KernelTable& table = active_table();
  // dout . out of every row and head, in memory order.
  thread_local std::vector<float> shift_buffer;
  std::size_t rows = 0;
  for (std::size_t i = 0; i < num_sequences; ++i) rows += sequences[i].q_len;
  float* shifts = at_least(shift_buffer, rows * shape.heads);
  float* sequence_shifts = shifts;
  for (std::size_t i = 0; i < num_sequences; ++i) {
    const AttentionSequence& sequence = sequences[i];
    for_ranges(parallel, sequence.q_len, rows_per_piece(shape.heads * shape.head_dim),
               [&](std::size_t begin, std::size_t end) {
                 for (std::size_t row = begin; row < end; ++row) {
                   for (std::size_t head = 0; head < shape.heads; ++head) {
                     const std::size_t at = row * shape.out_stride + head * shape.head_dim;
                     table.dot_rows(gradients[i].dout + at, 1, 0, sequence.out + at, 1, 0,
                                    shape.head_dim, 1.0F,
                                    sequence_shifts + row * shape.heads + head, 0);
                   }
                 }
               });
    sequence_shifts += sequence.q_len * shape.heads;
  }
  auto task = [&](std::size_t index) {
    thread_local BackwardScratch scratch;
    const AttentionSequence& sequence = sequences[index / shape.kv_heads];
    const AttentionGradient& gradient = gradients[index / shape.kv_heads];
    const float* own_shifts = shifts;
    for (const AttentionSequence* before = sequences; before != &sequence; ++before)
      own_shifts += before->q_len * shape.heads;
    const std::size_t kv_head = index % shape.kv_heads;
    const std::size_t group = shape.heads / shape.kv_heads;
    for (std::size_t key = 0; key < sequence.q_len; ++key) {
      std::fill_n(gradient.dk + key * shape.k_stride + kv_head * shape.head_dim, shape.head_dim,
                  0.0F);
      std::fill_n(gradient.dv + key * shape.v_stride + kv_head * shape.head_dim, shape.head_dim,
                  0.0F);
    }
    for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      // The backward pass holds twice the scores of the forward pass.
      const std::size_t block = query_block(2 * sequence.q_len);
      for (std::size_t begin = 0; begin < sequence.q_len; begin += block) {
        backward_block(table, shape, sequence, gradient, own_shifts, head, begin,
                       std::min(begin + block, sequence.q_len), scratch);
      }
    }
  };
  run_tasks(parallel, num_sequences * shape.kv_heads, task);
}

}  // namespace qalof::kernels
