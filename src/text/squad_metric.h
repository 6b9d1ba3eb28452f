// The official SQuAD scores: exact match and F1 on normalized text, by Python's Unicode rules.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "text/squad.h"

namespace qalof::text {

/// Lower case, ASCII punctuation removed, articles (a, an, the) removed, white space joined to
/// single spaces.
std::string normalize_answer(std::string_view text);

struct QuestionScore {
  double exact = 0, f1 = 0;  // 0 to 1
};
/// v1.1: the best score over the gold answers; 0 where there are none.
QuestionScore score_v1(std::string_view prediction, std::span<const SquadAnswer> golds);
/// v2.0: golds that normalize to nothing are dropped; without golds the empty prediction is
/// correct.
QuestionScore score_v2(std::string_view prediction, std::span<const SquadAnswer> golds);

struct SquadScores {
  double exact_match = 0, f1 = 0;  // 0-100
  std::uint64_t total = 0;
  std::uint64_t missing =
      0;  // questions without a prediction: count as 0 in v1.1, left out in v2.0
  std::uint64_t repeated = 0;  // questions with an earlier id: v1.1 counts all, v2.0 the last
};
/// Scores a file of {"id": "text"} predictions against a SQuAD file; v2.0 rules where a question
/// has is_impossible or version_2 is set.
SquadScores score_predictions(const std::string& references, const std::string& predictions,
                              bool version_2);

}  // namespace qalof::text
