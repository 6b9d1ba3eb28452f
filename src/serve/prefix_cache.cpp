// Chains of blocks by tokens, and which of them go when room is short.
#include "serve/prefix_cache.h"

namespace qalof::serve {

namespace {

// Nodes of maps and lists beside the data, roughly.
constexpr std::size_t kBlockOverhead = 256;

std::vector<std::int32_t> block_tokens(std::span<const std::int32_t> tokens, std::size_t first) {
  const auto block = tokens.subspan(first, kPrefixBlockTokens);
  return {block.begin(), block.end()};
}

}  // namespace

std::size_t PrefixCache::restore(const std::string& key, std::span<const std::int32_t> tokens,
                                 runtime::KvCache& cache) {
  const auto root = roots_.find(key);
  if (root == roots_.end()) return 0;
  std::vector<Block*> chain;
  Block* at = &root->second;
  std::size_t found = 0;
  while (found + kPrefixBlockTokens < tokens.size()) {
    const auto next = at->next.find(block_tokens(tokens, found));
    if (next == at->next.end()) break;
    at = &next->second;
    cache.append(at->data.data(), kPrefixBlockTokens);
    chain.push_back(at);
    found += kPrefixBlockTokens;
  }
  // Last block first, so that a chain loses its end before its beginning.
  for (auto block = chain.rbegin(); block != chain.rend(); ++block) touch(**block);
  return found;
}

void PrefixCache::keep(const std::string& key, std::span<const std::int32_t> tokens,
                       const runtime::KvCache& cache, std::size_t room) {
  const std::size_t held = std::min(tokens.size(), cache.length());
  const std::size_t block_bytes = cache.token_bytes() * kPrefixBlockTokens +
                                  kPrefixBlockTokens * sizeof(std::int32_t) * 2 + kBlockOverhead;
  if (held < kPrefixBlockTokens || block_bytes > room) return;
  // At most what fits: a chain must not push out its own beginning.
  const std::size_t fitting = std::min(held / kPrefixBlockTokens, room / block_bytes);
  Block* at = &roots_.try_emplace(key).first->second;
  at->key = key;
  std::vector<Block*> chain;
  for (std::size_t i = 0; i < fitting; ++i) {
    const std::size_t first = i * kPrefixBlockTokens;
    std::vector<std::int32_t> own = block_tokens(tokens, first);
    auto next = at->next.find(own);
    if (next == at->next.end()) {
      if (first < cache.oldest()) break;
      Block block;
      block.tokens = own;
      block.data.resize(cache.token_bytes() * kPrefixBlockTokens);
      cache.copy_out(first, kPrefixBlockTokens, block.data.data());
      block.parent = at;
      block.bytes = block_bytes;
      Age age{nullptr};
      block.age = age.begin();
      next = at->next.try_emplace(std::move(own), std::move(block)).first;
      age.front() = &next->second;
      by_age_.splice(by_age_.begin(), age);
      bytes_ += block_bytes;
    }
    at = &next->second;
    chain.push_back(at);
  }
  for (auto block = chain.rbegin(); block != chain.rend(); ++block) touch(**block);
  if (const auto root = roots_.find(key); root->second.next.empty()) roots_.erase(root);
  shrink(room);
}

void PrefixCache::drop(Block& block) {
  bytes_ -= block.bytes;
  by_age_.erase(block.age);
  Block* parent = block.parent;
  const std::vector<std::int32_t> tokens = block.tokens;
  parent->next.erase(tokens);
  if (parent->parent == nullptr && parent->next.empty()) roots_.erase(std::string(parent->key));
}

void PrefixCache::shrink(std::size_t bytes) {
  // The oldest has no younger block after it, since a chain is touched from its end.
  while (bytes_ > bytes && !by_age_.empty()) drop(*by_age_.back());
}

}  // namespace qalof::serve
