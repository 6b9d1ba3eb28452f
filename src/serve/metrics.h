// What /metrics says, in the text form of Prometheus.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "serve/catalog.h"
#include "serve/scheduler.h"

namespace qalof::serve {

/// Counts of responses. Any thread.
class HttpStats {
 public:
  /// route: of the table of routes, or "" where none matched.
  void add(const std::string& route, int status, double seconds);
  void connected() { change_connections(1); }
  void disconnected() { change_connections(-1); }
  void refused();

  struct Counts {
    std::map<std::pair<std::string, int>, std::uint64_t> responses;
    std::map<std::string, Histogram> seconds;
    std::int64_t connections = 0;
    std::uint64_t refused_connections = 0;
  };
  Counts counts() const;

 private:
  void change_connections(int by);
  mutable std::mutex mutex_;
  Counts counts_;
};

std::string metrics_text(const Catalog& catalog, const SchedulerStats& scheduler,
                         const HttpStats::Counts& http);

}  // namespace qalof::serve
