// Options of the service, and the order in which its parts begin and end.
#include "serve/service.h"

#include <thread>

#include "core/error.h"

namespace qalof::serve {

namespace {

constexpr std::chrono::milliseconds kDrainCheck{10};

}  // namespace

void list_service_options(OptionList& list, ServiceOptions& options) {
  CatalogOptions& catalog = options.catalog;
  list.group("model");
  list.option("--model_name_or_path", catalog.model.model, "model directory or packed file")
      ->required();
  list.option("--served_model_name", catalog.name,
              "name of the base in requests; default: the last part of its path");
  list.option("--adapter", catalog.adapters,
              "NAME=DIR: adapters that requests choose by \"model\": \"NAME\"; may be repeated");
  list.group("precision");
  list.option("--precision,--sp_config", catalog.model.precision,
              "of requests that name none: 8, w4a8kv8, ..., a plan file or the NAME of --plan; "
              "default: the adapter's or packed file's plan, else 32");
  list.option("--plan", catalog.plans,
              "NAME=FILE: plans that requests choose by \"precision\": \"NAME\"; may be repeated");
  list.option("--precisions", catalog.precisions,
              "the only precisions that requests may name, beside plans; default: any");
  list.option("--scheme", catalog.model.scheme,
              "of the weights, as in other commands; requests cannot choose it");
  list.option("--elastic", catalog.elastic,
              "precisions from most to fewest bits, e.g. 8,6,4: requests that name none get fewer "
              "while the queue is long")
      ->delimiter(',');
  list.option("--target_ttft_ms", options.target_ttft_ms,
              "--elastic: the aim for the time to the first token, milliseconds")
      ->within(1, 600'000);
  app::list_run_options(list, catalog.model);
  list.group("method");
  list.flag("--parse_special", catalog.model.parse_special,
            "special tokens written in prompts count as themselves, not as text");
  list.group("machine");
  list.option("--threads", catalog.model.threads, "threads; 0 = QALOF_THREADS, else all");
  list.option("--max_sequences", options.scheduler.max_sequences, "sequences that run at once")
      ->within(1, 4096);
  list.option("--prefill_chunk", options.scheduler.prefill_chunk,
              "prompt tokens per pass: bounds how long others wait, not results")
      ->within(1, 65'536);
  list.option("--kv_cache_mb", options.kv_cache_mb,
              "memory for keys and values, MiB: requests wait for it, and kept beginnings of "
              "prompts take what is free")
      ->within(1, 16'777'216);
  list.flag("--no_prefix_cache", options.no_prefix_cache,
            "forget prompts once they have ended; results are the same");
  list.option("--max_queue", options.limits.queued_requests,
              "requests that may wait; more are refused with 429")
      ->within(1, 65'536);
  list.option("--request_timeout_s", options.request_timeout_s, "longest time of a request")
      ->within(1, 86'400);
  list.group("network");
  list.option("--host", options.host,
              "address to listen at; others than loopback need --api_key_file");
  list.option("--port", options.port, "0 = one that is free")->within(0, 65'535);
  list.option("--api_key_file", options.api_key_file,
              "keys that requests must bring, one per line; every route but /health asks for one");
  list.option("--max_connections", options.limits.connections, "open connections")
      ->within(1, 65'536);
  list.option("--allow_adapter_loading", catalog.loading_directory,
              "directory below which /v1/load_lora_adapter may load adapters; default: nowhere");
}

Service::Service(ServiceOptions options, AccessLog log) : options_(std::move(options)) {
  if (!options_.api_key_file.empty()) access_.keys = ApiKeys::read(options_.api_key_file);
  access_.is_loopback = is_loopback_host(options_.host);
  QALOF_CHECK(access_.is_loopback || !access_.keys.is_open(), ErrorKind::kUsage,
              "--host {}: others can reach it, so that --api_key_file is needed", options_.host);
  QALOF_CHECK(options_.port >= 0 && options_.port <= 65'535, ErrorKind::kUsage,
              "--port: found {}, expected 0 to 65535", options_.port);
  options_.limits.request_time = std::chrono::seconds(options_.request_timeout_s);
  server_ = std::make_unique<HttpServer>(options_.host, static_cast<std::uint16_t>(options_.port),
                                         access_, options_.limits, stats_, std::move(log));
}

Service::~Service() {
  server_->drain();
  server_->set_api(nullptr);
  api_.reset();
  scheduler_.reset();  // answers what is left
  server_.reset();
}

void Service::load(Observer& observer) {
  pool_ = std::make_unique<ThreadPool>(app::choose_threads(options_.catalog.model.threads));
  catalog_ = std::make_unique<Catalog>(options_.catalog, options_.limits, *pool_, observer);
  SchedulerOptions scheduler = options_.scheduler;
  scheduler.kv_bytes = options_.kv_cache_mb << 20;
  scheduler.prefix_cache = !options_.no_prefix_cache;
  scheduler.elastic_levels = std::max<std::size_t>(1, options_.catalog.elastic.size());
  scheduler.target_first_token = std::chrono::milliseconds(options_.target_ttft_ms);
  scheduler_ = std::make_unique<Scheduler>(*catalog_, scheduler, options_.limits);
  api_ = std::make_unique<Api>(*catalog_, *scheduler_, access_, options_.limits, stats_);
  server_->set_api(api_.get());
}

bool Service::drain() {
  server_->drain();
  const auto end = std::chrono::steady_clock::now() + options_.limits.drain_time;
  while (!server_->is_idle() || (scheduler_ != nullptr && !scheduler_->is_idle())) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(kDrainCheck);
  }
  return true;
}

}  // namespace qalof::serve
