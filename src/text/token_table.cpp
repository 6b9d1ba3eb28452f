// Open addressing with linear probing, at most half full.
#include "text/token_table.h"

#include <functional>
#include <utility>

namespace qalof::text {

namespace {

constexpr std::size_t kFirstSlots = 1024;
constexpr std::size_t kMaxProbes = 4096;  // in tables half full even 100 do not occur by chance

}  // namespace

std::uint32_t TokenTable::hash_of(std::string_view text) {
  return static_cast<std::uint32_t>(std::hash<std::string_view>()(text));
}

std::size_t TokenTable::find_slot(std::string_view wanted, std::uint32_t hash) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash & mask;
  for (std::size_t probes = 0; slots_[at].entry != 0; ++probes) {
    if (slots_[at].hash == hash && text(slots_[at].entry - 1) == wanted) return at;
    if (probes == kMaxProbes) return SIZE_MAX;
    at = (at + 1) & mask;
  }
  return at;
}

void TokenTable::grow() {
  std::vector<Slot> old(slots_.empty() ? kFirstSlots : 2 * slots_.size());
  old.swap(slots_);
  const std::size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.entry == 0) continue;
    // All texts differ, so only an empty slot is looked for.
    std::size_t at = slot.hash & mask;
    while (slots_[at].entry != 0) at = (at + 1) & mask;
    slots_[at] = slot;
  }
}

bool TokenTable::add(std::string_view text, std::int32_t id) {
  if (2 * (size() + 1) > slots_.size()) grow();
  const std::uint32_t hash = hash_of(text);
  const std::size_t at = find_slot(text, hash);
  if (at == SIZE_MAX || slots_[at].entry != 0) return false;
  bytes_ += text;
  starts_.push_back(static_cast<std::uint32_t>(bytes_.size()));
  ids_.push_back(id);
  slots_[at] = {hash, static_cast<std::uint32_t>(ids_.size())};
  return true;
}

std::int32_t TokenTable::find(std::string_view text) const {
  if (slots_.empty()) return kNoToken;
  const std::size_t at = find_slot(text, hash_of(text));
  return at == SIZE_MAX || slots_[at].entry == 0 ? kNoToken : ids_[slots_[at].entry - 1];
}

bool MergeTable::insert(std::uint64_t key, Merge merge) {
  std::size_t at = place(key);
  for (std::size_t probes = 0; slots_[at].key != kEmpty && slots_[at].key != key; ++probes) {
    if (probes == kMaxProbes) return false;
    at = (at + 1) & mask_;
  }
  if (slots_[at].key == kEmpty) ++size_;
  slots_[at] = {key, merge};
  return true;
}

bool MergeTable::add(std::int32_t left, std::int32_t right, Merge merge) {
  if (2 * (size_ + 1) > slots_.size()) {
    std::vector<Slot> old(slots_.empty() ? kFirstSlots : 2 * slots_.size());
    old.swap(slots_);
    mask_ = slots_.size() - 1;
    size_ = 0;
    for (const Slot& slot : old)
      if (slot.key != kEmpty && !insert(slot.key, slot.merge)) return false;
  }
  return insert(key_of(left, right), merge);
}

}  // namespace qalof::text
