// Keys and values of one sequence as attention reads them: codes and scales, never the floats they
// came from (docs/numerics.md, "K and V").
//
// Each layer has separate memory for K and V of every kv head, with the head's tokens contiguous.
// An element takes a byte at 5..8 bits, a nibble at 2..4, a bfloat16 at 16 and an f32 at 32. A
// layer with a window holds the last tokens alone: those of the window, and few more. Not for:
// sharing between sequences, which copy what they have in common (copy_out, append, copy_from).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/threads.h"
#include "kernels/ops.h"
#include "kernels/stored_kv.h"
#include "model/config.h"

namespace qalof::runtime {

/// Which values of K or V share one range, and so one scale, where they are integers.
enum class KvScheme {
  kToken,  // all heads of a token, as in the original implementation
  kHead,   // each kv head of a token
};
/// "token", which files call "seed", or "head"; Error{kUsage} for others.
KvScheme parse_kv_scheme(const std::string& text);
std::string to_string(KvScheme scheme);

/// How K and V are rounded and stored.
struct KvPrecision {
  KvScheme scheme = KvScheme::kToken;
  std::vector<std::vector<int>> k_bits, v_bits;  // [layer][kv head]
  friend bool operator==(const KvPrecision&, const KvPrecision&) = default;
};

/// K or V of some tokens: values [tokens, kv_heads * head_dim], rows stride floats apart. Where
/// codes is not null, also the integers [tokens, kv_heads * head_dim] and scales [tokens, kv_heads]
/// that the rounded values are products of. only_codes: of heads that are integers, values stay as
/// they are.
struct KvRows {
  float* values = nullptr;
  std::size_t stride = 0;
  std::int8_t* codes = nullptr;
  float* scales = nullptr;
  bool only_codes = false;
};

/// Rounds values in place to head_bits [kv_heads] and fills codes and scales. The only place where
/// K and V change precision.
void quantize_kv(const KvRows& rows, std::size_t tokens, const model::ModelConfig& config,
                 const std::vector<int>& head_bits, KvScheme scheme, ParallelFor& parallel);

/// True where attention of this shape multiplies the codes of K and V with these widths of heads:
/// all are integers, and the instruction set can.
bool multiplies_codes(const kernels::AttentionShape& shape, const std::vector<int>& k_bits,
                      const std::vector<int>& v_bits);

/// Describes rows whose codes are given as a cache would hold them, a byte a code, in heads
/// [kv_heads], which is returned.
const kernels::StoredKv* stored_heads(const KvRows& rows, const model::ModelConfig& config,
                                      kernels::StoredKv* heads);

/// The cache of one sequence. Movable. One thread at a time.
class KvCache {
 public:
  /// Room for capacity tokens; allocates all memory. Error{kResource} where that fails. back: how
  /// many tokens truncate may take back in layers with windows, from the beginning of the last call
  /// of write or append.
  KvCache(const model::ModelConfig& config, const KvPrecision& precision, std::size_t capacity,
          std::size_t back = 0);
  KvCache(KvCache&&) = default;
  KvCache& operator=(KvCache&&) = default;

  std::size_t length() const { return length_; }
  std::size_t capacity() const { return capacity_; }
  std::size_t back() const { return back_; }
  const KvPrecision& precision() const { return precision_; }
  /// Bytes of codes and scales that are allocated.
  std::size_t bytes() const { return data_.size() + scales_.size() * sizeof(float); }
  /// bytes() of a cache before it is made.
  static std::size_t bytes_for(const model::ModelConfig& config, const KvPrecision& precision,
                               std::size_t capacity, std::size_t back = 0);
  /// Of them, those of the tokens that are stored now.
  std::size_t held_bytes() const;
  /// Bytes of one token in all layers, as copy_out writes them.
  std::size_t token_bytes() const { return token_bytes_; }

  /// The first token that a layer holds.
  std::size_t first(std::size_t layer) const { return layers_[layer].first; }
  /// The first token that every layer holds.
  std::size_t oldest() const;
  /// True where some layer's window is smaller than the cache, so that it forgets tokens.
  bool forgets() const;
  /// Most tokens of one call of write for a layer, but for a first one, which may be any number.
  std::size_t piece(std::size_t layer) const;

  void clear() { truncate(0); }
  /// True where the first tokens alone could be kept: no layer has forgotten what its next token
  /// sees. Always so for 0.
  bool can_truncate(std::size_t tokens) const;
  /// Keeps only the first tokens, at most length(), where can_truncate allows it.
  void truncate(std::size_t tokens);

  /// Stores one layer's rows of tokens after the first length() + written, of which the last
  /// `written` came in this pass; they count once advance is called. Codes and scales are required
  /// where the layer has widths below 16.
  void write(std::size_t layer, const KvRows& k, const KvRows& v, std::size_t tokens,
             std::size_t written, ParallelFor& parallel);
  void advance(std::size_t tokens) { length_ += tokens; }

  // For models whose rotary positions depend on a sequence's length, whose keys all change when it
  // passes a bound: forward() then computes them anew from the ids.
  /// The scaling length (ModelConfig) that the stored keys were computed with.
  std::size_t scaling_length() const { return scaling_length_; }
  /// The ids of the stored tokens; empty in other models.
  std::span<const std::int32_t> ids() const { return ids_; }
  /// The tokens that the next advance counts, and the scaling length they are computed with.
  /// restarts: they replace all that is stored.
  void follow(std::span<const std::int32_t> ids, std::size_t scaling_length, bool restarts);
  /// Copies what is stored of tokens first .. first + count - 1, from oldest() to length(), to dst
  /// [count * token_bytes()].
  void copy_out(std::size_t first, std::size_t count, std::byte* dst) const;
  /// Adds count tokens that copy_out of a cache of the same model and precision wrote to src: at
  /// most the piece() of every layer.
  void append(const std::byte* src, std::size_t count);
  /// Becomes a cache of the first tokens of another of the same model and precision, which
  /// other.can_truncate must allow.
  void copy_from(const KvCache& other, std::size_t tokens);

  /// The stored rows for attention, [kv_heads]; row 0 is of token first(layer).
  const kernels::StoredKv* k(std::size_t layer) const { return heads(layer, 0); }
  const kernels::StoredKv* v(std::size_t layer) const { return heads(layer, 1); }

 private:
  struct Layer {
    std::size_t window = 0;  // keys that a token sees; 0: all
    std::size_t rows = 0;    // room
    std::size_t first = 0;   // token of row 0
    // Tokens before a new one that the next token's window, or one taken back, may ask for.
    std::size_t needed(std::size_t back) const { return window - 1 + back; }
  };
  // Scales of one layer's K or V that some heads share.
  struct Scales {
    std::size_t layer, at;  // at: in scales_
  };
  const kernels::StoredKv* heads(std::size_t layer, std::size_t side) const {
    return heads_.data() + (2 * layer + side) * num_kv_heads_;
  }
  std::byte* row(std::size_t head, std::size_t index) {
    return data_.data() + (static_cast<const std::byte*>(heads_[head].rows) - data_.data()) +
           index * heads_[head].row_bytes;
  }
  std::size_t layer_of(std::size_t head) const { return head / (2 * num_kv_heads_); }
  static std::vector<Layer> layers_for(const model::ModelConfig& config, std::size_t capacity,
                                       std::size_t back);
  std::size_t make_room(std::size_t layer, std::size_t at, std::size_t tokens);
  void write_tokens(std::size_t first_head, const KvRows& rows, std::size_t row_of_first,
                    std::size_t begin, std::size_t end);

  KvPrecision precision_;
  std::size_t num_kv_heads_, head_dim_, capacity_, back_, length_ = 0, token_bytes_ = 0;
  bool keeps_ids_;
  std::size_t scaling_length_ = 0;
  std::vector<std::int32_t> ids_;
  std::vector<Layer> layers_;
  std::vector<std::byte> data_;
  std::vector<float> scales_;
  std::vector<Scales> ranges_;
  std::vector<kernels::StoredKv> heads_;  // [layer][k, v][kv_heads]
};

}  // namespace qalof::runtime
