// A small check that HTML written as XML is well-formed.
#pragma once

#include <gtest/gtest.h>

#include <cctype>
#include <set>
#include <string>
#include <vector>

namespace qalof::testing {

/// Fails the test where tags do not nest, attributes are not quoted or repeat, or an & begins no
/// entity. The text of <style> is not looked at.
inline void expect_well_formed(const std::string& text) {
  std::vector<std::string> open;
  std::size_t at = 0;
  const auto here = [&] { return text.substr(at, 80); };
  const auto name_at = [&](std::size_t from) {
    std::size_t end = from;
    while (end < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '-'))
      ++end;
    return text.substr(from, end - from);
  };
  while (at < text.size()) {
    if (text[at] == '&') {
      const std::size_t end = text.find(';', at);
      static const std::set<std::string> known = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
      ASSERT_TRUE(known.count(text.substr(at, end - at + 1)) == 1) << here();
      at = end + 1;
      continue;
    }
    ASSERT_NE(text[at], '>') << here();
    if (text[at] != '<') {
      ++at;
      continue;
    }
    if (text.compare(at, 15, "<!DOCTYPE html>") == 0) {
      at += 15;
      continue;
    }
    if (text[at + 1] == '/') {
      const std::string name = name_at(at + 2);
      ASSERT_FALSE(open.empty()) << here();
      ASSERT_EQ(open.back(), name) << here();
      open.pop_back();
      at += name.size() + 2;
      ASSERT_EQ(text[at], '>') << here();
      ++at;
      continue;
    }
    const std::string name = name_at(at + 1);
    ASSERT_FALSE(name.empty()) << here();
    at += name.size() + 1;
    std::set<std::string> attributes;
    while (text[at] == ' ') {
      const std::string attribute = name_at(++at);
      ASSERT_TRUE(attributes.insert(attribute).second) << here();
      at += attribute.size();
      ASSERT_EQ(text.compare(at, 2, "=\""), 0) << here();
      const std::size_t end = text.find('"', at + 2);
      ASSERT_NE(end, std::string::npos) << here();
      ASSERT_EQ(text.substr(at, end - at).find_first_of("<>"), std::string::npos) << here();
      at = end + 1;
    }
    const bool empty = text[at] == '/';
    if (empty) ++at;
    ASSERT_EQ(text[at], '>') << here();
    ++at;
    if (empty) continue;
    open.push_back(name);
    if (name == "style") at = text.find("</style>", at);
  }
  ASSERT_TRUE(open.empty()) << "not closed: " << open.back();
}

}  // namespace qalof::testing
