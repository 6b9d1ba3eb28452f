// Reading and comparing API keys. See keys.h.
#include "serve/keys.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <span>

#include "core/ascii.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"

namespace qalof::serve {

namespace {

constexpr std::size_t kMaxKeyFile = std::size_t{1} << 20;
constexpr std::size_t kLeastKeyLength = 16;
constexpr std::size_t kMaxAuthorization = 4096;

std::string digest_of(std::string_view key) {
  return sha256_hex(std::as_bytes(std::span(key.data(), key.size())));
}

// The part of base64-decoded "user:password" after the colon, or "".
std::string password_of(std::string_view encoded) {
  if (encoded.size() % 4 != 0) return "";
  std::vector<unsigned char> bytes(encoded.size() / 4 * 3 + 1);
  const int size =
      EVP_DecodeBlock(bytes.data(), reinterpret_cast<const unsigned char*>(encoded.data()),
                      static_cast<int>(encoded.size()));
  if (size < 0) return "";
  std::string text(bytes.begin(), bytes.begin() + size);
  // The decoder counts the padding as bytes.
  for (std::size_t i = encoded.size(); i > 0 && encoded[i - 1] == '=' && !text.empty(); --i)
    text.pop_back();
  const std::size_t colon = text.find(':');
  return colon == std::string::npos ? "" : text.substr(colon + 1);
}

}  // namespace

ApiKeys ApiKeys::read(const std::string& path) {
  ApiKeys keys;
  const std::string text = read_file(path, kMaxKeyFile);
  std::size_t number = 0;
  for (std::size_t at = 0; at < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line(text.data() + at, end - at);
    at = end + 1;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    if (line.empty() || line.front() == '#') continue;
    const bool is_visible =
        std::all_of(line.begin(), line.end(), [](char c) { return c > ' ' && c <= '~'; });
    QALOF_CHECK(is_visible && line.size() >= kLeastKeyLength, ErrorKind::kBadInput,
                "{}:{}: a key has at least {} characters, all of them visible ASCII", path,
                number + 1, kLeastKeyLength);
    keys.digests_.push_back(digest_of(line));
  }
  QALOF_CHECK(!keys.digests_.empty(), ErrorKind::kBadInput, "{}: holds no key", path);
  return keys;
}

bool ApiKeys::accepts(std::string_view authorization) const {
  if (digests_.empty()) return true;
  if (authorization.size() > kMaxAuthorization) return false;
  const std::size_t space = std::min(authorization.find(' '), authorization.size());
  const std::string scheme = lower_ascii(std::string(authorization.substr(0, space)));
  std::string_view rest = authorization.substr(space);
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  std::string key;
  if (scheme == "bearer") key = rest;
  if (scheme == "basic") key = password_of(rest);
  const std::string found = digest_of(key);
  unsigned matches = 0;
  for (const std::string& digest : digests_)
    matches += CRYPTO_memcmp(found.data(), digest.data(), digest.size()) == 0 ? 1U : 0U;
  return matches > 0 && !key.empty();
}

}  // namespace qalof::serve
