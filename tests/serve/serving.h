// The nano model as a service in this process, and what requests to it should answer.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/generator.h"
#include "serve/service.h"
#include "support/temp_dir.h"
#include "support/tiny_runtime.h"

namespace qalof::serve {

inline const std::string kNanoModel = QALOF_SOURCE_DIR "/assets/nano/model";

/// Keeps a response for whoever waits for it.
class WaitingExchange final : public Exchange {
 public:
  void send(HttpResponse response) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(over_) << "a second response";
    response_ = std::move(response);
    over_ = true;
    done_.notify_all();
  }
  void begin(HttpResponse head) override {
    const std::lock_guard lock(mutex_);
    response_ = std::move(head);
    done_.notify_all();
  }
  void write(std::string bytes) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(over_) << "bytes after the end";
    response_.body += bytes;
    ++writes_;
    done_.notify_all();
  }
  void end() override {
    const std::lock_guard lock(mutex_);
    over_ = true;
    done_.notify_all();
  }
  /// The whole response.
  HttpResponse wait() {
    std::unique_lock lock(mutex_);
    if (!done_.wait_for(lock, std::chrono::seconds(120), [&] { return over_; }))
      ADD_FAILURE() << "no response";
    return response_;
  }
  /// Returns once a stream has so many pieces.
  void wait_for_writes(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(
        done_.wait_for(lock, std::chrono::seconds(120), [&] { return over_ || writes_ >= count; }));
  }
  bool is_over() {
    const std::lock_guard lock(mutex_);
    return over_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  HttpResponse response_;
  std::size_t writes_ = 0;
  bool over_ = false;
};

/// A PEFT directory with random pairs, and a head where one is asked for.
inline void write_adapter(const std::string& directory, std::uint64_t seed,
                          weights::HeadKind head = weights::HeadKind::kLm) {
  const auto base = weights::BaseModel::load_directory(kNanoModel);
  const auto set = qalof::testing::random_adapters(base->config(), {0}, seed);
  weights::Adapter adapter;
  for (const auto& pair : set->by_width.at(0)->linears) {
    adapter.linears.push_back(std::make_unique<weights::LoraLinear>(
        pair->rank(), pair->view().scaling, pair->a(), pair->b(), pair->a().size() / pair->rank(),
        pair->b().size() / pair->rank()));
  }
  adapter.rank = 4;
  adapter.alpha = 8;
  if (head == weights::HeadKind::kSpan) adapter.qa_head = set->by_width.at(0)->qa_head;
  if (head == weights::HeadKind::kClass)
    adapter.class_head = weights::untrained_class_head(*base, 3, seed);
  weights::save_adapter(directory, adapter, base->config(), head, kNanoModel);
}

/// Catalog, scheduler and routes without sockets.
class NanoApi {
 public:
  explicit NanoApi(CatalogOptions catalog = {}, SchedulerOptions scheduler = {}, Limits limits = {},
                   ApiKeys keys = {}) {
    limits_ = limits;
    access_.keys = std::move(keys);
    if (catalog.model.model.empty()) catalog.model.model = kNanoModel;
    Observer quiet;
    pool_ = std::make_unique<ThreadPool>(2);
    catalog_ = std::make_unique<Catalog>(catalog, limits_, *pool_, quiet);
    scheduler_ = std::make_unique<Scheduler>(*catalog_, scheduler, limits_);
    api_ = std::make_unique<Api>(*catalog_, *scheduler_, access_, limits_, stats_);
  }
  Catalog& catalog() { return *catalog_; }
  Scheduler& scheduler() { return *scheduler_; }

  static HttpRequest request(const std::string& method, const std::string& target,
                             const std::string& body = "") {
    HttpRequest request;
    request.method = method;
    request.target = target;
    request.host = "127.0.0.1:8080";
    request.body = body;
    if (method == "POST") request.content_type = "application/json";
    return request;
  }
  std::shared_ptr<WaitingExchange> begin(const HttpRequest& request) {
    auto exchange = std::make_shared<WaitingExchange>();
    api_->handle(request, exchange);
    return exchange;
  }
  HttpResponse call(const HttpRequest& request) { return begin(request)->wait(); }
  HttpResponse post(const std::string& target, const Json& body) {
    return call(request("POST", target, body.dump()));
  }
  HttpResponse get(const std::string& target) { return call(request("GET", target)); }
  /// A response that must be 200.
  Json answer(const std::string& target, const Json& body) {
    const HttpResponse response = post(target, body);
    EXPECT_EQ(response.status, 200) << body.dump() << "\n" << response.body;
    return parse_json(response.body, "response");
  }

 private:
  Limits limits_;
  Access access_;
  HttpStats stats_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Api> api_;
};

/// What `qalof generate` gives for one request, alone.
class Alone {
 public:
  explicit Alone(const std::string& adapter = "", const std::string& precision = "",
                 int kv_bits = 0, const std::string& model = kNanoModel) {
    Observer quiet;
    app::ModelOptions options;
    options.model = model;
    options.adapter = adapter;
    options.precision = precision;
    options.kv_bits = kv_bits;
    handle_ = app::open_model(options, quiet);
    encoder_ = std::make_unique<text::TextEncoder>(app::open_encoder(handle_, quiet));
    execution_ = app::make_execution(handle_, serial_, quiet);
  }
  std::string text(const std::string& prompt, std::size_t tokens, double temperature = 0,
                   std::uint64_t seed = 0) {
    runtime::GenerateOptions options;
    options.max_new_tokens = tokens;
    options.sampling.temperature = temperature;
    options.sampling.seed = seed;
    options.stop_ids = {0};  // the nano model's end of text
    const std::vector<std::int32_t> ids = encoder_->encode(prompt).ids;
    return runtime::generate(*execution_, encoder_->tokenizer(), ids, options, serial_).text;
  }
  const runtime::Execution& execution() const { return *execution_; }
  const text::TextEncoder& encoder() const { return *encoder_; }
  const app::ModelHandle& handle() const { return handle_; }

 private:
  SerialFor serial_;
  app::ModelHandle handle_;
  std::unique_ptr<text::TextEncoder> encoder_;
  std::shared_ptr<const runtime::Execution> execution_;
};

/// The JSON objects of an event stream, without its end.
inline std::vector<Json> events_of(const std::string& stream) {
  std::vector<Json> events;
  std::size_t at = 0;
  while (at < stream.size()) {
    const std::size_t end = stream.find("\n\n", at);
    EXPECT_NE(end, std::string::npos);
    const std::string event = stream.substr(at, end - at);
    at = end == std::string::npos ? stream.size() : end + 2;
    if (event.starts_with(":") || event == "data: [DONE]") continue;
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    events.push_back(parse_json(event.substr(6), "event"));
  }
  return events;
}

}  // namespace qalof::serve
