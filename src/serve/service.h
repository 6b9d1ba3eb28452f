// The whole service: model, scheduler, routes and sockets, put together and taken down in order.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/options.h"
#include "serve/api.h"
#include "serve/http_server.h"

namespace qalof::serve {

struct ServiceOptions {
  CatalogOptions catalog;
  SchedulerOptions scheduler;
  Limits limits;
  std::string host = "127.0.0.1";
  int port = 8080;  // 0: one that is free
  std::string api_key_file;
  std::size_t kv_cache_mb = 1024;
  bool no_prefix_cache = false;
  int target_ttft_ms = 500;
  int request_timeout_s = 300;
};

/// The options of `qalof serve`, with those of the model.
void list_service_options(OptionList& list, ServiceOptions& options);

class Service {
 public:
  /// Binds; GET /health answers 503 from then on. Error{kUsage} for a host that others can reach
  /// and no --api_key_file.
  explicit Service(ServiceOptions options, AccessLog log = nullptr);
  /// Ends what is open with 503.
  ~Service();
  /// Opens the model; requests are served from then on. Errors as Catalog's.
  void load(Observer& observer);
  std::string url() const { return server_->url(); }
  std::uint16_t port() const { return server_->port(); }
  const Catalog& catalog() const { return *catalog_; }
  Scheduler& scheduler() { return *scheduler_; }
  /// Takes no new connections and requests, and waits until those that are there are answered, at
  /// most limits.drain_time. True where all were.
  bool drain();

 private:
  ServiceOptions options_;
  Access access_;
  HttpStats stats_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Api> api_;
};

}  // namespace qalof::serve
