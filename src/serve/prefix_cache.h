// Keys and values of prompts that were read before, in blocks of tokens, so that a prompt with the
// same beginning need not read it again.
//
// A block is found by everything its bytes depend on: the variant's cache_key (adapter, plan, K/V
// bits and scheme) and all tokens from the beginning on, compared in full, not by a hash. What a
// tokenizer adds is part of the tokens. A block holds the very bytes that a KvCache stores, so a
// sequence continues with the same bits as without the cache (runtime/decoder.h: chunks change
// nothing). Not for: sharing memory between running sequences; blocks are copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/kv_cache.h"

namespace qalof::serve {

/// Tokens of a block: small enough that most of a shared beginning is whole blocks.
inline constexpr std::size_t kPrefixBlockTokens = 32;

/// One thread at a time.
class PrefixCache {
 public:
  /// Copies the longest known beginning of tokens into an empty cache of the precision that key
  /// stands for; returns its tokens, fewer than tokens.size(), so that one is left to be fed.
  std::size_t restore(const std::string& key, std::span<const std::int32_t> tokens,
                      runtime::KvCache& cache);
  /// Keeps what cache holds of tokens, as many whole blocks as fit into room bytes beside those
  /// that are there; older blocks make place. What a layer with a window has forgotten is not kept,
  /// nor what comes after it: there this is called as the cache fills.
  void keep(const std::string& key, std::span<const std::int32_t> tokens,
            const runtime::KvCache& cache, std::size_t room);
  /// Drops the blocks used longest ago until at most bytes are left.
  void shrink(std::size_t bytes);
  /// Bytes of all blocks, with their keys.
  std::size_t bytes() const { return bytes_; }
  std::size_t blocks() const { return by_age_.size(); }

 private:
  struct Block;
  using Age = std::list<Block*>;
  struct Block {
    std::vector<std::int32_t> tokens;
    std::vector<std::byte> data;
    Block* parent = nullptr;  // null: a root, which has no data
    std::map<std::vector<std::int32_t>, Block> next;
    std::string key;  // of a root
    Age::iterator age{};
    std::size_t bytes = 0;
  };
  void touch(Block& block) { by_age_.splice(by_age_.begin(), by_age_, block.age); }
  void drop(Block& block);

  std::map<std::string, Block> roots_;
  Age by_age_;  // most recently used first; a block is younger than those after it in its chain
  std::size_t bytes_ = 0;
};

}  // namespace qalof::serve
