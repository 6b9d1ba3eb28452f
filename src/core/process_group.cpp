// Texts of several processes, exchanged by calls that take equally many bytes of each. See
// process_group.h.
#include "core/process_group.h"

#include <algorithm>
#include <cstring>

namespace qalof {

std::vector<std::string> gather_texts(ProcessGroup& group, const std::string& own) {
  const std::uint64_t size = own.size();
  std::vector<std::uint64_t> sizes(group.size());
  group.gather(std::as_bytes(std::span(&size, 1)), std::as_writable_bytes(std::span(sizes)));
  const std::size_t most = *std::ranges::max_element(sizes);
  std::vector<std::string> texts(group.size());
  if (most == 0) return texts;
  std::string padded = own, all(most * group.size(), '\0');
  padded.resize(most);
  group.gather(std::as_bytes(std::span(padded)), std::as_writable_bytes(std::span(all)));
  for (std::size_t rank = 0; rank < texts.size(); ++rank)
    texts[rank] = all.substr(rank * most, sizes[rank]);
  return texts;
}

std::vector<std::string> share_items(ProcessGroup* group, std::size_t count,
                                     const std::function<std::string(std::size_t)>& compute) {
  std::vector<std::string> results(count);
  const std::size_t ranks = group != nullptr ? group->size() : 1;
  const std::size_t rank = group != nullptr ? group->rank() : 0;
  std::string own;  // each result after its size
  for (std::size_t i = rank; i < count; i += ranks) {
    results[i] = compute(i);
    const std::uint64_t size = results[i].size();
    own.append(reinterpret_cast<const char*>(&size), sizeof size).append(results[i]);
  }
  if (ranks == 1) return results;
  const std::vector<std::string> all = gather_texts(*group, own);
  for (std::size_t from = 0; from < ranks; ++from) {
    std::size_t at = 0;
    for (std::size_t i = from; i < count; i += ranks) {
      std::uint64_t size = 0;
      std::memcpy(&size, all[from].data() + at, sizeof size);
      results[i] = all[from].substr(at + sizeof size, size);
      at += sizeof size + size;
    }
  }
  return results;
}

}  // namespace qalof
