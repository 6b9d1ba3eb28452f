// Files for tests of readers, written byte by byte.
#pragma once

#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace qalof::io {

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

inline void put_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// The 8 bytes of a length.
inline std::string length_bytes(std::uint64_t length) {
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return bytes;
}

/// A safetensors file of a header as given and data_bytes bytes 1, 2, 3, ...
inline std::string safetensors_bytes(const std::string& header, std::size_t data_bytes) {
  std::string bytes = length_bytes(header.size()) + header;
  for (std::size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i + 1);
  return bytes;
}

inline void put_safetensors(const std::string& path, const std::string& header,
                            std::size_t data_bytes) {
  put_file(path, safetensors_bytes(header, data_bytes));
}

}  // namespace qalof::io
