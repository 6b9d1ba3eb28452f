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
// Most tokens that are written at once to a layer with a window, where others stand before them:
// a block of attention's queries. Once in so many tokens the window's rows move to the front.
constexpr std::size_t kPiece = 96;

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
        kernels::fake_quantize_kv(values, 1, heads / ranges, dim, &head_bits[range],
                                  rows.only_codes ? nullptr : values,
                                  rows.codes == nullptr ? nullptr : rows.codes + head * dim,
                                  rows.scales == nullptr ? nullptr : rows.scales + head, serial);
      }
    }
  };
  for_token_ranges(tokens, parallel, quantize_tokens);
}

bool multiplies_codes(const kernels::AttentionShape& shape, const std::vector<int>& k_bits,
                      const std::vector<int>& v_bits) {
  const auto is_integer = [](int bits) { return bits <= 8; };
  return kernels::can_multiply_codes(shape) && std::ranges::all_of(k_bits, is_integer) &&
         std::ranges::all_of(v_bits, is_integer);
}

const kernels::StoredKv* stored_heads(const KvRows& rows, const model::ModelConfig& config,
                                      kernels::StoredKv* heads) {
  const std::size_t dim = config.head_dim();
  for (std::size_t h = 0; h < config.num_kv_heads; ++h)
    heads[h] = {rows.codes + h * dim, rows.scales + h, config.kv_width(), kernels::KvFormat::kInt8,
                config.num_kv_heads};
  return heads;
}

namespace {

// Where rows and scales of a cache lie: one entry for each layer, K or V, and head.
struct KvPlaces {
  static constexpr std::size_t kNoScales = SIZE_MAX;
  struct Place {
    std::size_t layer, row, scale;
    int bits;
    bool begins_scales;  // and does not share those of an earlier head
  };
  std::vector<Place> places;
  std::size_t bytes = 0, scales = 0;

  // Heads of one width that share a range share the scale.
  void add(std::size_t layer, std::size_t rows, const std::vector<int>& head_bits, KvScheme scheme,
           std::size_t head_dim) {
    const std::size_t first = places.size();
    for (const int bits : head_bits) {
      Place place{layer, bytes, kNoScales, bits, false};
      bytes += rows * kernels::stored_row_bytes(format_of(bits), head_dim);
      if (bits <= 8) {
        for (std::size_t other = first; other < places.size(); ++other) {
          if (scheme == KvScheme::kToken && places[other].bits == bits)
            place.scale = places[other].scale;
        }
        place.begins_scales = place.scale == kNoScales;
        if (place.begins_scales) {
          place.scale = scales;
          scales += rows;
        }
      }
      places.push_back(place);
    }
  }
};

KvPlaces kv_places(const model::ModelConfig& config, const KvPrecision& precision,
                   const auto& layers) {
  KvPlaces found;
  for (std::size_t layer = 0; layer < config.num_layers; ++layer) {
    for (const auto* side : {&precision.k_bits, &precision.v_bits}) {
      const std::vector<int>& bits = side->at(layer);
      QALOF_CHECK(bits.size() == config.num_kv_heads, ErrorKind::kInternal,
                  "KV cache: layer {} has {} widths, expected {}", layer, bits.size(),
                  config.num_kv_heads);
      found.add(layer, layers[layer].rows, bits, precision.scheme, config.head_dim());
    }
  }
  return found;
}

}  // namespace

std::vector<KvCache::Layer> KvCache::layers_for(const model::ModelConfig& config,
                                                std::size_t capacity, std::size_t back) {
  std::vector<Layer> layers(config.num_layers);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    layers[i].window = config.window(i);
    layers[i].rows = capacity;
    if (layers[i].window != 0) layers[i].rows = std::min(capacity, layers[i].needed(back) + kPiece);
  }
  return layers;
}

std::size_t KvCache::bytes_for(const model::ModelConfig& config, const KvPrecision& precision,
                               std::size_t capacity, std::size_t back) {
  const KvPlaces found = kv_places(config, precision, layers_for(config, capacity, back));
  return found.bytes + found.scales * sizeof(float);
}

KvCache::KvCache(const model::ModelConfig& config, const KvPrecision& precision,
                 std::size_t capacity, std::size_t back)
    : precision_(precision),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim()),
      capacity_(capacity),
      back_(back),
      keeps_ids_(config.scaling_length(config.max_length()) != 0),
      layers_(layers_for(config, capacity, back)) {
  if (keeps_ids_) ids_.reserve(capacity);
  const KvPlaces found = kv_places(config, precision_, layers_);
  const std::string what = fmt::format("a KV cache of {} tokens", capacity);
  resize_for(what, data_, found.bytes);
  resize_for(what, scales_, found.scales);
  for (const KvPlaces::Place& place : found.places) {
    const kernels::KvFormat format = format_of(place.bits);
    const std::size_t row_bytes = kernels::stored_row_bytes(format, head_dim_);
    // Rows are padded with zeros; the nibble of code 0 is 8.
    if (format == kernels::KvFormat::kInt4)
      std::memset(data_.data() + place.row, 0x88, layers_[place.layer].rows * row_bytes);
    const bool has_scales = place.scale != KvPlaces::kNoScales;
    heads_.push_back({data_.data() + place.row, has_scales ? scales_.data() + place.scale : nullptr,
                      row_bytes, format});
    token_bytes_ += row_bytes;
    if (!place.begins_scales) continue;
    ranges_.push_back({place.layer, place.scale});
    token_bytes_ += sizeof(float);
  }
}

std::size_t KvCache::held_bytes() const {
  std::size_t bytes = 0;
  for (std::size_t head = 0; head < heads_.size(); ++head)
    bytes += (length_ - layers_[layer_of(head)].first) * heads_[head].row_bytes;
  for (const Scales& range : ranges_)
    bytes += (length_ - layers_[range.layer].first) * sizeof(float);
  return bytes;
}

std::size_t KvCache::oldest() const {
  std::size_t oldest = 0;
  for (const Layer& layer : layers_) oldest = std::max(oldest, layer.first);
  return oldest;
}

bool KvCache::forgets() const {
  return std::ranges::any_of(layers_, [&](const Layer& layer) { return layer.rows < capacity_; });
}

std::size_t KvCache::piece(std::size_t layer) const {
  return layers_[layer].rows < capacity_ ? kPiece : capacity_;
}

bool KvCache::can_truncate(std::size_t tokens) const {
  return tokens == 0 || std::ranges::all_of(layers_, [&](const Layer& layer) {
           return layer.first == 0 || layer.first + layer.needed(0) <= tokens;
         });
}

void KvCache::truncate(std::size_t tokens) {
  QALOF_CHECK(tokens <= length_, ErrorKind::kInternal, "KV cache: cut to {} tokens, it holds {}",
              tokens, length_);
  QALOF_CHECK(can_truncate(tokens), ErrorKind::kInternal,
              "KV cache: cut to {} tokens, but a layer holds those from {} on", tokens, oldest());
  length_ = tokens;
  if (tokens == 0) {
    for (Layer& layer : layers_) layer.first = 0;
  }
  ids_.resize(std::min(ids_.size(), tokens));
}

// Makes place in a layer for tokens at position `at`, which forgets those that no token asks for
// any more; returns how many of the new ones do not stay, either: the first of a long text.
std::size_t KvCache::make_room(std::size_t layer_index, std::size_t at, std::size_t tokens) {
  QALOF_CHECK(at + tokens <= capacity_, ErrorKind::kInternal, "KV cache: {} tokens after {} of {}",
              tokens, at, capacity_);
  Layer& layer = layers_[layer_index];
  if (at + tokens - layer.first <= layer.rows) return 0;
  if (at == 0) return layer.first = tokens - layer.rows;
  const std::size_t first = at - std::min(at, layer.needed(back_));
  QALOF_CHECK(layer.first <= first && tokens <= kPiece, ErrorKind::kInternal,
              "KV cache: {} tokens after {}, layer {} holds those from {} on", tokens, at,
              layer_index, layer.first);
  const std::size_t moved = first - layer.first, left = at - first;
  for (std::size_t head = 2 * layer_index * num_kv_heads_;
       head < 2 * (layer_index + 1) * num_kv_heads_; ++head)
    std::memmove(row(head, 0), row(head, moved), left * heads_[head].row_bytes);
  for (const Scales& range : ranges_) {
    if (range.layer != layer_index) continue;
    float* scales = scales_.data() + range.at;
    std::memmove(scales, scales + moved, left * sizeof(float));
  }
  layer.first = first;
  return 0;
}

void KvCache::follow(std::span<const std::int32_t> ids, std::size_t scaling_length, bool restarts) {
  if (!keeps_ids_) return;
  if (restarts) clear();
  scaling_length_ = scaling_length;
  ids_.resize(length_);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
}

void KvCache::copy_out(std::size_t first, std::size_t count, std::byte* dst) const {
  QALOF_CHECK(oldest() <= first && first + count <= length_, ErrorKind::kInternal,
              "KV cache: tokens {} to {} are asked for, it holds {} to {}", first, first + count,
              oldest(), length_);
  for (std::size_t head = 0; head < heads_.size(); ++head) {
    const kernels::StoredKv& stored = heads_[head];
    const std::size_t from = first - layers_[layer_of(head)].first;
    std::memcpy(dst, static_cast<const std::byte*>(stored.rows) + from * stored.row_bytes,
                count * stored.row_bytes);
    dst += count * stored.row_bytes;
  }
  for (const Scales& range : ranges_) {
    const std::size_t from = range.at + first - layers_[range.layer].first;
    std::memcpy(dst, scales_.data() + from, count * sizeof(float));
    dst += count * sizeof(float);
  }
}

void KvCache::append(const std::byte* src, std::size_t count) {
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    QALOF_CHECK(make_room(layer, length_, count) == 0, ErrorKind::kInternal,
                "KV cache: {} tokens at once, layer {} takes {}", count, layer, piece(layer));
  }
  for (std::size_t head = 0; head < heads_.size(); ++head) {
    const std::size_t bytes = count * heads_[head].row_bytes;
    std::memcpy(row(head, length_ - layers_[layer_of(head)].first), src, bytes);
    src += bytes;
  }
  for (const Scales& range : ranges_) {
    std::memcpy(scales_.data() + range.at + length_ - layers_[range.layer].first, src,
                count * sizeof(float));
    src += count * sizeof(float);
  }
  length_ += count;
}

void KvCache::copy_from(const KvCache& other, std::size_t tokens) {
  QALOF_CHECK(other.precision_ == precision_ && other.heads_.size() == heads_.size() &&
                  tokens <= other.length_ && other.can_truncate(tokens) && tokens <= capacity_,
              ErrorKind::kInternal, "KV cache: {} tokens of a cache of {} to one of {}", tokens,
              other.length_, capacity_);
  std::vector<std::size_t> from(layers_.size());  // row in the other's layer
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::size_t held = tokens - std::min(tokens, other.layers_[i].first);
    layers_[i].first = tokens - std::min(held, layers_[i].rows);
    from[i] = layers_[i].first - other.layers_[i].first;
  }
  for (std::size_t head = 0; head < heads_.size(); ++head) {
    const std::size_t layer = layer_of(head), bytes = heads_[head].row_bytes;
    std::memcpy(row(head, 0),
                static_cast<const std::byte*>(other.heads_[head].rows) + from[layer] * bytes,
                (tokens - layers_[layer].first) * bytes);
  }
  for (std::size_t i = 0; i < ranges_.size(); ++i) {
    const std::size_t layer = ranges_[i].layer;
    std::memcpy(scales_.data() + ranges_[i].at,
                other.scales_.data() + other.ranges_[i].at + from[layer],
                (tokens - layers_[layer].first) * sizeof(float));
  }
  length_ = tokens;
  scaling_length_ = other.scaling_length_;
  const std::span<const std::int32_t> ids = other.ids();
  ids_.assign(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(ids.size(), tokens)));
}

// Rows begin .. end - 1 of what is written; row_of_first is where row 0 goes.
void KvCache::write_tokens(std::size_t first_head, const KvRows& rows, std::size_t row_of_first,
                           std::size_t begin, std::size_t end) {
  for (std::size_t h = 0; h < num_kv_heads_; ++h) {
    const kernels::StoredKv& head = heads_[first_head + h];
    // The views are const for attention; the memory is this cache's own.
    float* scales =
        head.scales == nullptr ? nullptr : scales_.data() + (head.scales - scales_.data());
    for (std::size_t t = begin; t < end; ++t) {
      const float* values = rows.values + t * rows.stride + h * head_dim_;
      const std::int8_t* codes = rows.codes + (t * num_kv_heads_ + h) * head_dim_;
      std::byte* dst = row(first_head + h, row_of_first + t);
      switch (head.format) {
        case kernels::KvFormat::kF32:
          std::memcpy(dst, values, head_dim_ * sizeof(float));
          break;
        case kernels::KvFormat::kBf16:
          for (std::size_t d = 0; d < head_dim_; ++d) {
            const std::uint16_t half = kernels::bf16_from_float(values[d]);
            std::memcpy(dst + 2 * d, &half, sizeof half);
          }
          break;
        case kernels::KvFormat::kInt8:
          std::memcpy(dst, codes, head_dim_);
          break;
        case kernels::KvFormat::kInt4:
          kernels::pack_code_bits(codes, head_dim_, 4, reinterpret_cast<std::uint8_t*>(dst));
          break;
      }
      if (scales != nullptr) scales[row_of_first + t] = rows.scales[t * num_kv_heads_ + h];
    }
  }
}

void KvCache::write(std::size_t layer, const KvRows& k, const KvRows& v, std::size_t tokens,
                    std::size_t written, ParallelFor& parallel) {
  const std::size_t at = length_ + written, skipped = make_room(layer, at, tokens);
  const auto rows_after = [&](KvRows rows) {
    rows.values += skipped * rows.stride;
    if (rows.codes != nullptr) rows.codes += skipped * num_kv_heads_ * head_dim_;
    if (rows.scales != nullptr) rows.scales += skipped * num_kv_heads_;
    return rows;
  };
  const KvRows kept_k = rows_after(k), kept_v = rows_after(v);
  const std::size_t to = at + skipped - layers_[layer].first;
  const std::size_t first_k = 2 * layer * num_kv_heads_;
  for_token_ranges(tokens - skipped, parallel, [&](std::size_t begin, std::size_t end) {
    write_tokens(first_k, kept_k, to, begin, end);
    write_tokens(first_k + num_kv_heads_, kept_v, to, begin, end);
  });
}

}  // namespace qalof::runtime
