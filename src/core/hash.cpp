// sha256 through OpenSSL's EVP interface.
#include "core/hash.h"

#include <openssl/evp.h>

#include "core/error.h"

namespace qalof {

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  QALOF_CHECK(
      context_->evp != nullptr && EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) == 1,
      ErrorKind::kInternal, "sha256 is not available in OpenSSL");
}

Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::byte> bytes) {
  QALOF_CHECK(EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()) == 1,
              ErrorKind::kInternal, "sha256 failed");
}

std::string Sha256::finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  QALOF_CHECK(EVP_DigestFinal_ex(context_->evp, digest, &size) == 1, ErrorKind::kInternal,
              "sha256 failed");
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

}  // namespace qalof
