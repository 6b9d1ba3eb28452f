// ROUGE-L of a text against a reference, as the Python package rouge_score computes it without
// stemming (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3).
#pragma once

#include <string_view>

namespace qalof::text {

/// F-measure of the longest common subsequence of words, 0 to 1; words are runs of ASCII letters
/// and digits, in lower case. 0 where either text has no word. Texts beyond 4,096 words are cut.
double rouge_l(std::string_view text, std::string_view reference);

}  // namespace qalof::text
