// API keys: read from a file, compared without telling by time how much of a guess was right, and
// never written anywhere.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qalof::serve {

class ApiKeys {
 public:
  /// No key: everyone may call.
  ApiKeys() = default;
  /// One key per line; empty lines and those that begin with # are skipped. Error{kBadInput} for a
  /// file without keys, and for a key of fewer than 16 characters or with other characters than
  /// visible ASCII.
  static ApiKeys read(const std::string& path);

  bool is_open() const { return digests_.empty(); }
  /// authorization is the header's value: "Bearer KEY", or "Basic" with KEY as the password, which
  /// is what browsers send.
  bool accepts(std::string_view authorization) const;

 private:
  std::vector<std::string> digests_;  // sha256, so that lengths do not tell
};

}  // namespace qalof::serve
