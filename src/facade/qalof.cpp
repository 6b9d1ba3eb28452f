// The public library: handles over the functions that the program's commands call. Here are only
// the translation of types, what handles share, and what may leave as an exception.
#include "qalof/qalof.h"

#include <cmath>
#include <exception>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>

#include "app/continuation.h"
#include "app/generate.h"
#include "app/model_handle.h"
#include "core/error.h"
#include "core/finite.h"
#include "core/memory.h"
#include "kernels/isa.h"
#include "runtime/classifier.h"
#include "runtime/distribution.h"
#include "runtime/footprint.h"
#include "tasks/table.h"
#include "text/text_stream.h"
#include "text/unicode.h"

namespace qalof {

namespace {

// What a callback of the caller threw, on its way through our own handlers.
struct CallerException {
  std::exception_ptr inner;
};

// Runs a callback of the caller.
template <typename Callback>
auto call_back(const Callback& callback) {
  try {
    return callback();
  } catch (...) {
    throw CallerException{std::current_exception()};
  }
}

// Runs the body of a public function: nothing but Error, and what callbacks throw, leaves it.
template <typename Body>
auto guarded(const Body& body) {
  try {
    return body();
  } catch (const CallerException& exception) {
    std::rethrow_exception(exception.inner);
  } catch (const OutOfMemory& error) {
    throw Error(ErrorKind::kResource, error.what());
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::kResource, "out of memory");
  } catch (const std::length_error&) {  // a size that no memory has
    throw Error(ErrorKind::kResource, "out of memory");
  } catch (const std::exception& error) {
    throw Error(ErrorKind::kInternal, std::string("internal error: ") + error.what());
  }
}

class Warnings final : public Observer {
 public:
  void warn(std::string_view line) override { lines.emplace_back(line); }
  std::vector<std::string> lines;
};

StopReason public_reason(runtime::StopReason reason) {
  switch (reason) {
    case runtime::StopReason::kLength:
      return StopReason::kLength;
    case runtime::StopReason::kStopToken:
      return StopReason::kStopToken;
    case runtime::StopReason::kStopString:
      return StopReason::kStopString;
    case runtime::StopReason::kPositions:
      return StopReason::kPositions;
    case runtime::StopReason::kCancelled:
      break;
  }
  return StopReason::kCancelled;
}

runtime::GenerateOptions runtime_options(const GenerateOptions& options) {
  runtime::GenerateOptions result;
  result.max_new_tokens = options.max_new_tokens;
  result.sampling.temperature = options.temperature;
  result.sampling.top_k = options.top_k;
  result.sampling.top_p = options.top_p;
  result.sampling.seed = options.seed;
  result.stop_strings = options.stop;
  return result;
}

}  // namespace

struct Model::State {
  State(app::StoredModel opened, text::TextEncoder text_encoder, int threads)
      : stored(std::move(opened)), encoder(std::move(text_encoder)), pool(threads) {}

  app::StoredModel stored;
  text::TextEncoder encoder;
  std::vector<std::string> warnings;
  mutable ThreadPool pool;

  // The adapters of a directory, as long as a variant has them.
  struct OpenAdapters {
    std::weak_ptr<const weights::AdapterSet> set;
    std::vector<std::string> warnings;
  };
  mutable std::mutex mutex;
  mutable std::map<std::string, OpenAdapters> adapters;

  std::shared_ptr<const weights::AdapterSet> open_adapters(const std::string& path,
                                                           Observer& observer) const {
    const std::lock_guard lock(mutex);
    OpenAdapters& open = adapters[path];
    std::shared_ptr<const weights::AdapterSet> set = open.set.lock();
    if (!set) {
      Warnings found;
      set = app::open_adapters(stored, path, found);
      open = {set, std::move(found.lines)};
    }
    for (const std::string& line : open.warnings) observer.warn(line);
    return set;
  }
};

struct Variant::State {
  std::shared_ptr<const Model::State> model;
  app::ModelHandle handle;
  std::shared_ptr<const runtime::Execution> execution;
  std::vector<std::string> warnings;
};

std::string version() { return QALOF_VERSION; }

std::string instruction_set() {
  return guarded([] { return std::string(kernels::to_string(kernels::active_isa())); });
}

Model::Model(std::shared_ptr<const State> state) : state_(std::move(state)) {}

Model Model::open(const std::string& path, const ModelOptions& options) {
  return guarded([&] {
    const int threads = app::choose_threads(options.threads);
    Warnings warnings;
    app::StoredModel stored = app::open_stored(path, threads, warnings);
    app::ModelOptions model;
    model.parse_special = options.parse_special;
    text::TextEncoder encoder =
        app::open_encoder(app::choose_run(stored, nullptr, model, warnings), warnings);
    auto state = std::make_shared<State>(std::move(stored), std::move(encoder), threads);
    state->warnings = std::move(warnings.lines);
    return Model(std::move(state));
  });
}

Variant Model::variant(const VariantOptions& options) const {
  return guarded([&] {
    app::ModelOptions model;
    model.precision = options.precision;
    model.scheme = options.scheme;
    model.kv_bits = options.kv_bits;
    model.lm_head_bits = options.lm_head_bits;
    Warnings warnings;
    std::shared_ptr<const weights::AdapterSet> adapters;
    if (!options.adapter.empty()) adapters = state_->open_adapters(options.adapter, warnings);
    auto state = std::make_shared<Variant::State>();
    state->model = state_;
    state->handle = app::choose_run(state_->stored, std::move(adapters), model, warnings);
    state->execution = app::make_execution(state->handle, state_->pool, warnings);
    state->warnings = std::move(warnings.lines);
    return Variant(std::move(state));
  });
}

std::vector<std::int32_t> Model::encode(std::string_view text) const {
  return guarded([&] {
    text::check_utf8(text, "the text");
    return state_->encoder.encode(text).ids;
  });
}

std::string Model::decode(std::span<const std::int32_t> ids) const {
  return guarded([&] {
    text::TextStream stream;
    std::string text(stream.push(state_->encoder.tokenizer().decode({ids.begin(), ids.end()})));
    return text.append(stream.finish());
  });
}

const std::string& Model::path() const { return state_->stored.path; }
std::size_t Model::vocab_size() const { return state_->stored.base->config().vocab_size; }
std::size_t Model::max_positions() const { return state_->stored.base->config().max_positions; }
const std::vector<std::string>& Model::warnings() const { return state_->warnings; }

Variant::Variant(std::shared_ptr<const State> state) : state_(std::move(state)) {}

Generation Variant::generate(std::string_view prompt, const GenerateOptions& options) const {
  return guarded([&] {
    app::TextRequest request;
    request.prompt = prompt;
    request.generation = runtime_options(options);
    request.ignore_eos = options.ignore_eos;
    std::shared_ptr<const State> running = state_;  // lives until another is chosen
    if (options.variant_at) {
      request.generation.execution_at = [&](std::size_t token) -> const runtime::Execution& {
        running = call_back([&] { return options.variant_at(token).state_; });
        QALOF_CHECK(running->model == state_->model, ErrorKind::kUsage,
                    "variant_at: token {}: found a variant of another open model", token);
        return *running->execution;
      };
    }
    runtime::TextCallback on_text;
    if (options.on_text) {
      on_text = [&](std::string_view piece) {
        return call_back([&] { return options.on_text(piece); });
      };
    }
    Warnings warnings;
    runtime::Generation made = app::generate_text(*state_->execution, state_->model->encoder,
                                                  request, state_->model->pool, on_text, warnings);
    Generation result;
    result.text = std::move(made.text);
    result.ids = std::move(made.ids);
    result.reason = public_reason(made.reason);
    result.prompt_tokens = made.prompt_tokens;
    result.prefill_seconds = made.prefill_seconds;
    result.decode_seconds = made.decode_seconds;
    result.kv_bytes = made.kv_bytes;
    result.warnings = std::move(warnings.lines);
    return result;
  });
}

ContinuationScore Variant::score(std::string_view context, std::string_view continuation) const {
  return guarded([&] {
    app::ContinuationScore found = app::score_continuation(
        *state_->execution, state_->model->encoder, context, continuation, state_->model->pool);
    return ContinuationScore{found.log_likelihood, std::move(found.ids),
                             std::move(found.token_log_likelihoods)};
  });
}

TextScore Variant::score_texts(std::span<const std::string> texts,
                               const TextScoreOptions& options) const {
  return guarded([&] {
    for (const std::string& text : texts) text::check_utf8(text, "a text");
    tasks::Lm lm;
    lm.stride = options.stride;
    tasks::DataOptions data;
    data.file = "the texts";  // their name in messages
    if (options.max_seq_length > 0) data.max_seq_length = options.max_seq_length;
    Warnings warnings;
    const runtime::RequestExecutions executions(*state_->execution);
    const std::vector<std::string_view> documents(texts.begin(), texts.end());
    const tasks::Scores found =
        lm.score_documents({app::make_reading(state_->handle, state_->model->encoder, warnings),
                            executions, state_->model->pool},
                           documents, data);
    return TextScore{found.at("eval_loss"), found.at("perplexity"), found.tokens};
  });
}

Answer Variant::answer(std::string_view question, std::string_view context,
                       const AnswerOptions& options) const {
  return guarded([&] {
    tasks::Qa qa;
    qa.doc_stride = options.doc_stride;
    qa.decode.max_answer_length = options.max_answer_length;
    qa.decode.version_2_with_negative = options.may_be_missing;
    Warnings warnings;
    const runtime::RequestExecutions executions(*state_->execution);
    text::SpanPrediction found =
        qa.answer({app::make_reading(state_->handle, state_->model->encoder, warnings), executions,
                   state_->model->pool},
                  std::string(question), std::string(context), options.max_seq_length);
    Answer answer;
    answer.text = std::move(found.text);
    for (const text::SpanCandidate& candidate : found.n_best) {
      if (candidate.text != answer.text) continue;
      answer.probability = candidate.probability;
      break;
    }
    return answer;
  });
}

std::vector<ClassProbability> Variant::classify(std::string_view text,
                                                std::size_t max_tokens) const {
  return guarded([&] {
    text::check_utf8(text, "the text");
    const runtime::Execution& execution = *state_->execution;
    const std::size_t classes = runtime::num_classes(execution);
    const std::vector<std::int32_t> ids = state_->model->encoder.encode_cut(
        text, std::min(max_tokens, state_->model->stored.base->config().max_positions));
    QALOF_CHECK(!ids.empty(), ErrorKind::kBadInput, "the text has no tokens");
    const runtime::Sequence sequence{ids};
    runtime::ClassifierWorkspace workspace;
    std::vector<float> logits;
    runtime::class_logits(execution, {&sequence, 1}, workspace, logits, state_->model->pool);
    check_finite(logits, "a logit", [&] { return "the text at " + execution.description(); });
    std::vector<double> logs;
    runtime::log_softmax(logits, 1, 0, 1.0, logs);
    const std::vector<std::string> names = app::label_names(state_->handle, classes);
    std::vector<ClassProbability> result;
    for (std::size_t i = 0; i < classes; ++i)
      result.push_back({names.empty() ? "" : names[i], std::exp(logs[i])});
    return result;
  });
}

const std::string& Variant::precision() const { return state_->execution->description(); }

WeightBytes Variant::bytes() const {
  const runtime::Footprint found = runtime::measure_footprint(*state_->execution);
  return {found.linear_bytes, found.adapter_bytes, found.other_bytes, found.total_bytes};
}

EffectiveBits Variant::bits() const {
  const runtime::Footprint found = runtime::measure_footprint(*state_->execution);
  return {found.bits_per_weight, found.bits_per_activation, found.bits_per_kv};
}

const std::vector<std::string>& Variant::warnings() const { return state_->warnings; }

}  // namespace qalof
