// The options of question answering. See qa.h.
#include "tasks/qa/qa.h"

#include "core/error.h"

namespace qalof::tasks {

void Qa::list_windows(OptionList& list) {
  list.option("--doc_stride", doc_stride, "qa: overlap of neighbouring windows in tokens");
}

void Qa::list_training(OptionList& list) {
  list.option("--separator", separator, "qa: token id between question and context; -1 = none",
              "-1");
}

void Qa::list_scoring(OptionList& list, bool all) {
  if (all) list.option("--n_best_size", decode.n_best_size, "qa: candidates kept per question");
  list.option("--max_answer_length", decode.max_answer_length, "qa: longest answer in tokens");
  list.flag("--version_2_with_negative", decode.version_2_with_negative,
            "qa: questions may have no answer");
  if (!all) return;
  list.option("--null_score_diff_threshold", decode.null_score_diff_threshold,
              "qa: no answer where its score exceeds the best by more");
  list.flag("--hf_compat_null", decode.hf_compat_null,
            "qa: the null index as run_qa.py chooses it");
}

void Qa::check_length(std::size_t length) const {
  QALOF_CHECK(doc_stride + 2 <= length, ErrorKind::kUsage,
              "--doc_stride {} leaves no room in --max_seq_length {}", doc_stride, length);
}

void Qa::identify(const Reading& reading, Json& identity) const {
  const std::optional<std::int32_t> used = reading.separator ? reading.separator : separator;
  identity["doc_stride"] = doc_stride;
  identity["separator"] = used ? Json(*used) : Json();
  identity["n_best_size"] = decode.n_best_size;
  identity["max_answer_length"] = decode.max_answer_length;
  identity["version_2_with_negative"] = decode.version_2_with_negative;
}

text::SpanFeatureOptions Qa::features(const Reading& reading, const DataOptions& data,
                                      bool* was_cut) const {
  text::SpanFeatureOptions features;
  features.max_seq_length = data.max_seq_length.value_or(kDefaultLength);
  features.doc_stride = doc_stride;
  features.separator = reading.separator ? reading.separator : separator;
  const bool cut = text::fit_windows(features, reading.positions);
  if (was_cut != nullptr) *was_cut = cut;
  return features;
}

}  // namespace qalof::tasks
