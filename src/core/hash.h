// sha256 of bytes, and sha1 where git's names of files ask for it, through OpenSSL.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace qalof {

/// Incremental hash. Not thread-safe.
class Hash {
 public:
  ~Hash();
  Hash(const Hash&) = delete;
  Hash& operator=(const Hash&) = delete;
  void update(std::span<const std::byte> bytes);
  /// Lower-case hex; the object must not be used afterwards.
  std::string finish();

 protected:
  /// name: OpenSSL's, of the algorithm.
  explicit Hash(const char* name);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

class Sha256 : public Hash {
 public:
  Sha256() : Hash("sha256") {}
};

/// Finds accidents, not malice: two files with one sha1 can be made on purpose.
class Sha1 : public Hash {
 public:
  Sha1() : Hash("sha1") {}
};

std::string sha256_hex(std::span<const std::byte> bytes);
/// Of a file, of which memory holds a piece at a time. Error{kNotFound}.
std::string sha256_of_file(const std::string& path);

}  // namespace qalof
