// GGUF files byte by byte, sound and otherwise.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace qalof::testing {

class GgufBytes {
 public:
  template <typename T>
  static std::string raw(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
  static std::string text(const std::string& value) {
    return raw<std::uint64_t>(value.size()) + value;
  }

  std::uint32_t version = 3;
  std::string magic = "GGUF";

  /// One metadata entry; value is its bytes.
  void entry(const std::string& key, std::uint32_t type, const std::string& value) {
    entries_ += text(key) + raw(type) + value;
    ++num_entries_;
  }
  /// Entries as another file has them.
  void entries(const std::string& bytes, std::uint64_t count) {
    entries_ += bytes;
    num_entries_ += count;
  }
  void list(const std::string& key, std::uint32_t type, std::uint64_t count,
            const std::string& values) {
    entry(key, 9, raw(type) + raw(count) + values);
  }
  /// dims as in the file, fastest first. Data are placed by the caller.
  void tensor(const std::string& name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
              std::uint64_t offset) {
    tensors_ += text(name) + raw<std::uint32_t>(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t extent : dims) tensors_ += raw(extent);
    tensors_ += raw(type) + raw(offset);
    ++num_tensors_;
  }
  std::string data;
  std::size_t alignment = 32;

  std::string bytes() const {
    std::string file =
        magic + raw(version) + raw(num_tensors_) + raw(num_entries_) + entries_ + tensors_;
    if (num_tensors_ > 0) file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    return file + data;
  }

 private:
  std::uint64_t num_entries_ = 0, num_tensors_ = 0;
  std::string entries_, tensors_;
};

}  // namespace qalof::testing
