// Hashes through OpenSSL's EVP interface.
#include "core/hash.h"

#include <openssl/evp.h>

#include <algorithm>

#include "core/error.h"
#include "core/file.h"

namespace qalof {

struct Hash::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Hash::Hash(const char* name) : context_(std::make_unique<Context>()) {
  const EVP_MD* const algorithm = EVP_get_digestbyname(name);
  QALOF_CHECK(context_->evp != nullptr && algorithm != nullptr &&
                  EVP_DigestInit_ex(context_->evp, algorithm, nullptr) == 1,
              ErrorKind::kInternal, "{} is not available in OpenSSL", name);
}

Hash::~Hash() = default;

void Hash::update(std::span<const std::byte> bytes) {
  QALOF_CHECK(EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()) == 1,
              ErrorKind::kInternal, "OpenSSL: a hash failed");
}

std::string Hash::finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  QALOF_CHECK(EVP_DigestFinal_ex(context_->evp, digest, &size) == 1, ErrorKind::kInternal,
              "OpenSSL: a hash failed");
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

std::string sha256_of_file(const std::string& path) {
  constexpr std::size_t kPieceBytes = std::size_t{8} << 20;
  const MappedFile file = MappedFile::open(path);
  Sha256 hash;
  for (std::span<const std::byte> rest = file.bytes(); !rest.empty();) {
    const std::span<const std::byte> piece = rest.first(std::min(rest.size(), kPieceBytes));
    hash.update(piece);
    file.release(piece);
    rest = rest.subspan(piece.size());
  }
  return hash.finish();
}

}  // namespace qalof
