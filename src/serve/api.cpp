// The table of routes, who may use them, and what each does.
#include "serve/api.h"

#include <arpa/inet.h>

#include <algorithm>

#include "core/error.h"
#include "quant/plan.h"
#include "serve/generation.h"
#include "serve/page.h"
#include "serve/scoring.h"
#include "text/unicode.h"

namespace qalof::serve {

namespace {

constexpr std::size_t kDefaultCompletionTokens = 16;  // OpenAI's
constexpr std::size_t kDefaultChatTokens = 1024;

std::string path_of(const std::string& target) { return target.substr(0, target.find('?')); }

constexpr std::string_view kModelPath = "/v1/models/{model}";
constexpr std::string_view kModelPrefix = kModelPath.substr(0, kModelPath.find('{'));

// A route's path, but that {model} stands for any one part.
bool is_path(const std::string& path, std::string_view route) {
  if (route != kModelPath) return path == route;
  return path.size() > kModelPrefix.size() && path.starts_with(kModelPrefix) &&
         path.find('/', kModelPrefix.size()) == std::string::npos;
}

// Host without port: "[::1]:8080" is "[::1]".
std::string host_name(const std::string& host) {
  if (host.starts_with('[')) return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.find(':'));
}

bool is_loopback_name(const std::string& name) {
  in_addr address{};
  return name == "localhost" || name == "[::1]" ||
         (name.starts_with("127.") && ::inet_pton(AF_INET, name.c_str(), &address) == 1);
}

// Refuses callers, but for public routes, which tell nothing: proxies ask them without a host.
void check_access(const HttpRequest& request, const Access& access, bool is_public) {
  if (is_public) return;
  if (access.is_loopback && access.keys.is_open() && !is_loopback_name(host_name(request.host))) {
    throw ApiError(421,
                   "the host is not a loopback address; start the service with --api_key_file to "
                   "serve other names",
                   "", "wrong_host");
  }
  if (!access.keys.accepts(request.authorization)) {
    throw ApiError(401, "a valid API key is needed: Authorization: Bearer KEY", "",
                   "invalid_api_key");
  }
  // Browsers send what they know of a host with the requests of any page.
  if (!request.origin.empty() && request.method == "POST") {
    const std::size_t scheme = request.origin.find("://");
    const std::string origin =
        scheme == std::string::npos ? request.origin : request.origin.substr(scheme + 3);
    if (origin != request.host)
      throw ApiError(403, "requests of pages of other origins are not taken", "", "wrong_origin");
  }
}

bool is_json_type(std::string type) {
  type = type.substr(0, type.find(';'));
  while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.pop_back();
  constexpr std::string_view kJson = "application/json";
  return std::equal(type.begin(), type.end(), kJson.begin(), kJson.end(),
                    [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a + 32 : a) == b; });
}

// Runs a handler; what it throws becomes the response.
template <typename Body>
void answered(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange,
              const Body& body) {
  try {
    body();
  } catch (const ApiError& error) {
    HttpResponse response = error_response(error);
    if (error.status == 401) {
      // Browsers ask for a key where a page needs one.
      response.headers.emplace_back(
          "WWW-Authenticate", path_of(request.target) == "/" ? "Basic realm=\"qalof\"" : "Bearer");
    }
    exchange->send(std::move(response));
  } catch (const Error& error) {
    const bool is_theirs = error.kind() == ErrorKind::kBadInput ||
                           error.kind() == ErrorKind::kUsage ||
                           error.kind() == ErrorKind::kUnsupported;
    exchange->send(error_response(ApiError(is_theirs ? 400 : 500, error.what())));
  } catch (const std::bad_alloc&) {
    exchange->send(error_response(ApiError(503, "out of memory")));
  } catch (const std::exception& error) {
    exchange->send(error_response(ApiError(500, std::string("internal error: ") + error.what())));
  }
}

}  // namespace

Api::Api(Catalog& catalog, Scheduler& scheduler, const Access& access, const Limits& limits,
         const HttpStats& http)
    : catalog_(catalog), scheduler_(scheduler), access_(access), limits_(limits), http_(http) {}

const std::vector<Api::Handled>& Api::table() {
  static const std::vector<Handled> all = {
      {{"GET", "/health", true, false}, &Api::health},
      {{"GET", "/", false, false}, &Api::page},
      {{"GET", "/v1/models", false, false}, &Api::models},
      {{"GET", kModelPath.data(), false, false}, &Api::model},
      {{"GET", "/info", false, false}, &Api::info},
      {{"GET", "/metrics", false, false}, &Api::metrics},
      {{"POST", "/v1/completions", false, true}, &Api::completions},
      {{"POST", "/v1/chat/completions", false, true}, &Api::chat},
      {{"POST", "/v1/answers", false, true}, &Api::answers},
      {{"POST", "/v1/classifications", false, true}, &Api::classifications},
      {{"POST", "/tokenize", false, true}, &Api::tokenize},
      {{"POST", "/detokenize", false, true}, &Api::detokenize},
      {{"POST", "/v1/load_lora_adapter", false, true}, &Api::load_adapter},
      {{"POST", "/v1/unload_lora_adapter", false, true}, &Api::unload_adapter}};
  return all;
}

std::span<const Route> Api::routes() {
  static const std::vector<Route> all = [] {
    std::vector<Route> list;
    for (const Handled& handled : table()) list.push_back(handled.route);
    return list;
  }();
  return all;
}

void Api::handle_loading(const HttpRequest& request, const Access& access,
                         const std::shared_ptr<Exchange>& exchange) {
  answered(request, exchange, [&] {
    const bool is_health = path_of(request.target) == "/health";
    check_access(request, access, is_health);
    if (is_health) exchange->record.route = "/health";
    throw ApiError(503, "the model is loading", "", "loading");
  });
}

void Api::handle(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  answered(request, exchange, [&] {
    const std::string path = path_of(request.target);
    const Handled* found = nullptr;
    std::string methods;
    for (const Handled& handled : table()) {
      if (!is_path(path, handled.route.path)) continue;
      methods = handled.route.method;
      exchange->record.route = handled.route.path;
      if (request.method == handled.route.method) found = &handled;
    }
    // Without a key, a client does not learn which routes exist.
    check_access(request, access_, found != nullptr && found->route.is_public);
    if (methods.empty()) {
      throw ApiError(404,
                     fmt::format("{} is no route of this service", printable(path.substr(0, 100))));
    }
    if (found == nullptr) {
      HttpResponse response = error_response(
          ApiError(405, fmt::format("{} takes {}", path, methods), "", "method_not_allowed"));
      response.headers.emplace_back("Allow", methods);
      exchange->send(std::move(response));
      return;
    }
    if (found->route.takes_json && !is_json_type(request.content_type)) {
      throw ApiError(415, fmt::format("Content-Type: found {}, expected application/json (curl: -H "
                                      "'Content-Type: application/json')",
                                      request.content_type.empty()
                                          ? "none"
                                          : printable(request.content_type.substr(0, 100))));
    }
    if (!found->route.takes_json && !request.body.empty())
      throw ApiError(400, fmt::format("{} takes no body", path));
    (this->*found->handler)(request, exchange);
  });
}

Scheduler::Clock::time_point Api::deadline() const {
  return Scheduler::Clock::now() + limits_.request_time;
}

void Api::health(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  exchange->send(json_response({{"status", "ok"}}));
}

void Api::models(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  exchange->send(json_response(catalog_.models()));
}

void Api::model(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const std::string id = path_of(request.target).substr(kModelPrefix.size());
  const Json all = catalog_.models();
  for (const Json& entry : all["data"]) {
    if (entry["id"] == id) return exchange->send(json_response(entry));
  }
  throw unknown_model(id);
}

// What the page needs to know of the model.
void Api::info(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  const weights::BaseModel& base = catalog_.base();
  Json linears = Json::array();
  for (const std::string& name : base.target().linear_names) linears.push_back(name);
  exchange->send(json_response({{"model", catalog_.name()},
                                {"models", catalog_.names()},
                                {"precisions", catalog_.precisions()},
                                {"fixed_precisions", catalog_.has_fixed_precisions()},
                                {"default_precision", catalog_.default_precision()},
                                {"elastic", catalog_.elastic()},
                                {"linears", linears},
                                {"linear_weights", base.target().linear_weights},
                                {"num_layers", base.config().num_layers},
                                {"vocab_size", base.config().vocab_size},
                                {"max_positions", base.config().max_positions},
                                {"has_chat_template", catalog_.has_chat_template()},
                                {"version", 1}}));
}

void Api::metrics(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = metrics_text(catalog_, scheduler_.stats(), http_.counts());
  exchange->send(std::move(response));
}

void Api::page(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  // The page needs nothing from elsewhere, and nothing else may speak for it.
  response.headers = {{"Content-Security-Policy",
                       "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src "
                       "'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
                       "form-action 'none'; frame-ancestors 'none'"},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cache-Control", "no-cache"}};
  response.body = page_html();
  exchange->send(std::move(response));
}

std::vector<std::int32_t> Api::prompt_tokens(const Prompt& prompt) const {
  const model::ModelConfig& config = catalog_.base().config();
  std::vector<std::int32_t> ids;
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    ids = catalog_.encoder().encode(*text).ids;
    if (ids.empty()) ids.push_back(static_cast<std::int32_t>(config.bos_token_id));
    return ids;
  }
  ids = std::get<std::vector<std::int32_t>>(prompt);
  const std::size_t known =
      std::min(config.vocab_size, catalog_.encoder().tokenizer().vocab_size());
  for (const std::int32_t id : ids) {
    if (static_cast<std::size_t>(id) < known) continue;
    throw ApiError(400, fmt::format("prompt: the token id {}, expected 0 to {}", id, known - 1),
                   "prompt");
  }
  return ids;
}

void Api::generate(GenerationPlan plan, const std::shared_ptr<Exchange>& exchange) {
  catalog_.base().require_lm_head();
  const std::size_t positions = catalog_.base().config().max_positions;
  std::size_t longest = 0;
  for (const auto& prompt : plan.prompts) longest = std::max(longest, prompt.size());
  const bool has_room = longest + plan.request.max_tokens.value_or(1) <= positions;
  if (!has_room) {
    throw ApiError(400,
                   fmt::format("the prompt has {} tokens and {} are asked for, the model has {} "
                               "positions",
                               longest, plan.request.max_tokens.value_or(1), positions),
                   plan.kind == ReplyKind::kChat ? "messages" : "prompt",
                   "context_length_exceeded");
  }
  const std::size_t otherwise =
      plan.kind == ReplyKind::kChat ? kDefaultChatTokens : kDefaultCompletionTokens;
  plan.max_tokens = plan.request.max_tokens.value_or(std::min(otherwise, positions - longest));
  exchange->record.model =
      plan.request.choice.model.empty() ? catalog_.name() : plan.request.choice.model;
  plan.variants = catalog_.find(plan.request.choice);
  if (plan.variants.size() > 1) plan.levels = catalog_.elastic();
  scheduler_.submit(make_generation(std::move(plan), catalog_, exchange), deadline());
}

void Api::completions(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  CompletionRequest parsed = parse_completion(request.body, limits_);
  check_model(parsed.choice.model);
  GenerationPlan plan;
  plan.echo = parsed.echo;
  for (const Prompt& prompt : parsed.prompts) {
    plan.prompts.push_back(prompt_tokens(prompt));
    if (!parsed.echo) continue;
    const auto* text = std::get_if<std::string>(&prompt);
    plan.prompt_texts.push_back(
        text != nullptr ? *text : catalog_.encoder().tokenizer().decode(plan.prompts.back()));
  }
  plan.request = std::move(parsed);
  generate(std::move(plan), exchange);
}

void Api::chat(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  ChatRequest parsed = parse_chat(request.body, limits_);
  check_model(parsed.choice.model);
  GenerationPlan plan;
  plan.kind = ReplyKind::kChat;
  plan.prompts.push_back(catalog_.chat_tokens(parsed.messages, parsed.add_generation_prompt));
  if (plan.prompts.front().empty())
    throw ApiError(400, "messages: the template makes no tokens of them", "messages");
  plan.request = std::move(parsed);
  generate(std::move(plan), exchange);
}

// Before the rest of a request costs anything.
void Api::check_model(const std::string& model) const {
  if (model.empty()) return;
  const std::vector<std::string> known = catalog_.names();
  if (std::find(known.begin(), known.end(), model) != known.end()) return;
  throw unknown_model(model);
}

void Api::answers(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const AnswerRequest parsed = parse_answer(request.body, limits_);
  scheduler_.submit(make_answer(parsed, catalog_.find(parsed.choice), catalog_, limits_, exchange),
                    deadline());
}

void Api::classifications(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const ClassificationRequest parsed = parse_classification(request.body, limits_);
  scheduler_.submit(make_classification(parsed, catalog_.find(parsed.choice), catalog_, exchange),
                    deadline());
}

void Api::tokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const TokenizeRequest parsed = parse_tokenize(request.body, limits_);
  check_model(parsed.model);
  const text::TextEncoder& encoder = catalog_.encoder();
  const std::vector<std::int32_t> ids =
      !parsed.messages.empty() ? catalog_.chat_tokens(parsed.messages, parsed.add_generation_prompt)
      : parsed.add_special_tokens ? encoder.encode(parsed.prompt).ids
                                  : encoder.encode_bare(parsed.prompt).ids;
  Json json = {{"tokens", ids},
               {"count", ids.size()},
               {"max_model_len", catalog_.base().config().max_positions}};
  if (parsed.return_token_strs) {
    Json texts = Json::array();
    for (const std::int32_t id : ids) texts.push_back(encoder.tokenizer().piece(id));
    json["token_strs"] = texts;
  }
  exchange->send(json_response(json));
}

void Api::detokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const DetokenizeRequest parsed = parse_detokenize(request.body, limits_);
  check_model(parsed.model);
  const std::vector<std::int32_t> ids = prompt_tokens(parsed.tokens);
  exchange->send(json_response({{"prompt", catalog_.encoder().tokenizer().decode(ids)}}));
}

void Api::load_adapter(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  if (!catalog_.allows_loading()) {
    throw ApiError(403,
                   "adapters are not loaded over HTTP here; start the service with "
                   "--allow_adapter_loading DIR");
  }
  const AdapterRequest parsed = parse_adapter(request.body, limits_, /*with_path=*/true);
  catalog_.load_adapter(parsed.name, parsed.path);
  exchange->send(json_response({{"object", "adapter"}, {"id", parsed.name}, {"loaded", true}}));
}

void Api::unload_adapter(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  if (!catalog_.allows_loading()) {
    throw ApiError(403,
                   "adapters are not unloaded over HTTP here; start the service with "
                   "--allow_adapter_loading DIR");
  }
  const AdapterRequest parsed = parse_adapter(request.body, limits_, /*with_path=*/false);
  catalog_.unload_adapter(parsed.name);
  exchange->send(json_response({{"object", "adapter"}, {"id", parsed.name}, {"loaded", false}}));
}

}  // namespace qalof::serve
