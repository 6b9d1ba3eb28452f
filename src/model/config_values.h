// Readers of config.json values, shared by the model families. Internal to src/model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"

namespace qalof::model {

// Powers of two well above public models, so that products of sizes cannot overflow and a false
// size cannot ask for absurd memory. Positions are exact in f32, from which rotary angles are
// computed.
inline constexpr std::int64_t kMaxVocab = std::int64_t{1} << 24;
inline constexpr std::int64_t kMaxLayers = 1024;
inline constexpr std::int64_t kMaxHidden = 65'536;
inline constexpr std::int64_t kMaxPositions = std::int64_t{1} << 24;
inline constexpr std::int64_t kMaxInner = 4 * kMaxHidden;

/// The one of key and alias that is present, key first; "" where neither is. Null counts as absent.
std::string present_key(const Json& json, const char* key, const char* alias);
/// A size in 1..max, or fallback where it is absent; alias may be null.
std::size_t read_size(const Json& json, const char* key, const char* alias, std::size_t fallback,
                      std::int64_t max, const std::string& where);
bool read_bool(const Json& json, const char* key, bool fallback, const std::string& where);
/// A number above 0 and at most max.
float read_float(const Json& json, const char* key, float fallback, float max,
                 const std::string& where);
std::int64_t read_token(const Json& json, const char* key, std::int64_t fallback,
                        const std::string& where);
/// eos_token_id: one token, or a list of them.
std::vector<std::int64_t> read_end_tokens(const Json& json, std::int64_t fallback,
                                          const std::string& where);
/// Sets config.has_dropout where one of the named rates is above 0.
void read_dropout(const Json& json, std::initializer_list<const char*> keys, ModelConfig& config,
                  const std::string& where);
/// kGeluTanh or kGeluErf by any of the names that transformers has for them.
std::optional<Activation> gelu_named(const std::string& name);
/// Error{kUnsupported} unless a switch has the implemented value.
void require_bool(const Json& json, const char* key, bool implemented, const std::string& where);

}  // namespace qalof::model
