// Rounds K and V, lays out the cache's memory, and stores rows as bytes, nibbles, bf16 or f32.
#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "core/error.h"
#include "core/memory.h"
#include "kernels/bf16.h"
#include "kernels/quantize.h"

namespace qalof::runtime {

namespace {

constexpr std::size_t kTokensPerTask = 32;

kernels::KvFormat format_of(int bits) {
  if (bits == 32) return kernels::KvFormat::kF32;
  if (bits == 16) return kernels::KvFormat::kBf16;
  return bits > 4 ? kernels::KvFormat::kInt8 : kernels::KvFormat::kInt4;
}

// Calls body(begin, end) over tokens in pieces that are worth a thread.
template <typename Body>
void for_token_ranges(std::size_t tokens, ParallelFor& parallel, const Body& body) {
  const auto task = [&](std::size_t index) {
    const std::size_t begin = index * kTokensPerTask;
    body(begin, std::min(tokens, begin + kTokensPerTask));
  };
  const std::size_t tasks = (tokens + kTokensPerTask - 1) / kTokensPerTask;
  if (tasks == 1) {
    task(0);
  } else {
    parallel.run(tasks, std::ref(task));
  }
}

}  // namespace

KvScheme parse_kv_scheme(const std::string& text) {
  if (text == "token" || text == "seed") return KvScheme::kToken;
  if (text == "head") return KvScheme::kHead;
  fail(ErrorKind::kUsage, "--kv_scheme: found {}, expected token or head", text);
}

std::string to_string(KvScheme scheme) { return scheme == KvScheme::kToken ? "seed" : "head"; }

void quantize_kv(const KvRows& rows, std::size_t tokens, const model::ModelConfig& config,
                 const std::vector<int>& head_bits, KvScheme scheme, ParallelFor& parallel) {
  const std::size_t heads = config.num_kv_heads, dim = config.head_dim();
  // Ranges per token: one, or one per head.
  const std::size_t ranges = scheme == KvScheme::kToken ? 1 : heads;
  const auto quantize_tokens = [&](std::size_t begin, std::size_t end) {
    SerialFor serial;
    for (std::size_t t = begin; t < end; ++t) {
      for (std::size_t range = 0; range < ranges; ++range) {
        float* values = rows.values + t * rows.stride + range * dim;
        const std::size_t head = t * heads + range;
        kernels::fake_quantize_kv(values, 1, heads / ranges, dim, &head_bits[range], values,
                                  rows.codes == nullptr ? nullptr : rows.codes + head * dim,
                                  rows.scales == nullptr ? nullptr : rows.scales + head, serial);
      }
    }
  };
  for_token_ranges(tokens, parallel, quantize_tokens);
}

KvCache::KvCache(const model::ModelConfig& config, const KvPrecision& precision,
                 std::size_t capacity)
    : precision_(precision),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim()),
      capacity_(capacity),
      keeps_ids_(config.scaling_length(config.max_length()) != 0) {
  if (keeps_ids_) ids_.reserve(capacity);
  // Offsets first; pointers once the memory is allocated.
  constexpr std::size_t kNoScales = SIZE_MAX;
  struct Place {
    std::size_t row, scale;
    int bits;
  };
  std::vector<Place> places;
  std::size_t bytes = 0, scales = 0;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    for (const auto* side : {&precision_.k_bits, &precision_.v_bits}) {
      const std::size_t first = places.size();
      for (const int bits : side->at(layer)) {
        Place place{bytes, kNoScales, bits};
        bytes += capacity * kernels::stored_row_bytes(format_of(bits), head_dim_);
        if (bits <= 8) {
          // Heads of one width that share a range share the scale.
          for (std::size_t other = first; other < places.size(); ++other) {
            if (precision_.scheme == KvScheme::kToken && places[other].bits == bits)
              place.scale = places[other].scale;
          }
          if (place.scale == kNoScales) {
            place.scale = scales;
            scales += capacity;
          }
        }
        places.push_back(place);
      }
      QALOF_CHECK(places.size() - first == num_kv_heads_, ErrorKind::kInternal,
                  "KV cache: layer {} has {} widths, expected {}", layer, places.size() - first,
                  num_kv_heads_);
    }
  }
  const std::string what = fmt::format("a KV cache of {} tokens", capacity);
  resize_for(what, data_, bytes);
  resize_for(what, scales_, scales);
  for (const Place& place : places) {
    const kernels::KvFormat format = format_of(place.bits);
    const std::size_t row_bytes = kernels::stored_row_bytes(format, head_dim_);
    // Rows are padded with zeros; the nibble of code 0 is 8.
    if (format == kernels::KvFormat::kInt4)
      std::memset(data_.data() + place.row, 0x88, capacity * row_bytes);
    heads_.push_back({data_.data() + place.row,
                      place.scale == kNoScales ? nullptr : scales_.data() + place.scale, row_bytes,
                      format});
  }
}

void KvCache::truncate(std::size_t tokens) {
  QALOF_CHECK(tokens <= length_, ErrorKind::kInternal, "KV cache: cut to {} tokens, it holds {}",
              tokens, length_);
  length_ = tokens;
  ids_.resize(std::min(ids_.size(), tokens));
}

void KvCache::follow(std::span<const std::int32_t> ids, std::size_t scaling_length, bool restarts) {
  if (!keeps_ids_) return;
  if (restarts) clear();
  scaling_length_ = scaling_length;
  ids_.resize(length_);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
}

void KvCache::copy_out(std::size_t first, std::size_t count, std::byte* dst) const {
  QALOF_CHECK(first + count <= length_, ErrorKind::kInternal,
              "KV cache: tokens {} to {} are asked for, it holds {}", first, first + count,
              length_);
  for (const kernels::StoredKv& head : heads_) {
    std::memcpy(dst, static_cast<const std::byte*>(head.rows) + first * head.row_bytes,
                count * head.row_bytes);
    dst += count * head.row_bytes;
  }
  for (std::size_t at = first; at < scales_.size(); at += capacity_) {
    std::memcpy(dst, scales_.data() + at, count * sizeof(float));
    dst += count * sizeof(float);
  }
}

void KvCache::append(const std::byte* src, std::size_t count) {
  QALOF_CHECK(length_ + count <= capacity_, ErrorKind::kInternal,
              "KV cache: {} tokens after {} of {}", count, length_, capacity_);
  std::byte* rows = data_.data();
  for (const kernels::StoredKv& head : heads_) {
    std::memcpy(rows + length_ * head.row_bytes, src, count * head.row_bytes);
    rows += capacity_ * head.row_bytes;
    src += count * head.row_bytes;
  }
  for (std::size_t at = length_; at < scales_.size(); at += capacity_) {
    std::memcpy(scales_.data() + at, src, count * sizeof(float));
    src += count * sizeof(float);
  }
  length_ += count;
}

void KvCache::write_tokens(std::size_t first_head, const KvRows& rows, std::size_t begin,
                           std::size_t end) {
  for (std::size_t h = 0; h < num_kv_heads_; ++h) {
    const kernels::StoredKv& head = heads_[first_head + h];
    // The views are const for attention; the memory is this cache's own.
    auto* bytes = data_.data() + (static_cast<const std::byte*>(head.rows) - data_.data());
    float* scales =
        head.scales == nullptr ? nullptr : scales_.data() + (head.scales - scales_.data());
    for (std::size_t t = begin; t < end; ++t) {
      const float* values = rows.values + t * rows.stride + h * head_dim_;
      const std::int8_t* codes = rows.codes + (t * num_kv_heads_ + h) * head_dim_;
      std::byte* row = bytes + (length_ + t) * head.row_bytes;
      switch (head.format) {
        case kernels::KvFormat::kF32:
          std::memcpy(row, values, head_dim_ * sizeof(float));
          break;
        case kernels::KvFormat::kBf16:
          for (std::size_t d = 0; d < head_dim_; ++d) {
            const std::uint16_t half = kernels::bf16_from_float(values[d]);
            std::memcpy(row + 2 * d, &half, sizeof half);
          }
          break;
        case kernels::KvFormat::kInt8:
          std::memcpy(row, codes, head_dim_);
          break;
        case kernels::KvFormat::kInt4:
          kernels::pack_code_bits(codes, head_dim_, 4, reinterpret_cast<std::uint8_t*>(row));
          break;
      }
      if (scales != nullptr) scales[length_ + t] = rows.scales[t * num_kv_heads_ + h];
    }
  }
}

void KvCache::write(std::size_t layer, const KvRows& k, const KvRows& v, std::size_t tokens,
                    ParallelFor& parallel) {
  QALOF_CHECK(length_ + tokens <= capacity_, ErrorKind::kInternal,
              "KV cache: {} tokens after {} of {}", tokens, length_, capacity_);
  const std::size_t first_k = 2 * layer * num_kv_heads_;
  for_token_ranges(tokens, parallel, [&](std::size_t begin, std::size_t end) {
    write_tokens(first_k, k, begin, end);
    write_tokens(first_k + num_kv_heads_, v, begin, end);
  });
}

}  // namespace qalof::runtime
