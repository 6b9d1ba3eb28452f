// The longest common subsequence of words. See rouge.h.
#include "text/rouge.h"

#include <algorithm>
#include <string>
#include <vector>

namespace qalof::text {

namespace rouge_file {

constexpr std::size_t kMaxWords = 4096;

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  const auto finish = [&] {
    if (!word.empty() && words.size() < kMaxWords) words.push_back(word);
    word.clear();
  };
  for (const char c : text) {
    if (c >= 'A' && c <= 'Z') {
      word += static_cast<char>(c - 'A' + 'a');
    } else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
      word += c;
    } else {
      finish();
    }
  }
  finish();
  return words;
}

}  // namespace rouge_file

double rouge_l(std::string_view text, std::string_view reference) {
  const std::vector<std::string> found = rouge_file::words_of(text);
  const std::vector<std::string> wanted = rouge_file::words_of(reference);
  std::vector<std::size_t> row(wanted.size() + 1, 0);  // lengths for the words of found so far
  for (const std::string& word : found) {
    std::size_t diagonal = 0;
    for (std::size_t j = 0; j < wanted.size(); ++j) {
      const std::size_t above = row[j + 1];
      row[j + 1] = word == wanted[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  const auto common = static_cast<double>(row.back());
  if (common == 0) return 0;
  const double precision = common / static_cast<double>(found.size());
  const double recall = common / static_cast<double>(wanted.size());
  return 2 * precision * recall / (precision + recall);
}

}  // namespace qalof::text
