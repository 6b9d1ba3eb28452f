// The routes: a request in, a response to its exchange out. No sockets, no threads of its own.
//
// handle returns once the response is sent or its work is queued; a queued one is answered from the
// scheduler's thread. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "serve/catalog.h"
#include "serve/http.h"
#include "serve/keys.h"
#include "serve/limits.h"
#include "serve/metrics.h"
#include "serve/request_body.h"
#include "serve/scheduler.h"

namespace qalof::serve {

/// Who may call: checked before anything else of a request is looked at.
struct Access {
  ApiKeys keys;
  /// The service is bound to a loopback address. Without keys, requests must then name such an
  /// address as their host, so that no web page reaches the service under a name of its own.
  bool is_loopback = true;
};

/// One route, for the table in docs and for tests that try every one.
struct Route {
  const char* method;
  const char* path;
  bool is_public;   // no key is asked
  bool takes_json;  // POST with a JSON body
};

class Api {
 public:
  /// Arguments must outlive the object.
  Api(Catalog& catalog, Scheduler& scheduler, const Access& access, const Limits& limits,
      const HttpStats& http);
  void handle(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);

  static std::span<const Route> routes();
  /// The response while there is no model yet: 503, for /health too.
  static void handle_loading(const HttpRequest& request, const Access& access,
                             const std::shared_ptr<Exchange>& exchange);

 private:
  using Handler = void (Api::*)(const HttpRequest&, const std::shared_ptr<Exchange>&);
  struct Handled {
    Route route;
    Handler handler;
  };
  static const std::vector<Handled>& table();

  void health(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void models(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void model(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void info(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void metrics(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void page(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void completions(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void chat(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void answers(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void classifications(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void tokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void detokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void load_adapter(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void unload_adapter(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);

  std::vector<std::int32_t> prompt_tokens(const Prompt& prompt) const;
  void check_model(const std::string& model) const;
  void generate(struct GenerationPlan plan, const std::shared_ptr<Exchange>& exchange);
  Scheduler::Clock::time_point deadline() const;

  Catalog& catalog_;
  Scheduler& scheduler_;
  const Access& access_;
  const Limits& limits_;
  const HttpStats& http_;
};

}  // namespace qalof::serve
