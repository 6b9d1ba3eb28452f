// Chooses plan, scheme, adapters and KV precision from flags, plan files and packed files.
#include "app/model_handle.h"

#include <algorithm>
#include <cstdlib>

#include "app/hub.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "io/adapter_dir.h"
#include "text/chat_template.h"

namespace qalof::app {

int choose_threads(int requested) {
  if (requested == 0) {
    if (const char* text = std::getenv("QALOF_THREADS"); text != nullptr && *text != '\0') {
      char* end = nullptr;
      const long value = std::strtol(text, &end, 10);
      QALOF_CHECK(*end == '\0' && value >= 1 && value <= 1024, ErrorKind::kUsage,
                  "QALOF_THREADS: found {}, expected 1..1024", text);
      return static_cast<int>(value);
    }
    return available_threads();
  }
  QALOF_CHECK(requested >= 1 && requested <= 1024, ErrorKind::kUsage,
              "--threads: found {}, expected 1..1024", requested);
  return requested;
}

namespace {

// The flag's, the plan file's, the packed file's (stored) or the adapter's, else minmax.
quant::QuantScheme choose_scheme(const ModelOptions& options, const std::string& model,
                                 const ModelHandle& handle,
                                 std::optional<quant::QuantScheme> stored, Observer& observer) {
  std::optional<quant::QuantScheme> scheme = handle.plan.scheme;
  if (!options.scheme.empty()) {
    const quant::QuantScheme asked = quant::parse_scheme(options.scheme, "--scheme");
    QALOF_CHECK(!scheme || *scheme == asked, ErrorKind::kUsage,
                "{}: scheme {} contradicts --scheme {}", handle.plan.source,
                quant::to_string(*scheme), options.scheme);
    scheme = asked;
  }
  if (!scheme) scheme = stored;
  QALOF_CHECK(!stored || *scheme == *stored, ErrorKind::kUsage,
              "{}: is packed in scheme {}, found {}", model, quant::to_string(*stored),
              quant::to_string(*scheme));
  const std::optional<quant::QuantScheme> trained =
      handle.adapters == nullptr ? std::nullopt : handle.adapters->scheme;
  if (!scheme) scheme = trained.value_or(quant::QuantScheme{});
  if (trained && *trained != *scheme) {
    observer.warn(fmt::format("{}: was trained in scheme {}, runs in {}", handle.adapters->path,
                              quant::to_string(*trained), quant::to_string(*scheme)));
  }
  return *scheme;
}

}  // namespace

void check_adapter_path(const std::string& path) {
  QALOF_CHECK(!weights::is_packed_file(path), ErrorKind::kBadInput,
              "{}: is a packed file, which holds its adapters; give it as --model_name_or_path",
              path);
  QALOF_CHECK(!path_exists(path) || is_directory(path), ErrorKind::kBadInput,
              "{}: is a file, expected a directory of adapters: a training output or a PEFT "
              "directory",
              path);
  QALOF_CHECK(io::holds_adapters(path) || !path_exists(path + "/config.json"), ErrorKind::kBadInput,
              "{}: is a model directory, not one of adapters; give it as --model_name_or_path",
              path);
}

StoredModel open_stored(const std::string& given, int threads, Observer& observer) {
  QALOF_CHECK(!given.empty(), ErrorKind::kUsage, "--model_name_or_path is missing");
  const std::string path = local_path(given, io::HubUse::kModel, observer);
  QALOF_CHECK(path_exists(path), ErrorKind::kNotFound,
              "{}: no such model directory or packed file, nor a name on the hub (org/name)", path);
  observer.status("opening " + path);
  StoredModel stored{path, nullptr, std::nullopt};
  if (weights::is_packed_file(path)) {
    ThreadPool pool(choose_threads(threads));
    stored.packed = weights::open_packed_file(path, pool);
    stored.base = stored.packed->base;
  } else {
    stored.base = weights::BaseModel::load_directory(path);
  }
  for (const std::string& warning : stored.base->warnings()) observer.warn(warning);
  if (stored.base->config().has_dropout) {
    observer.info(
        "dropout in the model's config is ignored: training and evaluation run without it");
  }
  return stored;
}

std::shared_ptr<const weights::AdapterSet> open_adapters(const StoredModel& stored,
                                                         const std::string& given,
                                                         Observer& observer) {
  const std::string path = local_path(given, io::HubUse::kAdapter, observer);
  if (stored.packed) {
    QALOF_CHECK(stored.packed->method != "smoothquant", ErrorKind::kUsage,
                "{}: its activations were smoothed, so that adapters of the model do not fit; pack "
                "{} with it (quantize --adapter)",
                stored.path, path);
    QALOF_CHECK(!stored.packed->has_adapter_weights, ErrorKind::kUsage,
                "{}: its weights are those of the adapters in it, so that others do not fit; pack "
                "{} into a file of its own (quantize --adapter)",
                stored.path, path);
  }
  check_adapter_path(path);
  auto adapters = std::make_shared<const weights::AdapterSet>(
      weights::load_adapters(path, stored.base->config()));
  for (const std::string& warning : adapters->warnings) observer.warn(warning);
  const std::string& trained_on = adapters->base_sha256;
  if (!trained_on.empty() && trained_on != stored.base->source().sha256()) {
    observer.warn(
        fmt::format("{}: was trained on another base (sha256 {:.12}..., this one is {:.12}...)",
                    path, trained_on, stored.base->source().sha256()));
  }
  return adapters;
}

ModelHandle choose_run(const StoredModel& stored,
                       std::shared_ptr<const weights::AdapterSet> adapters,
                       const ModelOptions& options, Observer& observer) {
  ModelHandle handle;
  handle.base = stored.base;
  handle.parse_special = options.parse_special;
  handle.execution.kv_scheme = runtime::parse_kv_scheme(options.kv_scheme);
  if (options.lm_head_bits != 0) {
    handle.execution.lm_head = quant::BitWidth{options.lm_head_bits};
    weights::lm_head_precision(*handle.execution.lm_head);  // throws for a width without one
  }
  if (options.kv_bits != 0) {
    handle.kv_bits = quant::BitWidth{options.kv_bits};
    QALOF_CHECK(quant::is_legal(*handle.kv_bits), ErrorKind::kUsage,
                "--kv_bits: found {}, expected 2..8, 16 or 32", options.kv_bits);
  }
  std::optional<quant::PlanSpec> plan;
  std::optional<quant::QuantScheme> stored_scheme;
  if (const std::optional<weights::PackedModel>& packed = stored.packed) {
    handle.adapters = packed->adapters;
    handle.packed_files = packed->files;
    plan = packed->plan;
    stored_scheme = plan->scheme;
    plan->scheme.reset();
    if (!handle.execution.lm_head && !packed->lm_head_bits.empty())
      handle.execution.lm_head = quant::BitWidth{packed->lm_head_bits.front()};
  }
  if (adapters) {
    if (adapters->plan) {
      plan = quant::plan_from_json(*adapters->plan, adapters->path + "/qalof.json: plan");
      plan->scheme.reset();  // adapters->scheme is weaker: another may be chosen, with a warning
    }
    handle.adapters = std::move(adapters);
  }
  const quant::DrawnWidths drawn = quant::parse_drawn_widths(options.random_widths);
  if (options.takes_random && quant::is_random_precision(options.precision)) {
    handle.random = quant::parse_random_precision(options.precision);
    handle.random->drawn = drawn;
    handle.random_seed = options.random_seed;
    plan = quant::list_plans(*handle.random).front();
  } else if (!options.precision.empty()) {
    plan = quant::parse_plan(options.precision);
  }
  QALOF_CHECK(handle.random || drawn == quant::DrawnWidths::kRequest, ErrorKind::kUsage,
              "--random_widths {}: nothing is drawn, expected --precision random:4,8 or the like",
              options.random_widths);
  handle.plan = plan ? *plan : quant::parse_plan("32");
  handle.plan.scheme = choose_scheme(options, stored.path, handle, stored_scheme, observer);
  observer.status("");
  return handle;
}

ModelHandle open_model(const ModelOptions& options, Observer& observer) {
  const StoredModel stored = open_stored(options.model, options.threads, observer);
  stored.base->share_packed(options.shared_memory);
  std::shared_ptr<const weights::AdapterSet> adapters;
  if (!options.adapter.empty()) adapters = open_adapters(stored, options.adapter, observer);
  return choose_run(stored, std::move(adapters), options, observer);
}

text::BpeTokenizer open_tokenizer(const ModelHandle& handle, Observer* observer) {
  const std::string& path = handle.base->path();
  text::BpeTokenizer tokenizer = handle.packed_files.empty()
                                     ? text::BpeTokenizer::load(path)
                                     : text::BpeTokenizer::from_files(handle.packed_files, path);
  for (const std::string& warning : tokenizer.warnings()) {
    if (observer != nullptr) observer->warn(warning);
  }
  return tokenizer;
}

text::TextEncoder open_encoder(const ModelHandle& handle, Observer& observer) {
  text::TextEncoder encoder(open_tokenizer(handle, &observer), handle.parse_special);
  const std::string& path = handle.base->path();
  encoder.set_chat_files(
      handle.packed_files.empty() ? text::chat_template_files(path) : handle.packed_files, path);
  const text::TextTemplate& around = encoder.text_template();
  if (around.size() > 0) {
    const auto shown = [&](const std::vector<std::int32_t>& ids) {
      std::string text;
      for (const std::int32_t id : ids)
        text += fmt::format(" {} ({})", encoder.tokenizer().piece(id), id);
      return text.empty() ? " nothing" : text;
    };
    observer.info(fmt::format("{}: the tokenizer puts{} before a text and{} after it",
                              handle.base->path(), shown(around.before), shown(around.after)));
  }
  return encoder;
}

tasks::Reading make_reading(const ModelHandle& handle, const text::TextEncoder& encoder,
                            Observer& observer) {
  tasks::Reading reading{encoder, handle.base->config().max_positions, observer};
  if (handle.adapters) reading.separator = handle.adapters->separator;
  return reading;
}

std::vector<std::string> label_names(const ModelHandle& handle, std::size_t num_classes) {
  if (handle.adapters && handle.adapters->label_names.size() == num_classes)
    return handle.adapters->label_names;
  const Json& config = handle.base->config().raw;
  std::vector<std::string> names;
  const auto stored = config.find("id2label");
  if (stored == config.end() || !stored->is_object() || stored->size() != num_classes) return names;
  for (std::size_t label = 0; label < num_classes; ++label) {
    const auto name = stored->find(std::to_string(label));
    if (name == stored->end() || !name->is_string()) return {};
    names.push_back(name->get<std::string>());
  }
  return names;
}

std::string adapters_sha256(const weights::AdapterSet& set) {
  Sha256 hash;
  auto add = [&](const std::vector<float>& values) {
    hash.update(std::as_bytes(std::span(values)));
  };
  auto add_text = [&](const std::string& text) {
    hash.update(std::as_bytes(std::span(text.data(), text.size() + 1)));
  };
  for (const auto& [width, adapter] : set.by_width) {
    add_text(fmt::format("w{}", width));
    for (std::size_t i = 0; i < adapter->linears.size(); ++i) {
      const weights::LoraLinear* pair = adapter->linears[i].get();
      if (pair == nullptr) continue;
      add_text(fmt::format("{} {} {}", i, pair->rank(), pair->view().scaling));
      add(pair->a());
      add(pair->b());
    }
    for (const auto& head : {adapter->qa_head, adapter->class_head}) {
      if (!head) continue;
      add(head->weight);
      add(head->bias);
    }
    if (adapter->merged) add_text("merged");
    if (!adapter->learned) continue;
    const weights::LearnedQuantizers& learned = *adapter->learned;
    add_text(fmt::format("learned {} {}", learned.bits, quant::to_string(learned.scheme)));
    for (const weights::LearnedLinear& linear : learned.linears) {
      add(linear.steps);
      hash.update(std::as_bytes(std::span(linear.zeros)));
      add({linear.clip});
    }
  }
  return hash.finish();
}

namespace {

std::shared_ptr<const runtime::Execution> execution_of(const ModelHandle& handle,
                                                       const quant::PlanSpec& spec,
                                                       ParallelFor& parallel) {
  quant::PrecisionPlan plan = quant::resolve(spec, handle.base->target());
  if (handle.kv_bits) {
    for (auto* side : {&plan.k, &plan.v}) {
      for (std::vector<quant::BitWidth>& heads : *side)
        std::fill(heads.begin(), heads.end(), *handle.kv_bits);
    }
  }
  return runtime::Execution::create(handle.base, std::move(plan), handle.adapters, parallel,
                                    handle.execution);
}

}  // namespace

std::shared_ptr<const runtime::Execution> make_execution(const ModelHandle& handle,
                                                         ParallelFor& parallel,
                                                         Observer& observer) {
  observer.status("packing weights");
  auto execution = execution_of(handle, handle.plan, parallel);
  observer.status("");
  observer.info(fmt::format("precision {}", execution->description()));
  return execution;
}

std::shared_ptr<const runtime::Execution> make_drafting(const ModelHandle& handle,
                                                        const std::string& precision,
                                                        const runtime::Execution& drafted_for,
                                                        ParallelFor& parallel, Observer& observer) {
  observer.status("packing weights");
  // A width alone is one of weights: activations of 8 bits are as fast as those of fewer.
  const bool is_integer_width = precision.size() == 1 && precision[0] >= '2' && precision[0] <= '8';
  quant::PlanSpec spec = quant::parse_plan(is_integer_width ? "w" + precision + "a8" : precision);
  QALOF_CHECK(!spec.scheme || *spec.scheme == *handle.plan.scheme, ErrorKind::kUsage,
              "{}: scheme {} contradicts {}, in which the text is made", spec.source,
              quant::to_string(*spec.scheme), quant::to_string(*handle.plan.scheme));
  spec.scheme = handle.plan.scheme;
  quant::PrecisionPlan plan = quant::resolve(spec, handle.base->target());
  plan.k = drafted_for.plan().k;
  plan.v = drafted_for.plan().v;
  constexpr int kDraftHead = 8;
  runtime::ExecutionOptions options = handle.execution;
  options.lm_head = drafted_for.lm_head_width();
  if (options.lm_head->bits > kDraftHead && handle.base->source().widths().empty())
    options.lm_head = quant::BitWidth{kDraftHead};
  auto execution =
      runtime::Execution::create(handle.base, std::move(plan), handle.adapters, parallel, options);
  observer.status("");
  observer.info(fmt::format("drafts in {}", execution->description()));
  return execution;
}

runtime::RequestExecutions make_request_executions(const ModelHandle& handle, ParallelFor& parallel,
                                                   Observer& observer) {
  std::vector<std::shared_ptr<const runtime::Execution>> set;
  if (!handle.random) {
    set.push_back(make_execution(handle, parallel, observer));
    return runtime::RequestExecutions(std::move(set.front()));
  }
  observer.status("packing weights");
  for (quant::PlanSpec& spec : quant::list_plans(*handle.random)) {
    spec.scheme = handle.plan.scheme;
    set.push_back(execution_of(handle, spec, parallel));
  }
  observer.status("");
  const std::uint64_t seed = handle.random_seed ? *handle.random_seed : quant::system_seed();
  runtime::RequestExecutions requests(std::move(set), handle.random->drawn, seed,
                                      quant::to_string(*handle.random));
  observer.info(fmt::format("precision {}", requests.description()));
  return requests;
}

}  // namespace qalof::app
