// The tree of a pattern of text/split_pattern.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/split_pattern.h"

namespace qalof::text::split_pattern {

inline constexpr std::uint32_t kUnbounded = UINT32_MAX;

enum class Kind { kSet, kSequence, kChoice, kRepeat, kAhead, kNotAhead, kAtomic, kAssertion };

struct Node {
  Kind kind;
  std::vector<std::unique_ptr<Node>> children = {};
  std::uint32_t set = 0;            // kSet
  std::uint32_t low = 0, high = 0;  // kRepeat
  bool is_possessive = false;       // kRepeat
  char assertion = 0;               // kAssertion: ^ $ A z
};
using NodePtr = std::unique_ptr<Node>;

/// True where a node may match without a character.
bool may_be_empty(const Node& node);
/// Parses a pattern that is UTF-8; sets receives the sets that nodes name by index. Errors as
/// SplitPattern::parse.
NodePtr parse_tree(std::string_view pattern, const std::string& where, std::vector<CodeSet>* sets);

}  // namespace qalof::text::split_pattern
