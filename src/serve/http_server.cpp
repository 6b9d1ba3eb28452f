// Connections, one object each, on the thread of an io_context. See http_server.h.
#include "serve/http_server.h"

#include <fmt/chrono.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <condition_variable>
#include <ctime>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <thread>

#include "core/ascii.h"
#include "core/error.h"

namespace qalof::serve {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = net::ip::tcp;

namespace {

constexpr std::size_t kWorkers = 2;
constexpr std::size_t kReadSize = 8192;
// Bytes that are read and dropped so that a client gets the response before the connection's end.
constexpr std::size_t kLingerBytes = std::size_t{2} << 20;
constexpr std::chrono::seconds kLingerTime{2};
constexpr std::chrono::milliseconds kAcceptPause{100};
constexpr int kClientLeft = 499;

net::ip::address address_of(const std::string& host) {
  if (host == "localhost") return net::ip::make_address("127.0.0.1");
  boost::system::error_code failed;
  net::ip::address address = net::ip::make_address(host, failed);
  QALOF_CHECK(!failed, ErrorKind::kUsage, "--host: found {}, expected an IP address or localhost",
              host);
  return address;
}

bool is_clean_value(beast::string_view value) {
  return std::all_of(value.begin(), value.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte == '\t' || (byte >= 0x20 && byte != 0x7F);
  });
}

std::string as_string(beast::string_view text) { return {text.data(), text.size()}; }

// Seconds since then.
double server_seconds(std::chrono::steady_clock::time_point from) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
}

}  // namespace

class Session;

struct HttpServer::Impl {
  Impl(const Access& who, const Limits& bounds, HttpStats& counts, AccessLog lines)
      : access(who), limits(bounds), stats(counts), log(std::move(lines)) {}

  void listen(const std::string& host, std::uint16_t port);
  void accept();
  void accepted(const boost::system::error_code& failed, tcp::socket socket);
  void handle(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);

  const Access& access;
  Limits limits;
  HttpStats& stats;
  AccessLog log;
  std::shared_mutex api_mutex;
  Api* api = nullptr;
  std::atomic<std::size_t> busy{0};
  std::set<Session*> sessions;  // of the io thread
  bool is_draining = false;     // of the io thread
  // What is above must be there when handlers, and with them sessions, are destroyed.
  net::io_context io{1};
  tcp::acceptor acceptor{io};
  net::steady_timer pause{io};
  net::thread_pool workers{kWorkers};
  std::thread thread;
  tcp::endpoint endpoint;
};

// One connection. All of it runs on the io thread.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(HttpServer::Impl* server, tcp::socket socket)
      : server_(server),
        stream_(std::move(socket)),
        buffer_(server_->limits.header + server_->limits.target + kReadSize),
        ping_(server_->io) {
    boost::system::error_code ignored;
    stream_.socket().set_option(tcp::no_delay(true), ignored);
    client_ = stream_.socket().remote_endpoint(ignored).address().to_string();
    server_->sessions.insert(this);
    server_->stats.connected();
  }
  ~Session() {
    server_->sessions.erase(this);
    server_->stats.disconnected();
    set_busy(false);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void begin() { read_header(); }
  // Closes now where no request is open, else with its response.
  void drain() {
    keep_alive_ = false;
    if (!is_busy_) close();
  }

  // From the exchange, posted to the io thread.
  void send(const HttpResponse& response) {
    const std::size_t length = response.body.size();
    std::string bytes = head_of(response, length, /*is_stream=*/false);
    if (method_ != "HEAD") bytes += response.body;
    status_ = response.status;
    is_done_ = true;
    write(std::move(bytes));
  }
  void begin_stream(const HttpResponse& head) {
    is_stream_ = true;
    status_ = head.status;
    write(head_of(head, 0, /*is_stream=*/true));
    schedule_ping();
  }
  void write_stream(const std::string& bytes) {
    if (!bytes.empty()) write(framed(bytes));
  }
  void end_stream() {
    is_done_ = true;
    ping_.cancel();
    write(version_ == 10 ? "" : "0\r\n\r\n");
  }

 private:
  using Parser = http::request_parser<http::string_body>;

  void set_busy(bool busy) {
    if (busy == is_busy_) return;
    is_busy_ = busy;
    if (busy) {
      ++server_->busy;
    } else {
      --server_->busy;
    }
  }

  // Waits for the first byte of a request, which an open connection may take its time for.
  void wait_for_request() {
    if (server_->is_draining) return close();
    if (buffer_.size() > 0) return read_header();
    stream_.expires_after(server_->limits.idle_time);
    stream_.async_read_some(
        buffer_.prepare(kReadSize),
        [self = shared_from_this()](const boost::system::error_code& failed, std::size_t size) {
          if (failed) return self->close();
          self->buffer_.commit(size);
          self->read_header();
        });
  }

  void read_header() {
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(server_->limits.header));
    parser_->body_limit(server_->limits.body);
    // One limit for the whole header: a byte now and then does not prolong it.
    stream_.expires_after(server_->limits.header_time);
    http::async_read_header(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](const boost::system::error_code& failed, std::size_t) {
          self->started_ = std::chrono::steady_clock::now();
          if (failed) return self->refuse_bytes(failed);
          self->set_busy(true);
          self->check_header();
        });
  }

  // What could not be read as a request.
  void refuse_bytes(const boost::system::error_code& failed) {
    if (failed == http::error::end_of_stream || failed == net::error::operation_aborted ||
        failed == net::error::eof || failed == net::error::connection_reset ||
        failed == beast::error::timeout)  // the stream has closed itself
      return close();
    set_busy(true);
    if (failed == http::error::header_limit) {
      return refuse(
          ApiError(431, fmt::format("the header is longer than {} bytes", server_->limits.header)));
    }
    if (failed == http::error::body_limit) return refuse(too_large());
    if (failed == http::error::buffer_overflow)
      return refuse(ApiError(431, "the header is too long"));
    if (failed == http::error::bad_version)
      return refuse(ApiError(505, "expected HTTP/1.1 or HTTP/1.0"));
    if (failed.category() == http::make_error_code(http::error::bad_method).category())
      return refuse(ApiError(400, "not a valid HTTP request: " + failed.message()));
    close();
  }

  ApiError too_large() const {
    return ApiError(413, fmt::format("the body is larger than {} bytes", server_->limits.body));
  }

  // Answers without a handler and closes: what follows in the stream cannot be trusted.
  void refuse(const ApiError& error) {
    keep_alive_ = false;
    if (version_ == 0) version_ = 11;
    exchange_ = nullptr;
    send(error_response(error));
  }

  void check_header() {
    const auto& header = parser_->get();
    version_ = header.version();
    keep_alive_ = parser_->keep_alive() && !server_->is_draining;
    if (version_ != 10 && version_ != 11) return refuse(ApiError(505, "expected HTTP/1.1"));
    if (header.target().size() > server_->limits.target) {
      return refuse(
          ApiError(414, fmt::format("the target is longer than {} bytes", server_->limits.target)));
    }
    if (header.target().empty() || header.target().front() != '/')
      return refuse(ApiError(400, "the target is not a path"));
    std::size_t lines = 0;
    std::set<http::field> once;
    for (const auto& field : header) {
      ++lines;
      if (!is_clean_value(field.value()))
        return refuse(ApiError(400, "a header's value has control bytes"));
      switch (field.name()) {
        case http::field::host:
        case http::field::content_length:
        case http::field::transfer_encoding:
        case http::field::content_type:
        case http::field::authorization:
        case http::field::expect:
          if (!once.insert(field.name()).second) {
            return refuse(ApiError(
                400, fmt::format("the header {} appears twice", as_string(field.name_string()))));
          }
          break;
        case http::field::content_encoding:
          return refuse(ApiError(415, "bodies are not compressed"));
        default:
          break;
      }
    }
    if (lines > server_->limits.header_lines) {
      return refuse(ApiError(431, fmt::format("{} headers, expected at most {}", lines,
                                              server_->limits.header_lines)));
    }
    if (version_ == 11 && header[http::field::host].empty())
      return refuse(ApiError(400, "the header Host is missing"));
    const beast::string_view length = header[http::field::content_length];
    if (!std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; }))
      return refuse(ApiError(400, "Content-Length: expected one number"));
    if (once.contains(http::field::transfer_encoding) &&
        (version_ == 10 || once.contains(http::field::content_length) ||
         lower_ascii(as_string(header[http::field::transfer_encoding])) != "chunked"))
      return refuse(ApiError(400, "Transfer-Encoding: expected chunked, without Content-Length"));
    if (!parser_->is_done() && parser_->content_length() &&
        *parser_->content_length() > server_->limits.body)
      return refuse(too_large());
    // Now, since fields that follow a chunked body would be added to these.
    method_ = as_string(header.method_string());
    head_.method = method_;
    head_.target = as_string(header.target());
    head_.content_type = as_string(header[http::field::content_type]);
    head_.authorization = as_string(header[http::field::authorization]);
    head_.host = as_string(header[http::field::host]);
    head_.origin = as_string(header[http::field::origin]);
    head_.client = client_;
    read_body();
  }

  void read_body() {
    const auto& header = parser_->get();
    const std::string expect = lower_ascii(as_string(header[http::field::expect]));
    if (!expect.empty()) {
      if (expect != "100-continue") return refuse(ApiError(417, "Expect: expected 100-continue"));
      if (version_ == 11 && !parser_->is_done()) write("HTTP/1.1 100 Continue\r\n\r\n");
    }
    stream_.expires_after(server_->limits.body_time);
    http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](const boost::system::error_code& failed, std::size_t) {
          if (failed) {
            if (failed == http::error::partial_message) return self->close();
            return self->refuse_bytes(failed);
          }
          self->dispatch();
        });
  }

  void dispatch();

  // Notices that the client leaves while its response is being made.
  void watch() {
    if (buffer_.size() > 0) return;  // it has sent more, so nothing can be seen
    stream_.socket().async_wait(
        tcp::socket::wait_read,
        [self = shared_from_this(), request = request_](const boost::system::error_code& failed) {
          if (self->request_ != request || self->is_closed_ || self->is_done_) return;
          char byte = 0;
          const ssize_t size = failed ? 0
                                      : ::recv(self->stream_.socket().native_handle(), &byte, 1,
                                               MSG_PEEK | MSG_DONTWAIT);
          // More data is the next request, which waits.
          if (size > 0 || (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))) return;
          self->close();
        });
  }

  void schedule_ping() {
    if (server_->limits.ping_time.count() == 0) return;
    ping_.expires_after(server_->limits.ping_time);
    ping_.async_wait(
        [self = shared_from_this(), request = request_](const boost::system::error_code& failed) {
          if (failed || self->is_closed_ || self->is_done_ || self->request_ != request) return;
          if (!self->has_written_) self->write_stream(": ping\n\n");
          self->has_written_ = false;
          self->schedule_ping();
        });
  }

  std::string framed(const std::string& bytes) const {
    if (version_ == 10) return bytes;  // the end of the connection ends the stream
    return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
  }

  std::string head_of(const HttpResponse& response, std::size_t length, bool is_stream) {
    if (is_stream && version_ == 10) keep_alive_ = false;
    std::string head = fmt::format(
        "HTTP/1.1 {} {}\r\nDate: {:%a, %d %b %Y %H:%M:%S GMT}\r\nContent-Type: {}\r\n"
        "X-Content-Type-Options: nosniff\r\n",
        response.status, reason_phrase(response.status), fmt::gmtime(std::time(nullptr)),
        response.content_type);
    for (const auto& [name, value] : response.headers) {
      std::string clean = value;
      for (char& c : clean) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
      }
      head += fmt::format("{}: {}\r\n", name, clean);
    }
    if (!is_stream) {
      head += fmt::format("Content-Length: {}\r\n", length);
    } else if (version_ != 10) {
      head += "Transfer-Encoding: chunked\r\n";
    }
    head += keep_alive_ ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
    return head;
  }

  void write(std::string bytes) {
    if (is_closed_) return finish_request();
    has_written_ = true;
    response_bytes_ += bytes.size();
    if (waiting_.empty()) {
      waiting_ = std::move(bytes);
    } else {
      waiting_ += bytes;
    }
    if (!is_writing_) write_waiting();
  }

  void write_waiting() {
    if (waiting_.empty()) return written();
    is_writing_ = true;
    writing_.clear();
    writing_.swap(waiting_);
    stream_.expires_after(server_->limits.write_time);
    net::async_write(
        stream_, net::buffer(writing_),
        [self = shared_from_this()](const boost::system::error_code& failed, std::size_t) {
          self->is_writing_ = false;
          if (failed) return self->close();
          self->write_waiting();
        });
  }

  // Everything handed over so far is with the system.
  void written() {
    if (!is_done_) return;
    finish_request();
    if (keep_alive_) {
      ++request_;
      version_ = 0;
      is_done_ = is_stream_ = false;
      status_ = 0;
      response_bytes_ = 0;
      wait_for_request();
    } else {
      linger();
    }
  }

  void finish_request();

  // Ends our side; what the client still sends is dropped for a while, so that the system does not
  // reset the connection under the response.
  void linger() {
    boost::system::error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream_.expires_after(kLingerTime);
    drop_input(0);
  }
  void drop_input(std::size_t dropped) {
    if (dropped > kLingerBytes) return close();
    dropped_.resize(kReadSize);
    stream_.async_read_some(net::buffer(dropped_),
                            [self = shared_from_this(), dropped](
                                const boost::system::error_code& failed, std::size_t size) {
                              if (failed) return self->close();
                              self->drop_input(dropped + size);
                            });
  }

  void close() {
    if (is_closed_) return;
    is_closed_ = true;
    ping_.cancel();
    stream_.close();
    if (is_done_) return finish_request();
    if (exchange_ != nullptr) {
      exchange_->abandon();  // its last call comes, and finishes the request
    } else {
      set_busy(false);
    }
  }

  HttpServer::Impl* server_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  HttpRequest head_;  // the request but its body
  net::steady_timer ping_;
  std::string client_, method_, waiting_, writing_, dropped_;
  std::shared_ptr<Exchange> exchange_;  // of the request that is being answered
  std::chrono::steady_clock::time_point started_{};
  std::uint64_t request_ = 0, response_bytes_ = 0;
  unsigned version_ = 0;
  int status_ = 0;
  bool keep_alive_ = true, is_busy_ = false, is_closed_ = false;
  bool is_writing_ = false, is_done_ = false, is_stream_ = false, has_written_ = false;
};

namespace {

// Hands calls from any thread to the session's.
class SessionExchange final : public Exchange {
 public:
  explicit SessionExchange(std::shared_ptr<Session> session, net::io_context& io)
      : session_(std::move(session)), io_(io) {}
  // The last owner may be the scheduler's thread, but a session must end on the thread of
  // connections.
  ~SessionExchange() override {
    net::post(io_, [session = std::move(session_)] {});
  }
  SessionExchange(const SessionExchange&) = delete;
  SessionExchange& operator=(const SessionExchange&) = delete;

  void send(HttpResponse response) override {
    net::post(io_, [session = session_, response = std::move(response)]() mutable {
      session->send(response);
    });
  }
  void begin(HttpResponse head) override {
    net::post(io_, [session = session_, head = std::move(head)] { session->begin_stream(head); });
  }
  void write(std::string bytes) override {
    net::post(io_,
              [session = session_, bytes = std::move(bytes)] { session->write_stream(bytes); });
  }
  void end() override {
    net::post(io_, [session = session_] { session->end_stream(); });
  }

 private:
  std::shared_ptr<Session> session_;
  net::io_context& io_;
};

}  // namespace

void Session::dispatch() {
  HttpRequest request = std::move(head_);
  request.body = std::move(parser_->get().body());
  stream_.expires_never();
  exchange_ = std::make_shared<SessionExchange>(shared_from_this(), server_->io);
  watch();
  net::post(server_->workers,
            [server = server_, exchange = exchange_, request = std::move(request)] {
              server->handle(request, exchange);
            });
}

void Session::finish_request() {
  if (!is_done_ || !is_busy_) return;
  set_busy(false);
  ping_.cancel();
  const RequestRecord record = exchange_ == nullptr ? RequestRecord{} : exchange_->record;
  exchange_ = nullptr;
  const int status = is_closed_ ? kClientLeft : status_;
  const double seconds = server_seconds(started_);
  server_->stats.add(record.route, status, seconds);
  if (!server_->log) return;
  const std::time_t now = std::time(nullptr);
  Json line = {{"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now))},
               {"client", client_},
               {"method", method_},
               {"route", record.route},
               {"status", status},
               {"bytes", response_bytes_},
               {"seconds", seconds}};
  if (!record.model.empty()) line["model"] = record.model;
  if (!record.precision.empty()) line["precision"] = record.precision;
  if (record.prompt_tokens > 0) {
    line["prompt_tokens"] = record.prompt_tokens;
    line["completion_tokens"] = record.completion_tokens;
    line["cached_tokens"] = record.cached_tokens;
  }
  if (record.first_token_seconds > 0) line["first_token_seconds"] = record.first_token_seconds;
  server_->log(json_text(line));
}

void HttpServer::Impl::listen(const std::string& host, std::uint16_t port) {
  const tcp::endpoint wanted(address_of(host), port);
  boost::system::error_code failed;
  const auto check = [&](const char* what) {
    QALOF_CHECK(!failed, ErrorKind::kNetwork, "{}:{}: cannot {}: {}", host, port, what,
                failed.message());
  };
  acceptor.open(wanted.protocol(), failed);
  check("open a socket");
  acceptor.set_option(net::socket_base::reuse_address(true), failed);
  acceptor.bind(wanted, failed);
  check("bind");
  acceptor.listen(net::socket_base::max_listen_connections, failed);
  check("listen");
  endpoint = acceptor.local_endpoint();
}

void HttpServer::Impl::accept() {
  acceptor.async_accept([this](const boost::system::error_code& failed, tcp::socket socket) {
    accepted(failed, std::move(socket));
  });
}

void HttpServer::Impl::accepted(const boost::system::error_code& failed, tcp::socket socket) {
  if (failed == net::error::operation_aborted || !acceptor.is_open()) return;
  if (failed) {  // no descriptors left, or the like: they come back
    pause.expires_after(kAcceptPause);
    pause.async_wait([this](const boost::system::error_code& cancelled) {
      if (!cancelled && acceptor.is_open()) accept();
    });
    return;
  }
  if (sessions.size() >= limits.connections) {
    stats.refused();
    const std::string text =
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
        "Connection: close\r\n\r\n";
    ::send(socket.native_handle(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  } else {
    std::make_shared<Session>(this, std::move(socket))->begin();
  }
  accept();
}

void HttpServer::Impl::handle(const HttpRequest& request,
                              const std::shared_ptr<Exchange>& exchange) {
  const std::shared_lock lock(api_mutex);
  if (api == nullptr) {
    Api::handle_loading(request, access, exchange);
  } else {
    api->handle(request, exchange);
  }
}

HttpServer::HttpServer(const std::string& host, std::uint16_t port, const Access& access,
                       const Limits& limits, HttpStats& stats, AccessLog log)
    : impl_(std::make_unique<Impl>(access, limits, stats, std::move(log))) {
  impl_->listen(host, port);
  impl_->accept();
  impl_->thread = std::thread([impl = impl_.get()] { impl->io.run(); });
}

HttpServer::~HttpServer() {
  drain();
  set_api(nullptr);
  impl_->workers.join();
  // Responses on their way get a moment.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (!is_idle() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  impl_->io.stop();
  impl_->thread.join();
}

std::string HttpServer::url() const {
  const net::ip::address& address = impl_->endpoint.address();
  const std::string name = address.to_string();
  return fmt::format("http://{}:{}", address.is_v6() ? "[" + name + "]" : name, port());
}

std::uint16_t HttpServer::port() const { return impl_->endpoint.port(); }

void HttpServer::set_api(Api* api) {
  const std::unique_lock lock(impl_->api_mutex);
  impl_->api = api;
}

void HttpServer::drain() {
  net::post(impl_->io, [impl = impl_.get()] {
    if (impl->is_draining) return;
    impl->is_draining = true;
    boost::system::error_code ignored;
    impl->acceptor.close(ignored);
    impl->pause.cancel();
    std::vector<std::shared_ptr<Session>> open;
    for (Session* session : impl->sessions) open.push_back(session->shared_from_this());
    for (const auto& session : open) session->drain();
  });
}

bool HttpServer::is_idle() const { return impl_->busy == 0; }

bool is_loopback_host(const std::string& host) { return address_of(host).is_loopback(); }

}  // namespace qalof::serve
