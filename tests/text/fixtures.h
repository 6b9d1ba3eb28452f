// What tools/fixtures/make_text_fixtures.py has written to tests/text/data.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "text/bpe_tokenizer.h"

namespace qalof::testing {

inline std::string text_data(const std::string& name) {
  return std::string(QALOF_SOURCE_DIR) + "/tests/text/data/" + name;
}

inline std::vector<std::string> read_lines(const std::string& name) {
  std::ifstream file(text_data(name), std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// FNV-1a (64 bits) over little-endian 32-bit words, folded to 32 bits.
class Fnv {
 public:
  void add(std::uint32_t word) {
    for (int i = 0; i < 4; ++i) hash_ = (hash_ ^ (word >> (8 * i) & 0xff)) * 0x100000001b3ULL;
  }
  std::string text() const {
    return fmt::format("{:08x}", static_cast<std::uint32_t>(hash_ >> 32 ^ hash_));
  }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325ULL;
};

inline std::string hash_of(const text::Encoding& encoding) {
  Fnv hash;
  for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
    hash.add(static_cast<std::uint32_t>(encoding.ids[i]));
    hash.add(encoding.offsets[i].first);
    hash.add(encoding.offsets[i].second);
  }
  return hash.text();
}

inline std::string tiny_json() {
  return read_file(text_data("tiny/tokenizer.json"), std::size_t{1} << 20);
}

inline text::BpeTokenizer tokenizer_of(const Json& json) {
  return text::BpeTokenizer::from_files({{"tokenizer.json", json.dump()}}, "dir");
}

}  // namespace qalof::testing
