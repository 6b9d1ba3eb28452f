// Sockets: connections, HTTP/1.1, time-outs and limits, around an Api. Boost.Beast parses.
//
// One thread reads and writes all connections and never waits for work; a few others run handlers.
// What a client sends is bounded before it is kept (serve/limits.h), a client that is slow costs a
// connection and no more, and one that leaves ends its work at the next step. Shapes by which two
// servers could read one stream as different requests are refused, not repaired.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "serve/api.h"
#include "serve/limits.h"
#include "serve/metrics.h"

namespace qalof::serve {

/// Takes one line of the access log, a JSON object without line end. Called from one thread.
using AccessLog = std::function<void(const std::string& line)>;

class HttpServer {
 public:
  /// Binds and listens; port 0: one that is free. Error{kUsage} for a host that is no address,
  /// {kNetwork} where the address cannot be had. access and stats must outlive the server.
  HttpServer(const std::string& host, std::uint16_t port, const Access& access,
             const Limits& limits, HttpStats& stats, AccessLog log = nullptr);
  /// Closes what is open. Every exchange must have had its last call.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// "http://127.0.0.1:8080"
  std::string url() const;
  std::uint16_t port() const;
  /// From now on requests go there; null: the model is loading, or gone. Returns once no handler
  /// uses the one before.
  void set_api(Api* api);
  /// Accepts nothing new; connections close with their current response.
  void drain();
  /// No request is being read, worked on or answered.
  bool is_idle() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

/// True for 127.0.0.0/8, ::1 and localhost. Error{kUsage} for what is no address.
bool is_loopback_host(const std::string& host);

}  // namespace qalof::serve
