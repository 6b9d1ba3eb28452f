// Writes counters, gauges and histograms.
#include "serve/metrics.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace qalof::serve {

namespace {

// A label's value between quotation marks.
std::string label(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\\' || c == '"') escaped += '\\';
    escaped += c == '\n' ? ' ' : c;
  }
  return escaped;
}

class MetricsText {
 public:
  void head(const char* name, const char* type, const char* help) {
    text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  template <typename Value>
  void value(const char* name, const std::string& labels, Value value) {
    text_ += labels.empty() ? fmt::format("{} {}\n", name, value)
                            : fmt::format("{}{{{}}} {}\n", name, labels, value);
  }
  template <typename Value>
  void single(const char* name, const char* type, const char* help, Value one) {
    head(name, type, help);
    value(name, "", one);
  }
  void histogram(const char* name, const std::string& labels, const Histogram& histogram) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
      sum += histogram.counts[i];
      const std::string bound =
          i < Histogram::kBounds.size() ? fmt::format("{}", Histogram::kBounds[i]) : "+Inf";
      text_ += fmt::format("{}_bucket{{{}{}le=\"{}\"}} {}\n", name, labels,
                           labels.empty() ? "" : ",", bound, sum);
    }
    text_ += fmt::format("{}_sum{{{}}} {}\n{}_count{{{}}} {}\n", name, labels, histogram.sum, name,
                         labels, sum);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

const char* ending_name(EndReason reason) {
  switch (reason) {
    case EndReason::kDone:
      return "done";
    case EndReason::kCancelled:
      return "cancelled";
    case EndReason::kDeadline:
      return "deadline";
    case EndReason::kShutdown:
      return "shutdown";
    case EndReason::kFailed:
      return "failed";
  }
  return "unknown";
}

void write_variants(MetricsText& text, const Catalog& catalog, const SchedulerStats& stats) {
  const auto labels_of = [&](const std::pair<std::string, std::string>& key) {
    return fmt::format("adapter=\"{}\",precision=\"{}\"", label(key.first), label(key.second));
  };
  struct Column {
    const char *name, *type, *help;
    std::uint64_t VariantCounts::*member;
  };
  constexpr Column kColumns[] = {
      {"qalof_sequences_total", "counter", "Sequences that left the queue.",
       &VariantCounts::sequences},
      {"qalof_prompt_tokens_total", "counter", "Tokens of prompts, cached ones included.",
       &VariantCounts::prompt_tokens},
      {"qalof_prefix_cached_tokens_total", "counter",
       "Tokens of prompts that were not read: of the prefix cache, or of another choice.",
       &VariantCounts::cached_tokens},
      {"qalof_generation_tokens_total", "counter", "Tokens chosen.", &VariantCounts::new_tokens},
      {"qalof_sequences_running", "gauge", "Sequences that run.", &VariantCounts::running},
      {"qalof_sequences_waiting", "gauge", "Sequences in the queue.", &VariantCounts::waiting}};
  for (const Column& column : kColumns) {
    text.head(column.name, column.type, column.help);
    for (const auto& [key, counts] : stats.variants)
      text.value(column.name, labels_of(key), counts.*column.member);
  }
  text.head("qalof_time_to_first_token_seconds", "histogram",
            "From a request's arrival to its first token.");
  for (const auto& [key, counts] : stats.variants)
    text.histogram("qalof_time_to_first_token_seconds", labels_of(key), counts.first_token);
  text.head("qalof_inter_token_seconds", "histogram", "Between the tokens of a sequence.");
  for (const auto& [key, counts] : stats.variants)
    text.histogram("qalof_inter_token_seconds", labels_of(key), counts.between_tokens);
  // As gateways that route by adapter expect it (Kubernetes' inference gateway, model servers).
  std::vector<std::string> running, waiting;
  for (const auto& [key, counts] : stats.variants) {
    if (key.first.empty()) continue;
    if (counts.running > 0 && (running.empty() || running.back() != key.first))
      running.push_back(key.first);
    if (counts.waiting > 0 && (waiting.empty() || waiting.back() != key.first))
      waiting.push_back(key.first);
  }
  text.head("qalof_lora_requests_info", "gauge", "Adapters that run and wait.");
  text.value(
      "qalof_lora_requests_info",
      fmt::format("running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\",max_lora=\"{}\"",
                  fmt::join(running, ","), fmt::join(waiting, ","),
                  std::max<std::size_t>(1, catalog.adapter_names().size())),
      std::time(nullptr));
}

}  // namespace

void HttpStats::add(const std::string& route, int status, double seconds) {
  const std::lock_guard lock(mutex_);
  ++counts_.responses[{route, status}];
  counts_.seconds[route].add(seconds);
}

void HttpStats::change_connections(int by) {
  const std::lock_guard lock(mutex_);
  counts_.connections += by;
}

void HttpStats::refused() {
  const std::lock_guard lock(mutex_);
  ++counts_.refused_connections;
}

HttpStats::Counts HttpStats::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

std::string metrics_text(const Catalog& catalog, const SchedulerStats& stats,
                         const HttpStats::Counts& http) {
  MetricsText text;
  text.single("qalof_requests_waiting", "gauge", "Requests in the queue.", stats.queued_requests);
  text.single("qalof_requests_running", "gauge", "Sequences that run.", stats.running);
  text.single("qalof_requests_running_max", "gauge", "Sequences that may run at once.",
              stats.max_sequences);
  const auto limit = static_cast<double>(stats.kv_limit);
  text.single("qalof_kv_cache_usage_ratio", "gauge",
              "K/V memory of running sequences, of what there is.",
              static_cast<double>(stats.kv_bytes) / limit);
  text.single("qalof_kv_cache_bytes", "gauge", "K/V memory of running sequences.", stats.kv_bytes);
  text.single("qalof_kv_cache_limit_bytes", "gauge", "K/V memory that there is.", stats.kv_limit);
  text.head("qalof_prefix_cache_info", "gauge", "on, or why there is none.");
  text.value("qalof_prefix_cache_info", fmt::format("state=\"{}\"", stats.prefix_cache), 1);
  text.single("qalof_prefix_cache_bytes", "gauge", "K/V memory of kept beginnings.",
              stats.prefix_bytes);
  text.single("qalof_prefix_cache_blocks", "gauge", "Kept blocks of tokens.", stats.prefix_blocks);
  text.single("qalof_steps_total", "counter", "Passes through the network.", stats.steps);
  text.single("qalof_step_tokens_total", "counter", "Tokens that passes fed.", stats.step_tokens);
  text.head("qalof_sequences_ended_total", "counter", "Sequences by how they ended.");
  for (const auto& [reason, count] : stats.ended) {
    text.value("qalof_sequences_ended_total", fmt::format("reason=\"{}\"", ending_name(reason)),
               count);
  }
  text.single("qalof_elastic_level", "gauge", "0: the most bits.", stats.elastic_level);
  text.single("qalof_elastic_target_seconds", "gauge", "Aim for the time to the first token.",
              stats.elastic_target);
  text.head("qalof_elastic_sequences_total", "counter", "Sequences by elastic level.");
  for (const auto& [level, count] : stats.by_level) {
    const std::string name = level < catalog.elastic().size() ? catalog.elastic()[level] : "";
    text.value("qalof_elastic_sequences_total",
               fmt::format("level=\"{}\",precision=\"{}\"", level, label(name)), count);
  }
  write_variants(text, catalog, stats);
  text.head("qalof_http_responses_total", "counter", "Responses by route and status.");
  for (const auto& [key, count] : http.responses) {
    text.value("qalof_http_responses_total",
               fmt::format("route=\"{}\",status=\"{}\"", label(key.first), key.second), count);
  }
  text.head("qalof_http_seconds", "histogram", "From a request's last byte to its response's.");
  for (const auto& [route, seconds] : http.seconds)
    text.histogram("qalof_http_seconds", fmt::format("route=\"{}\"", label(route)), seconds);
  text.single("qalof_http_connections", "gauge", "Open connections.", http.connections);
  text.single("qalof_http_connections_refused_total", "counter", "Connections over the limit.",
              http.refused_connections);
  return text.take();
}

}  // namespace qalof::serve
