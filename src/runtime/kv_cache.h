// Keys and values of one sequence as attention reads them: codes and scales, never the floats they
// came from (docs/numerics.md, "K and V").
//
// Each layer has separate memory for K and V of every kv head, with the head's tokens contiguous.
// An element takes a byte at 5..8 bits, a nibble at 2..4, a bfloat16 at 16 and an f32 at 32. Not
// for: sharing between sequences, which copy what they have in common (copy_out, append).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/threads.h"
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
/// that the rounded values are products of.
struct KvRows {
  float* values = nullptr;
  std::size_t stride = 0;
  std::int8_t* codes = nullptr;
  float* scales = nullptr;
};

/// Rounds values in place to head_bits [kv_heads] and fills codes and scales. The only place where
/// K and V change precision.
void quantize_kv(const KvRows& rows, std::size_t tokens, const model::ModelConfig& config,
                 const std::vector<int>& head_bits, KvScheme scheme, ParallelFor& parallel);

/// The cache of one sequence. Movable. One thread at a time.
class KvCache {
 public:
  /// Room for capacity tokens; allocates all memory. Error{kResource} where that fails.
  KvCache(const model::ModelConfig& config, const KvPrecision& precision, std::size_t capacity);
  KvCache(KvCache&&) = default;
  KvCache& operator=(KvCache&&) = default;

  std::size_t length() const { return length_; }
  std::size_t capacity() const { return capacity_; }
  const KvPrecision& precision() const { return precision_; }
  /// Bytes of codes and scales for capacity tokens.
  std::size_t bytes() const { return data_.size() + scales_.size() * sizeof(float); }
  /// bytes() for each token of capacity.
  static std::size_t bytes_per_token(const model::ModelConfig& config,
                                     const KvPrecision& precision) {
    return KvCache(config, precision, 1).bytes();
  }
  void clear() { truncate(0); }
  /// Keeps only the first tokens, at most length().
  void truncate(std::size_t tokens);

  /// Stores one layer's rows of tokens after the first length(); they count once advance is called.
  /// Codes and scales are required where the layer has widths below 16.
  void write(std::size_t layer, const KvRows& k, const KvRows& v, std::size_t tokens,
             ParallelFor& parallel);
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
  /// Copies what is stored of tokens first .. first + count - 1, which must be below length(), to
  /// dst [count * bytes_per_token].
  void copy_out(std::size_t first, std::size_t count, std::byte* dst) const;
  /// Adds count tokens that copy_out of a cache of the same precision wrote to src.
  void append(const std::byte* src, std::size_t count);

  /// The stored rows for attention, [kv_heads].
  const kernels::StoredKv* k(std::size_t layer) const { return heads(layer, 0); }
  const kernels::StoredKv* v(std::size_t layer) const { return heads(layer, 1); }

 private:
  const kernels::StoredKv* heads(std::size_t layer, std::size_t side) const {
    return heads_.data() + (2 * layer + side) * num_kv_heads_;
  }
  void write_tokens(std::size_t first_head, const KvRows& rows, std::size_t begin, std::size_t end);

  KvPrecision precision_;
  std::size_t num_kv_heads_, head_dim_, capacity_, length_ = 0;
  bool keeps_ids_;
  std::size_t scaling_length_ = 0;
  std::vector<std::int32_t> ids_;
  std::vector<std::byte> data_;
  std::vector<float> scales_;
  std::vector<kernels::StoredKv> heads_;  // [layer][k, v][kv_heads]
};

}  // namespace qalof::runtime
