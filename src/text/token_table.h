// Flat hash tables of a BPE vocabulary and its merges: a quarter of a million tokens and half a
// million merges are read in a fraction of a second and searched without following pointers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qalof::text {

inline constexpr std::int32_t kNoToken = -1;

/// Tokens by their text. Immutable once filled: threads may share it.
class TokenTable {
 public:
  /// False where the text is there already, or where too many texts share a place: a file made to
  /// slow its reader down.
  bool add(std::string_view text, std::int32_t id);
  /// The id of text, or kNoToken.
  std::int32_t find(std::string_view text) const;

  std::size_t size() const { return ids_.size(); }
  /// By order of adding; index < size().
  std::string_view text(std::size_t index) const {
    return std::string_view(bytes_).substr(starts_[index], starts_[index + 1] - starts_[index]);
  }
  std::int32_t id(std::size_t index) const { return ids_[index]; }

 private:
  struct Slot {
    std::uint32_t hash = 0;   // tells most texts apart without a look at them
    std::uint32_t entry = 0;  // index + 1, 0: empty
  };
  static std::uint32_t hash_of(std::string_view text);
  // The slot of text, or the empty one where it belongs; SIZE_MAX where the search is too long.
  std::size_t find_slot(std::string_view text, std::uint32_t hash) const;
  void grow();

  std::string bytes_;
  std::vector<std::uint32_t> starts_ = {0};  // [size + 1]
  std::vector<std::int32_t> ids_;
  std::vector<Slot> slots_;
};

/// What two neighbouring tokens become. Immutable once filled: threads may share it.
class MergeTable {
 public:
  static constexpr std::uint32_t kNoMerge = UINT32_MAX;
  struct Merge {
    std::uint32_t rank = kNoMerge;  // the lowest goes first
    std::int32_t id = kNoToken;
  };

  /// Of two merges of a pair the later one counts. False where too many pairs share a place.
  bool add(std::int32_t left, std::int32_t right, Merge merge);
  Merge find(std::int32_t left, std::int32_t right) const {
    if (slots_.empty()) return {};
    const std::uint64_t key = key_of(left, right);
    for (std::size_t at = place(key);; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return slots_[at].merge;
      if (slots_[at].key == kEmpty) return {};
    }
  }
  std::size_t size() const { return size_; }
  /// Calls take(left, right, merge) for each merge.
  template <typename Take>
  void for_each(const Take& take) const {
    for (const Slot& slot : slots_) {
      if (slot.key == kEmpty) continue;
      take(static_cast<std::int32_t>(slot.key >> 32), static_cast<std::int32_t>(slot.key),
           slot.merge);
    }
  }

 private:
  static constexpr std::uint64_t kEmpty = UINT64_MAX;  // no token has id -1
  struct Slot {
    std::uint64_t key = kEmpty;
    Merge merge;
  };
  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t place(std::uint64_t key) const {
    key ^= key >> 29;
    key *= 0x9e3779b97f4a7c15ULL;
    key ^= key >> 32;
    return static_cast<std::size_t>(key) & mask_;
  }
  bool insert(std::uint64_t key, Merge merge);

  std::vector<Slot> slots_;
  std::size_t mask_ = 0, size_ = 0;
};

}  // namespace qalof::text
