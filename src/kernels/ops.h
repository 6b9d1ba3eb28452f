// Row operations of a decoder in f32: norm, activation, attention, residual, with their backward
// passes for training. A row's result depends on that row only (in attention, also on the keys
// before it); sums run in a fixed order, so blocks and threads do not change a bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/threads.h"
#include "kernels/stored_kv.h"

namespace qalof::kernels {

/// dst = (x - mean) / sqrt(var + eps) * gamma + beta per row [rows, cols]. stats, if not null,
/// receives [rows, 2] = mean, 1 / sqrt(var + eps).
void layer_norm(const float* src, std::size_t rows, std::size_t cols, const float* gamma,
                const float* beta, float eps, float* dst, float* stats, ParallelFor& parallel);
/// sum = x + added and dst = layer_norm(sum), in one pass. sum may be x.
void add_layer_norm(const float* x, const float* added, std::size_t rows, std::size_t cols,
                    const float* gamma, const float* beta, float eps, float* sum, float* dst,
                    float* stats, ParallelFor& parallel);
/// dx of layer_norm from stats; dgamma and dbeta [cols] are added to, if not null. skip [rows,
/// cols], if not null, is the gradient that bypasses the norm (the residual's), and is added to dx.
void layer_norm_backward(const float* dy, const float* src, const float* stats, const float* gamma,
                         std::size_t rows, std::size_t cols, float* dx, float* dgamma, float* dbeta,
                         ParallelFor& parallel, const float* skip = nullptr);

/// dst = x / sqrt(mean(x^2) + eps) * gamma per row [rows, cols]. stats, if not null, receives
/// [rows, 2] = 0, 1 / sqrt(mean(x^2) + eps).
void rms_norm(const float* src, std::size_t rows, std::size_t cols, const float* gamma, float eps,
              float* dst, float* stats, ParallelFor& parallel);
/// sum = x + added and dst = rms_norm(sum), in one pass. sum may be x.
void add_rms_norm(const float* x, const float* added, std::size_t rows, std::size_t cols,
                  const float* gamma, float eps, float* sum, float* dst, float* stats,
                  ParallelFor& parallel);
/// dx of rms_norm from stats; dgamma and skip as in layer_norm_backward.
void rms_norm_backward(const float* dy, const float* src, const float* stats, const float* gamma,
                       std::size_t rows, std::size_t cols, float* dx, float* dgamma,
                       ParallelFor& parallel, const float* skip = nullptr);

/// GPT-2's gelu_new: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). src and dst may be the same.
void gelu_new(const float* src, std::size_t count, float* dst, ParallelFor& parallel);
void gelu_new_backward(const float* dy, const float* src, std::size_t count, float* dx,
                       ParallelFor& parallel);

/// The exact GELU: x Phi(x) = 0.5 x (1 + erf(x / sqrt(2))), within (8 + 2 x^2) roundings relative
/// to the result. src and dst may be the same.
void gelu_erf(const float* src, std::size_t count, float* dst, ParallelFor& parallel);
void gelu_erf_backward(const float* dy, const float* src, std::size_t count, float* dx,
                       ParallelFor& parallel);

/// SwiGLU: gate / (1 + exp(-gate)) * up. dst may be gate or up.
void swiglu(const float* gate, const float* up, std::size_t count, float* dst,
            ParallelFor& parallel);
/// dgate may be gate, dup may be up.
void swiglu_backward(const float* dy, const float* gate, const float* up, std::size_t count,
                     float* dgate, float* dup, ParallelFor& parallel);

/// The activation of a gated MLP.
enum class Gate { kSilu, kGeluTanh, kGeluErf };
/// dst [rows, cols] = activation(gate) * up. Rows of gate and up are stride floats apart; dst,
/// whose rows are cols apart, may be gate or up where stride is cols.
void gate_rows(Gate activation, const float* gate, const float* up, std::size_t rows,
               std::size_t cols, std::size_t stride, float* dst, ParallelFor& parallel);
/// The gradients of gate_rows for count dense numbers. Outputs must not overlap inputs.
void gate_backward(Gate activation, const float* dy, const float* gate, const float* up,
                   std::size_t count, float* dgate, float* dup, ParallelFor& parallel);

/// x = cap * tanh(x / cap), in place (soft capping, Gemma 2), within 1e-6 of cap.
void soft_cap(float* x, std::size_t count, float cap, ParallelFor& parallel);
/// dy *= 1 - (y / cap)^2, where y is soft_cap's result: its gradient, in place.
void soft_cap_backward(float* dy, const float* y, std::size_t count, float cap,
                       ParallelFor& parallel);

/// rms_norm of each of the heads parts of head_dim numbers of a row, with gamma [head_dim]. x and y
/// rows are stride floats apart, y may be x. stats, if not null, receives [rows, heads, 2].
void norm_heads(const float* x, std::size_t rows, std::size_t stride, std::size_t heads,
                std::size_t head_dim, const float* gamma, float eps, float* y, float* stats,
                ParallelFor& parallel);
/// dx of norm_heads, in place of dy; dgamma [head_dim] is added to, if not null.
void norm_heads_backward(float* dy, const float* x, const float* stats, const float* gamma,
                         std::size_t rows, std::size_t stride, std::size_t heads,
                         std::size_t head_dim, float* dgamma, ParallelFor& parallel);

/// y = x for [rows, cols]; rows are x_stride and y_stride floats apart.
void copy_matrix(const float* x, std::size_t rows, std::size_t cols, std::size_t x_stride, float* y,
                 std::size_t y_stride, ParallelFor& parallel);

/// cos and sin of rotary positions, times scale: table [rows, 2 * half] receives each row's
/// cosines, then its sines, of f32(position * frequencies[i]).
void rotary_table(const std::int32_t* positions, std::size_t rows, const float* frequencies,
                  std::size_t half, float* table, double scale = 1);
/// The heads of q or k whose leading numbers turn.
struct RotaryHeads {
  std::size_t heads, head_dim, half;  // 2 * half <= head_dim numbers of a head turn
};
/// Rotary positions, in place: in each head of a row, the pairs (i, half + i) are rotated by the
/// row's angles. x rows are stride floats apart; table is rotary_table's.
void rotate(float* x, std::size_t rows, std::size_t stride, const RotaryHeads& heads,
            const float* table, ParallelFor& parallel);
/// The gradient of rotate: rotates back, in place.
void rotate_backward(float* dx, std::size_t rows, std::size_t stride, const RotaryHeads& heads,
                     const float* table, ParallelFor& parallel);

/// dst += src.
void add_in_place(const float* src, std::size_t count, float* dst, ParallelFor& parallel);

/// Causal attention of one sequence. Query i (0..q_len-1) has position past + i and sees keys
/// 0..past + i, with a window only the last `window` of them. q and out rows are q_stride /
/// out_stride floats apart, head h at offset h * head_dim; k and v rows k_stride / v_stride apart,
/// kv head at (h / (heads / kv_heads)) * head_dim. out must not overlap inputs. Where stored_k and
/// stored_v [kv_heads] are given, keys and values are read from there instead of k and v: bit-equal
/// to attention on their dequantized values, or, with multiplies_codes, with the codes themselves
/// as factors.
struct AttentionSequence {
  const float* q;
  const float* k;
  const float* v;
  float* out;
  float* log_sum_exp;  // [q_len, heads] or null; needed by the backward pass
  std::size_t q_len;
  std::size_t past;
  const StoredKv* stored_k = nullptr;
  const StoredKv* stored_v = nullptr;
  bool multiplies_codes = false;  // only where can_multiply_codes
};
struct AttentionShape {
  std::size_t heads, kv_heads, head_dim;
  std::size_t q_stride, k_stride, v_stride, out_stride;
  float scale;             // usually 1 / sqrt(head_dim)
  std::size_t window = 0;  // keys that a query sees at most; 0: all before it
  float score_cap = 0;     // soft_cap of scaled scores; 0: none
};
/// True where attention of this shape has products on codes of up to 8 bits.
bool can_multiply_codes(const AttentionShape& shape);
/// Varlen causal attention over packed sequences.
void attention(const AttentionShape& shape, const AttentionSequence* sequences,
               std::size_t num_sequences, ParallelFor& parallel);

/// Gradients of attention for sequences with past == 0. dq, dk, dv rows use q_stride, k_stride,
/// v_stride and are overwritten. out and log_sum_exp are the forward's.
struct AttentionGradient {
  const float* dout;
  float* dq;
  float* dk;
  float* dv;
};
void attention_backward(const AttentionShape& shape, const AttentionSequence* sequences,
                        const AttentionGradient* gradients, std::size_t num_sequences,
                        ParallelFor& parallel);

}  // namespace qalof::kernels
