// Names to executions: adapters, plans, precisions, and the variants that are kept ready.
#include "serve/catalog.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "core/ascii.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/memory.h"
#include "quant/random_precision.h"

namespace qalof::serve {

namespace {

constexpr std::size_t kMaxNameBytes = 64;
// Of a plan in a request: patterns are compiled and matched with every linear.
constexpr std::size_t kMaxRules = 64;
// Of a directory that a client has loaded.
constexpr std::size_t kMaxEntries = 1000;

// What went wrong in our own functions, as a client is told.
template <typename Body>
auto told_to_client(const char* param, const Body& body) {
  try {
    return body();
  } catch (const Error& error) {
    switch (error.kind()) {
      case ErrorKind::kUsage:
      case ErrorKind::kBadInput:
      case ErrorKind::kCorruptFile:
      case ErrorKind::kUnsupported:
        throw ApiError(400, error.what(), param);
      case ErrorKind::kNotFound:
        throw ApiError(404, error.what(), param);
      case ErrorKind::kResource:
        throw ApiError(503, error.what(), param);
      default:
        throw ApiError(500, error.what(), param);
    }
  }
}

bool is_name(const std::string& text) {
  return !text.empty() && text.size() <= kMaxNameBytes && text.front() != '.' &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

// The last part of a path that has a name: "SmolLM2" of "models/SmolLM2/".
std::string name_of_path(const std::string& path) {
  std::filesystem::path given = std::filesystem::absolute(path).lexically_normal();
  if (given.filename().empty()) given = given.parent_path();
  std::string name = given.filename().string();
  for (char& c : name) {
    if (!is_name(std::string("a") + c)) c = '-';
  }
  if (name.empty() || name.front() == '.') name = "model";
  return name.substr(0, kMaxNameBytes);
}

// A directory below another, with every link in it leading below it too.
std::string confined_path(const std::string& directory, const std::string& asked) {
  namespace fs = std::filesystem;
  const ApiError refusal(400,
                         "lora_path: expected a directory below the one that the service loads "
                         "adapters from, given relative to it",
                         "lora_path");
  if (asked.empty() || asked.size() > 1024 || asked.find('\0') != std::string::npos) throw refusal;
  std::error_code failed;
  const fs::path root = fs::canonical(directory, failed);
  if (failed) throw ApiError(500, "the directory of adapters cannot be read");
  const auto is_below = [&](const fs::path& path) {
    const auto [at_root, at_path] =
        std::mismatch(root.begin(), root.end(), path.begin(), path.end());
    return at_root == root.end() && at_path != path.end();
  };
  const fs::path relative(asked);
  if (relative.is_absolute()) throw refusal;
  for (const fs::path& part : relative) {
    if (part == "..") throw refusal;
  }
  const fs::path found = fs::canonical(root / relative, failed);
  if (failed || !is_below(found) || !fs::is_directory(found, failed)) throw refusal;
  std::size_t entries = 0;
  fs::recursive_directory_iterator walk(found, failed), end;
  for (; !failed && walk != end; walk.increment(failed)) {
    if (++entries > kMaxEntries || walk.depth() > 4) throw refusal;
    if (!walk->is_symlink(failed)) continue;
    const fs::path target = fs::canonical(walk->path(), failed);
    if (failed || !is_below(target)) throw refusal;
  }
  if (failed) throw refusal;
  return found.string();
}

// Scales not counted: 8 of "kv8".
double mean_kv_bits(const runtime::KvPrecision& kv) {
  double sum = 0, count = 0;
  for (const auto* side : {&kv.k_bits, &kv.v_bits}) {
    for (const std::vector<int>& heads : *side) {
      for (const int bits : heads) sum += bits;
      count += static_cast<double>(heads.size());
    }
  }
  return sum / count;
}

class QuietWarnings final : public Observer {};

}  // namespace

ApiError unknown_model(const std::string& name) {
  return ApiError(404,
                  fmt::format("the model `{}` does not exist; GET /v1/models lists those that do",
                              printable(name.substr(0, 100))),
                  "model", "model_not_found");
}

std::pair<std::string, std::string> parse_named(const std::string& text, const std::string& flag) {
  const std::size_t equals = text.find('=');
  QALOF_CHECK(equals != std::string::npos && equals + 1 < text.size(), ErrorKind::kUsage,
              "{}: found {}, expected NAME=PATH", flag, text);
  std::string name = text.substr(0, equals);
  QALOF_CHECK(is_name(name), ErrorKind::kUsage,
              "{}: the name {} has other characters than letters, digits, '.', '_' and '-', begins "
              "with a dot, or has more than {}",
              flag, name, kMaxNameBytes);
  return {name, text.substr(equals + 1)};
}

Catalog::Catalog(const CatalogOptions& options, const Limits& limits, ThreadPool& pool,
                 Observer& observer)
    : options_(options),
      limits_(limits),
      pool_(pool),
      stored_(app::open_stored(options.model.model, options.model.threads, observer)),
      created_(std::time(nullptr)),
      draw_seed_(quant::system_seed()) {
  if (options_.name.empty()) options_.name = name_of_path(options_.model.model);
  QALOF_CHECK(is_name(options_.name), ErrorKind::kUsage,
              "--served_model_name: found {}, expected letters, digits, '.', '_' and '-'",
              options_.name);
  app::ModelOptions plain = options_.model;
  plain.precision.clear();
  plain.takes_random = false;
  encoder_ = std::make_unique<text::TextEncoder>(
      app::open_encoder(app::choose_run(stored_, nullptr, plain, observer), observer));
  find_chat(observer);
  for (const std::string& text : options_.plans) {
    const auto [name, path] = parse_named(text, "--plan");
    QALOF_CHECK(plans_.try_emplace(name, quant::parse_plan(path)).second, ErrorKind::kUsage,
                "--plan: the name {} appears twice", name);
    // Two meanings of one text would be silent.
    bool is_form = true;
    try {
      quant::parse_uniform_precision(name);
    } catch (const Error&) {
      is_form = false;
    }
    QALOF_CHECK(!is_form, ErrorKind::kUsage, "--plan: {} is a precision, expected another name",
                name);
  }
  for (const std::string& text : options_.adapters) {
    const auto [name, path] = parse_named(text, "--adapter");
    QALOF_CHECK(name != options_.name, ErrorKind::kUsage,
                "--adapter: the name {} is the base's own", name);
    QALOF_CHECK(adapters_.try_emplace(name, open_adapter(path, observer)).second, ErrorKind::kUsage,
                "--adapter: the name {} appears twice", name);
  }
  QALOF_CHECK(options_.loading_directory.empty() || is_directory(options_.loading_directory),
              ErrorKind::kNotFound, "{}: no such directory (--allow_adapter_loading)",
              options_.loading_directory);
  QALOF_CHECK(options_.elastic.empty() || options_.model.precision.empty(), ErrorKind::kUsage,
              "--elastic names the precisions of requests without their own, and so does "
              "--precision: give one of them");
  observer.status("packing weights");
  try {
    for (const std::string& form : options_.precisions) {
      if (!plans_.contains(form)) quant::parse_uniform_precision(form);
    }
    for (const std::string& name : names()) {
      VariantChoice choice;
      choice.model = name;
      for (const auto& ready : find(choice))
        observer.info(fmt::format("{}: {}", name, ready->execution->description()));
    }
  } catch (const ApiError& error) {
    fail(ErrorKind::kUsage, "{}", error.what());
  }
  observer.status("");
}

void Catalog::find_chat(Observer& observer) {
  no_chat_ = "it has no chat template; use /v1/completions";
  try {
    chat_ = stored_.packed ? text::find_chat_template(stored_.packed->files, stored_.path)
                           : text::find_chat_template(stored_.path);
  } catch (const Error& error) {  // completions are served all the same
    no_chat_ = error.what();
    observer.warn(fmt::format("{}: no chats are served: {}", options_.name, error.what()));
  }
  if (chat_) turn_end_ = text::turn_end(encoder_->tokenizer(), *chat_);
}

std::vector<std::int32_t> Catalog::chat_tokens(std::span<const text::ChatMessage> messages,
                                               bool add_generation_prompt) const {
  if (!chat_) {
    throw ApiError(400, fmt::format("the model `{}` takes no chats: {}", options_.name, no_chat_),
                   "model", "no_chat_template");
  }
  return told_to_client("messages", [&] {
    text::ChatOptions options;
    options.add_generation_prompt = add_generation_prompt;
    options.now = text::local_now();
    return text::encode_chat(encoder_->tokenizer(), chat_->render_marked(messages, options),
                             encoder_->parses_special())
        .ids;
  });
}

Catalog::Adapter Catalog::open_adapter(const std::string& path, Observer& observer) {
  Adapter adapter;
  adapter.set = app::open_adapters(stored_, path, observer);
  adapter.digest = app::adapters_sha256(*adapter.set);
  const std::lock_guard lock(mutex_);
  adapter.generation = next_generation_++;
  adapter.created = std::time(nullptr);
  return adapter;
}

std::vector<std::string> Catalog::precisions() const {
  std::vector<std::string> names = options_.precisions;
  if (names.empty()) {
    for (const int width : base().source().widths()) names.push_back(std::to_string(width));
  }
  if (names.empty()) names = {"2", "3", "4", "5", "6", "7", "8", "16", "32"};
  for (const std::string& plan : plan_names()) {
    if (std::find(names.begin(), names.end(), plan) == names.end()) names.push_back(plan);
  }
  return names;
}

std::string Catalog::default_precision() const {
  if (!options_.elastic.empty()) return options_.elastic.front();
  return options_.model.precision;
}

void Catalog::check_allowed(const std::string& form) const {
  if (options_.precisions.empty()) return;
  for (const std::string& allowed : options_.precisions) {
    if (!plans_.contains(allowed) &&
        quant::to_string(quant::parse_uniform_precision(allowed)) == form)
      return;
  }
  throw ApiError(400,
                 fmt::format("precision: {} is not offered, expected one of {}", form,
                             fmt::join(options_.precisions, ", ")),
                 "precision");
}

Catalog::Wanted Catalog::wanted_of_text(const std::string& text,
                                        const VariantChoice& choice) const {
  if (const auto found = plans_.find(text); found != plans_.end())
    return {"plan " + text, text, found->second};
  return told_to_client("precision", [&]() -> Wanted {
    if (quant::is_random_precision(text)) {
      const quant::RandomPrecision random = quant::parse_random_precision(text);
      for (const quant::UniformPrecision& one : random.set) check_allowed(quant::to_string(one));
      const quant::PrecisionDraws draws(choice.seed.value_or(draw_seed_), random.set.size());
      const std::uint64_t request =
          choice.seed ? 0 : draws_.fetch_add(1, std::memory_order_relaxed);
      const std::string drawn = quant::to_string(random.set[draws.of_request(request)]);
      return {drawn, drawn, quant::parse_plan(drawn)};
    }
    std::string form;
    try {
      form = quant::to_string(quant::parse_uniform_precision(text));
    } catch (const Error& error) {
      if (plans_.empty()) throw;
      fail(ErrorKind::kUsage, "{}, or a plan: {}", error.what(), fmt::join(plan_names(), ", "));
    }
    check_allowed(form);
    return {form, form, quant::parse_plan(form)};
  });
}

Catalog::Wanted Catalog::wanted_of(const Json& precision, const VariantChoice& choice) const {
  if (precision.is_string()) return wanted_of_text(precision.get<std::string>(), choice);
  if (!precision.is_object()) {
    throw ApiError(400,
                   fmt::format("precision: found {}, expected a text such as \"8\", the name of a "
                               "plan, or a plan as an object",
                               precision.type_name()),
                   "precision");
  }
  if (!options_.precisions.empty()) {
    throw ApiError(400,
                   "precision: plans of requests are not offered, expected one of the names "
                   "that the service was started with",
                   "precision");
  }
  return told_to_client("precision", [&]() -> Wanted {
    quant::PlanSpec plan = quant::plan_from_json(precision, "precision");
    QALOF_CHECK(plan.rules.size() <= kMaxRules, ErrorKind::kBadInput,
                "precision: {} rules, expected at most {}", plan.rules.size(), kMaxRules);
    // Another scheme would pack the whole model again.
    QALOF_CHECK(!plan.scheme, ErrorKind::kBadInput,
                "precision: a plan of a request has no scheme, found {}",
                quant::to_string(*plan.scheme));
    return {"custom " + quant::to_json(plan).dump(), "custom", std::move(plan)};
  });
}

std::vector<std::shared_ptr<const Variant>> Catalog::find(const VariantChoice& choice) {
  const std::string& model = choice.model.empty() ? options_.name : choice.model;
  std::vector<std::shared_ptr<const Variant>> result;
  if (choice.precision.is_null() && !options_.elastic.empty()) {
    for (const std::string& level : options_.elastic)
      result.push_back(variant(model, wanted_of_text(level, choice), choice.kv_bits));
  } else if (!choice.precision.is_null()) {
    result.push_back(variant(model, wanted_of(choice.precision, choice), choice.kv_bits));
  } else if (!options_.model.precision.empty() &&
             (plans_.contains(options_.model.precision) ||
              quant::is_random_precision(options_.model.precision))) {
    result.push_back(
        variant(model, wanted_of_text(options_.model.precision, choice), choice.kv_bits));
  } else {
    result.push_back(variant(model, {"default", "default", std::nullopt}, choice.kv_bits));
  }
  return result;
}

std::shared_ptr<const Variant> Catalog::variant(const std::string& model, const Wanted& wanted,
                                                std::optional<int> kv_bits) {
  if (kv_bits && !quant::is_legal(quant::BitWidth{*kv_bits})) {
    throw ApiError(400, fmt::format("kv_bits: found {}, expected 2..8, 16 or 32", *kv_bits),
                   "kv_bits");
  }
  // A copy: the adapter may be unloaded while this runs.
  std::optional<Adapter> adapter;
  std::string key;
  const auto look_up = [&]() -> std::shared_ptr<const Variant> {
    const auto found = ready_by_key_.find(key);
    if (found == ready_by_key_.end()) return nullptr;
    ready_.splice(ready_.begin(), ready_, found->second);
    return found->second->second;
  };
  {
    const std::lock_guard lock(mutex_);
    if (model != options_.name) {
      const auto found = adapters_.find(model);
      if (found == adapters_.end()) {
        throw unknown_model(model);
      }
      adapter = found->second;
    }
    key = fmt::format("{} {} {}", adapter ? adapter->generation : 0, kv_bits.value_or(0),
                      wanted.text);
    if (auto ready = look_up()) return ready;
  }
  const std::lock_guard making(making_);
  {
    const std::lock_guard lock(mutex_);
    if (auto ready = look_up()) return ready;
  }
  std::shared_ptr<const Variant> made = told_to_client("precision", [&] {
    return make_variant(model, adapter ? &*adapter : nullptr, wanted, kv_bits);
  });
  const std::lock_guard lock(mutex_);
  ready_.emplace_front(key, made);
  ready_by_key_[key] = ready_.begin();
  while (ready_.size() > limits_.variants) {
    ready_by_key_.erase(ready_.back().first);
    ready_.pop_back();
  }
  return made;
}

std::shared_ptr<const Variant> Catalog::make_variant(const std::string& model,
                                                     const Adapter* adapter, const Wanted& wanted,
                                                     std::optional<int> kv_bits) {
  QuietWarnings quiet;
  app::ModelOptions options = options_.model;
  options.takes_random = false;
  if (kv_bits) options.kv_bits = *kv_bits;
  if (wanted.plan) options.precision.clear();
  auto variant = std::make_shared<Variant>();
  variant->handle =
      app::choose_run(stored_, adapter == nullptr ? nullptr : adapter->set, options, quiet);
  if (wanted.plan) {
    const std::optional<quant::QuantScheme> scheme = variant->handle.plan.scheme;
    variant->handle.plan = *wanted.plan;
    if (!variant->handle.plan.scheme) variant->handle.plan.scheme = scheme;
    QALOF_CHECK(!stored_.packed || variant->handle.plan.scheme == scheme, ErrorKind::kUsage,
                "{}: the packed file holds scheme {}", wanted.text, quant::to_string(*scheme));
  }
  variant->execution = app::make_execution(variant->handle, pool_, quiet);
  const runtime::Execution& execution = *variant->execution;
  variant->model = model;
  if (adapter != nullptr) variant->adapter = model;
  variant->precision = quant::describe(execution.plan(), execution.base().target());
  variant->label = wanted.plan ? wanted.label : variant->precision;
  variant->kv_bits = mean_kv_bits(execution.kv());
  Sha256 key;
  const auto add = [&](const std::string& text) {
    key.update(std::as_bytes(std::span(text.data(), text.size() + 1)));
  };
  add(adapter == nullptr ? "" : adapter->digest);
  add(quant::to_json(variant->handle.plan).dump());
  add(fmt::format("{} {}", options.kv_bits, options.kv_scheme));
  variant->cache_key = key.finish();
  return variant;
}

Json Catalog::models() const {
  const std::lock_guard lock(mutex_);
  const auto entry = [&](const std::string& id, std::time_t created, const Json& parent) {
    return Json{{"id", id},
                {"object", parent.is_null() ? "model" : "adapter"},
                {"created", created},
                {"owned_by", "qalof"},
                {"root", options_.name},
                {"parent", parent},
                {"max_model_len", base().config().max_positions}};
  };
  Json data = Json::array({entry(options_.name, created_, nullptr)});
  for (const auto& [name, adapter] : adapters_)
    data.push_back(entry(name, adapter.created, options_.name));
  return {{"object", "list"}, {"data", data}};
}

std::vector<std::string> Catalog::adapter_names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, adapter] : adapters_) names.push_back(name);
  return names;
}

std::vector<std::string> Catalog::names() const {
  std::vector<std::string> names = adapter_names();
  names.insert(names.begin(), options_.name);
  return names;
}

std::vector<std::string> Catalog::plan_names() const {
  std::vector<std::string> names;
  for (const auto& [name, plan] : plans_) names.push_back(name);
  return names;
}

void Catalog::load_adapter(const std::string& name, const std::string& path) {
  if (!is_name(name)) {
    throw ApiError(400, "lora_name: expected up to 64 letters, digits, '.', '_' and '-'",
                   "lora_name");
  }
  if (name == options_.name) throw ApiError(400, "lora_name: is the base's own name", "lora_name");
  const std::string confined = confined_path(options_.loading_directory, path);
  QuietWarnings quiet;
  Adapter adapter = told_to_client("lora_path", [&] { return open_adapter(confined, quiet); });
  const std::lock_guard lock(mutex_);
  if (const auto old = adapters_.find(name); old != adapters_.end())
    forget_variants(old->second.generation);
  adapters_.insert_or_assign(name, std::move(adapter));
}

void Catalog::unload_adapter(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = adapters_.find(name);
  if (found == adapters_.end()) {
    throw ApiError(404, fmt::format("the adapter `{}` does not exist", printable(name)),
                   "lora_name", "model_not_found");
  }
  forget_variants(found->second.generation);
  adapters_.erase(found);
}

void Catalog::forget_variants(std::uint64_t generation) {
  const std::string prefix = fmt::format("{} ", generation);
  for (auto it = ready_.begin(); it != ready_.end();) {
    if (it->first.starts_with(prefix)) {
      ready_by_key_.erase(it->first);
      it = ready_.erase(it);
    } else {
      ++it;
    }
  }
}

}  // namespace qalof::serve
