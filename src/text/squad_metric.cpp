// The official evaluation scripts in C++: normalization, exact match and F1 of v1.1 and v2.0.
#include "text/squad_metric.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "text/unicode.h"

namespace qalof::text {

namespace {

constexpr std::size_t kMaxPredictionBytes = std::size_t{512} << 20;

bool is_ascii_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

// Replaces the words a, an and the by a space: \b(a|an|the)\b with Python's \w.
std::string without_articles(std::string_view text) {
  std::string kept;
  bool after_word = false;  // the previous code point is \w
  for (std::size_t i = 0; i < text.size();) {
    std::size_t length = 0;
    if (!after_word) {
      for (const std::string_view article : {"the", "an", "a"}) {
        if (!text.substr(i).starts_with(article)) continue;
        std::size_t end = i + article.size();
        if (end < text.size() && is_python_word(next_code_point(text, &end))) continue;
        length = article.size();
        break;
      }
    }
    if (length > 0) {
      kept += ' ';
      i += length;
      after_word = true;  // the article is \w; what follows it is not
      continue;
    }
    const std::size_t start = i;
    after_word = is_python_word(next_code_point(text, &i));
    kept.append(text.substr(start, i - start));
  }
  return kept;
}

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  std::size_t word = 0;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t start = i;
    if (!is_python_space(next_code_point(text, &i))) continue;
    if (start > word) words.push_back(text.substr(word, start - word));
    word = i;
  }
  if (word < text.size()) words.push_back(text.substr(word));
  return words;
}

std::size_t common_words(std::vector<std::string_view> a, std::vector<std::string_view> b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  std::vector<std::string_view> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return both.size();
}

double f1_of_normalized(std::string_view prediction, std::string_view gold,
                        bool empty_matches_empty) {
  const std::vector<std::string_view> a = split_words(prediction), b = split_words(gold);
  if (empty_matches_empty && (a.empty() || b.empty())) return a.empty() && b.empty() ? 1 : 0;
  const auto common = static_cast<double>(common_words(a, b));
  if (common == 0) return 0;
  const double precision = common / static_cast<double>(a.size()),
               recall = common / static_cast<double>(b.size());
  return 2 * precision * recall / (precision + recall);
}

}  // namespace

std::string normalize_answer(std::string_view text) {
  std::string lower = python_lower(text);
  std::erase_if(lower, is_ascii_punctuation);
  const std::string bare = without_articles(lower);
  std::string joined;
  for (const std::string_view word : split_words(bare)) {
    if (!joined.empty()) joined += ' ';
    joined += word;
  }
  return joined;
}

QuestionScore score_v1(std::string_view prediction, std::span<const SquadAnswer> golds) {
  const std::string found = normalize_answer(prediction);
  QuestionScore best;
  for (const SquadAnswer& gold : golds) {
    const std::string expected = normalize_answer(gold.text);
    best.exact = std::max(best.exact, found == expected ? 1.0 : 0.0);
    best.f1 = std::max(best.f1, f1_of_normalized(found, expected, /*empty_matches_empty=*/false));
  }
  return best;
}

QuestionScore score_v2(std::string_view prediction, std::span<const SquadAnswer> golds) {
  const std::string found = normalize_answer(prediction);
  QuestionScore best;
  bool any = false;
  auto consider = [&](const std::string& expected) {
    best.exact = std::max(best.exact, found == expected ? 1.0 : 0.0);
    best.f1 = std::max(best.f1, f1_of_normalized(found, expected, /*empty_matches_empty=*/true));
    any = true;
  };
  for (const SquadAnswer& gold : golds) {
    const std::string expected = normalize_answer(gold.text);
    if (!expected.empty()) consider(expected);
  }
  if (!any) consider("");
  return best;
}

SquadScores score_predictions(const std::string& references, const std::string& predictions,
                              bool version_2) {
  const Json answers = parse_json(read_file(predictions, kMaxPredictionBytes), predictions,
                                  {4, kMaxPredictionBytes});
  QALOF_CHECK(answers.is_object(), ErrorKind::kBadInput,
              "{}: found {}, expected an object of ids to texts", predictions, answers.type_name());
  version_2 = version_2 || scan_squad(references).has_is_impossible;
  SquadScores scores;
  double exact = 0, f1 = 0;
  // The v2.0 script stores scores by id, so of questions with one id the last counts.
  std::unordered_map<std::string, QuestionScore> by_id;
  std::unordered_set<std::string> seen;
  read_squad(references, [&](SquadParagraph&& paragraph) {
    for (const SquadQuestion& question : paragraph.questions) {
      if (!seen.insert(question.id).second) ++scores.repeated;
      const auto it = answers.find(question.id);
      if (it == answers.end()) {
        ++scores.missing;
        if (!version_2) ++scores.total;
        continue;
      }
      QALOF_CHECK(it->is_string(), ErrorKind::kBadInput, "{}: \"{:.60}\" is {}, expected a text{}",
                  predictions, question.id, it->type_name(),
                  it->is_array() ? "; n-best files hold lists, predictions stand beside them" : "");
      const auto& text = it->get_ref<const std::string&>();
      QuestionScore score;
      if (version_2) {
        score = score_v2(text, question.answers);
        const auto [known, is_new] = by_id.try_emplace(question.id);
        scores.total += is_new ? 1 : 0;
        exact -= known->second.exact;
        f1 -= known->second.f1;
        known->second = score;
      } else {
        score = score_v1(text, question.answers);
        ++scores.total;
      }
      exact += score.exact;
      f1 += score.f1;
    }
    return true;
  });
  if (scores.total > 0) {
    scores.exact_match = 100 * exact / static_cast<double>(scores.total);
    scores.f1 = 100 * f1 / static_cast<double>(scores.total);
  }
  return scores;
}

}  // namespace qalof::text
