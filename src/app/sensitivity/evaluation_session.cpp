// Opens what an analysis needs, and describes it as the identity that guards resumed runs.
#include "app/sensitivity/evaluation_session.h"

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "kernels/isa.h"
#include "tasks/batch.h"

namespace qalof::app {

namespace {

// Bytes of the states before every layer that are kept for a batch.
constexpr std::size_t kMaxStateBytes = std::size_t{512} << 20;

ModelHandle open_high(const SensitivityOptions& options, Observer& observer) {
  QALOF_CHECK(path_exists(options.data.file), ErrorKind::kNotFound, "{}: no such file",
              options.data.file);
  ModelOptions model = options.model;
  model.precision = options.high;
  return open_model(model, observer);
}

}  // namespace

EvaluationSession::EvaluationSession(const SensitivityOptions& options, Observer& observer)
    : options_(options),
      observer_(observer),
      handle_(open_high(options, observer)),
      encoder_(open_encoder(handle_, observer)),
      pool_(choose_threads(options.model.threads)) {}

Json EvaluationSession::identity() const {
  const tasks::DataOptions& data = options_.data;
  Json json = {
      {"base_sha256", handle_.base->source().sha256()},
      {"adapters_sha256", handle_.adapters ? Json(adapters_sha256(*handle_.adapters)) : Json()},
      {"validation_file_sha256", sha256_of_file(data.file)},
      {"task", options_.task},
      {"max_eval_samples", data.max_samples},
      {"max_seq_length", data.max_seq_length.value_or(tasks::kDefaultLength)},
      {"scheme", quant::to_string(handle_.plan.scheme.value_or(quant::QuantScheme{}))},
      {"kv_scheme", runtime::to_string(handle_.execution.kv_scheme)},
      {"high", options_.high},
      {"isa", kernels::to_string(kernels::active_isa())}};
  task().identify(reading(), json);
  if (!encoder_.is_plain()) json["special_tokens"] = special_tokens();
  return json;
}

const weights::Head& EvaluationSession::head(const runtime::Execution& execution) const {
  const weights::Head* head = execution.head(task().head_kind());
  QALOF_CHECK(head != nullptr, ErrorKind::kBadInput,
              "{}: neither the model nor an adapter holds a head of --task {}; train one or give "
              "--adapter",
              options_.model.model, options_.task);
  return *head;
}

std::unique_ptr<tasks::SampleReader> EvaluationSession::reader(const weights::Head& head) const {
  return task().samples(reading(), options_.data, head.outputs);
}

std::size_t EvaluationSession::batch_tokens() const {
  const model::ModelConfig& config = handle_.base->config();
  const std::size_t row = config.num_layers * config.hidden * sizeof(float);
  return std::clamp<std::size_t>(kMaxStateBytes / row, 1, tasks::kBatchTokens);
}

}  // namespace qalof::app
