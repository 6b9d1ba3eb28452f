// The service over sockets, as hostile clients see it: shapes of requests, limits, time-outs, and
// what clients that leave cost.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "serving.h"
#include "support/error_of.h"

namespace qalof::serve {
namespace http_server_test {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Clock = std::chrono::steady_clock;

// One connection with plain bytes.
class Socket {
 public:
  explicit Socket(std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    const timeval limit{60, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  ~Socket() { close(); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  // Until what was read holds the text, or the other side closes.
  std::string read_until(const std::string& text) {
    while (text.empty() || read_.find(text) == std::string::npos) {
      char buffer[4096];
      const ssize_t size = ::recv(fd_, buffer, sizeof buffer, 0);
      if (size <= 0) break;
      read_.append(buffer, static_cast<std::size_t>(size));
    }
    return read_;
  }
  std::string read_all() { return read_until(""); }
  // Of one response with Content-Length; what follows stays.
  HttpResponse read_response() {
    read_until("\r\n\r\n");
    HttpResponse response;
    const std::size_t end = read_.find("\r\n\r\n");
    if (end == std::string::npos) {
      response.status = 0;
      return response;
    }
    const std::string head = read_.substr(0, end + 2);
    response.status = std::stoi(head.substr(9, 3));
    const std::size_t at = head.find("Content-Length: ");
    const std::size_t length =
        at == std::string::npos ? 0 : static_cast<std::size_t>(std::stoul(head.substr(at + 16)));
    while (read_.size() < end + 4 + length) {
      char buffer[4096];
      const ssize_t size = ::recv(fd_, buffer, sizeof buffer, 0);
      if (size <= 0) break;
      read_.append(buffer, static_cast<std::size_t>(size));
    }
    response.body = read_.substr(end + 4, length);
    read_.erase(0, end + 4 + length);
    return response;
  }

 private:
  int fd_;
  std::string read_;
};

std::string post(const std::string& target, const std::string& body,
                 const std::string& headers = "") {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n{}\r\n{}",
      target, body.size(), headers, body);
}

class HttpServerTest : public ::testing::Test {
 protected:
  void start(ServiceOptions options = {}) {
    if (options.catalog.model.model.empty()) options.catalog.model.model = kNanoModel;
    if (options.catalog.model.precision.empty() && options.catalog.elastic.empty())
      options.catalog.model.precision = "8";
    options.catalog.model.threads = 2;
    options.port = 0;
    service_ = std::make_unique<Service>(options, [this](const std::string& line) {
      const std::lock_guard lock(log_mutex_);
      log_.push_back(line);
    });
    Observer quiet;
    service_->load(quiet);
  }
  std::uint16_t port() const { return service_->port(); }
  std::string exchange(const std::string& bytes) {
    Socket socket(port());
    socket.send(bytes);
    return socket.read_all();
  }
  // Waits until something is so.
  template <typename Condition>
  bool eventually(const Condition& condition, std::chrono::milliseconds limit) {
    const auto end = Clock::now() + limit;
    while (Clock::now() < end) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return condition();
  }
  std::vector<std::string> log() {
    const std::lock_guard lock(log_mutex_);
    return log_;
  }

  std::mutex log_mutex_;
  std::vector<std::string> log_;
  std::unique_ptr<Service> service_;
};

TEST_F(HttpServerTest, AnswersKeepTheConnectionOpen) {
  start();
  Socket socket(port());
  for (int i = 0; i < 3; ++i) {
    socket.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    const HttpResponse response = socket.read_response();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, R"({"status":"ok"})");
  }
  // Two at once are answered in order.
  socket.send(
      "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /none HTTP/1.1\r\nHost: "
      "localhost\r\n\r\n");
  EXPECT_EQ(socket.read_response().status, 200);
  EXPECT_EQ(socket.read_response().status, 404);
}

TEST_F(HttpServerTest, HealthIs503UntilTheModelIsThere) {
  ServiceOptions options;
  options.catalog.model.model = kNanoModel;
  options.port = 0;
  Service service(options);
  const auto status = [&](const std::string& path) {
    Socket socket(service.port());
    socket.send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
    return socket.read_response().status;
  };
  EXPECT_EQ(status("/health"), 503);
  EXPECT_EQ(status("/v1/models"), 503);
  Observer quiet;
  service.load(quiet);
  EXPECT_EQ(status("/health"), 200);
  EXPECT_EQ(status("/v1/models"), 200);
}

TEST_F(HttpServerTest, ACompletionOverTheWireIsWhatGenerateGives) {
  start();
  Socket socket(port());
  const std::string body =
      R"({"prompt":"Once upon","max_tokens":9,"temperature":0,"precision":"4"})";
  socket.send(post("/v1/completions", body));
  const Json found = parse_json(socket.read_response().body, "response");
  EXPECT_EQ(found["choices"][0]["text"], Alone("", "4").text("Once upon", 9));
  // The same as a stream of chunks, with a body in chunks.
  Socket streaming(port());
  std::string chunked =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
  const std::string stream_body = body.substr(0, body.size() - 1) + R"(,"stream":true})";
  for (std::size_t at = 0; at < stream_body.size(); at += 7) {
    const std::string part = stream_body.substr(at, 7);
    chunked += fmt::format("{:x}\r\n{}\r\n", part.size(), part);
  }
  streaming.send(chunked + "0\r\n\r\n");
  const std::string response = streaming.read_all();
  EXPECT_THAT(response, HasSubstr("Transfer-Encoding: chunked"));
  EXPECT_THAT(response, HasSubstr("X-Qalof-Precision: w4a4kv4"));
  EXPECT_TRUE(response.ends_with("0\r\n\r\n"));
  std::string events, text;
  for (std::size_t at = response.find("\r\n\r\n") + 4; at < response.size();) {
    const std::size_t line = response.find("\r\n", at);
    const std::size_t size = std::stoul(response.substr(at, line - at), nullptr, 16);
    events += response.substr(line + 2, size);
    at = line + 2 + size + 2;
  }
  for (const Json& event : events_of(events))
    text += event["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(text, found["choices"][0]["text"]);
}

struct Shape {
  const char* name;
  std::string bytes;
  int status;
};

TEST_F(HttpServerTest, HostileShapesAreRefusedAndTheConnectionEnds) {
  start();
  const std::string many_headers = [] {
    std::string lines;
    for (int i = 0; i < 101; ++i) lines += fmt::format("X-{}: 1\r\n", i);
    return lines;
  }();
  const std::string host = "Host: localhost\r\n";
  const std::vector<Shape> shapes = {
      {"no request", "hello\r\n\r\n", 400},
      {"bare line feeds", "GET /health HTTP/1.1\nHost: localhost\n\n", 505},
      {"no version", "GET /health\r\n\r\n", 400},
      {"another version", "GET /health HTTP/2.0\r\n" + host + "\r\n", 505},
      {"no host", "GET /health HTTP/1.1\r\n\r\n", 400},
      {"two hosts", "GET /health HTTP/1.1\r\n" + host + host + "\r\n", 400},
      {"absolute target", "GET http://localhost/health HTTP/1.1\r\n" + host + "\r\n", 400},
      {"asterisk", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", 400},
      {"length and chunks",
       "POST /tokenize HTTP/1.1\r\n" + host +
           "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
       400},
      {"chunks and length",
       "POST /tokenize HTTP/1.1\r\n" + host +
           "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
       400},
      {"two lengths",
       "POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
       400},
      {"two equal lengths",
       "POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
       400},
      {"a list of lengths", "POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 2, 2\r\n\r\n{}",
       400},
      {"a signed length", "POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: +2\r\n\r\n{}",
       400},
      {"a negative length", "POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: -2\r\n\r\n{}",
       400},
      {"a huge length",
       "POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\n{}",
       400},
      {"space before the colon",
       "POST /tokenize HTTP/1.1\r\n" + host + "Content-Length : 2\r\n\r\n{}", 400},
      {"another coding",
       "POST /tokenize HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
       400},
      {"an unknown coding",
       "POST /tokenize HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
      {"chunks in 1.0",
       "POST /tokenize HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"a chunk that is no number",
       "POST /tokenize HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
       400},
      {"a negative chunk",
       "POST /tokenize HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n",
       400},
      {"a huge chunk",
       "POST /tokenize HTTP/1.1\r\n" + host +
           "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff0\r\n{}\r\n",
       400},
      {"a large chunk",
       "POST /tokenize HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n{}\r\n",
       413},
      {"a large body", "POST /tokenize HTTP/1.1\r\n" + host + "Content-Length: 1048577\r\n\r\n",
       413},
      {"a compressed body",
       "POST /tokenize HTTP/1.1\r\n" + host +
           "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
       415},
      {"an expectation",
       "POST /tokenize HTTP/1.1\r\n" + host + "Expect: tea\r\nContent-Length: 2\r\n\r\n", 417},
      {"a long target", "GET /" + std::string(8200, 'a') + " HTTP/1.1\r\n" + host + "\r\n", 414},
      {"a long header",
       "GET /health HTTP/1.1\r\n" + host + "X: " + std::string(17'000, 'a') + "\r\n\r\n", 431},
      {"many headers", "GET /health HTTP/1.1\r\n" + host + many_headers + "\r\n", 431},
      {"control bytes in a value", "GET /health HTTP/1.1\r\n" + host + "X: a\x01z\r\n\r\n", 400},
      {"a name with spaces", "GET /health HTTP/1.1\r\n" + host + "X Y: 1\r\n\r\n", 400},
      {"a carriage return in a value", "GET /health HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n", 400},
  };
  for (const Shape& shape : shapes) {
    const std::string response = exchange(shape.bytes);
    EXPECT_THAT(response, StartsWith(fmt::format("HTTP/1.1 {} ", shape.status))) << shape.name;
    EXPECT_THAT(response, HasSubstr("Connection: close")) << shape.name;
    EXPECT_EQ(response.find("\r\nDate: "), response.rfind("\r\nDate: ")) << shape.name;
  }
  // Fields after a chunked body do not replace those before it.
  const std::string trailer = exchange(
      "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
      "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\nContent-Type: "
      "application/json\r\n\r\n");
  EXPECT_THAT(trailer, StartsWith("HTTP/1.1 415 "));
  Socket after(port());
  after.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(after.read_response().status, 200);
}

TEST_F(HttpServerTest, ABodyThatIsAskedForFirstIsTakenAfterContinue) {
  start();
  Socket socket(port());
  const std::string body = R"({"prompt":"a"})";
  socket.send(
      fmt::format("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                  "application/json\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
                  body.size()));
  EXPECT_THAT(socket.read_until("\r\n\r\n"), StartsWith("HTTP/1.1 100 Continue"));
  socket.send(body);
  EXPECT_THAT(socket.read_until("max_model_len"), HasSubstr("HTTP/1.1 200 OK"));
}

TEST_F(HttpServerTest, SlowClientsAreClosedAndCostOthersNothing) {
  ServiceOptions options;
  options.limits.header_time = options.limits.idle_time = std::chrono::milliseconds(400);
  options.limits.body_time = std::chrono::milliseconds(400);
  start(options);
  Socket silent(port()), header(port()), body(port());
  body.send(
      "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
      "application/json\r\nContent-Length: 100\r\n\r\n{");
  // A byte at a time does not prolong the header's time.
  std::atomic<bool> over{false};
  std::thread drip([&] {
    for (const char c : std::string("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: ") +
                            std::string(200, 'a')) {
      if (over) return;
      header.send(std::string(1, c));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  const auto start_time = Clock::now();
  Socket quick(port());
  quick.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(quick.read_response().status, 200);
  EXPECT_EQ(header.read_all(), "");
  EXPECT_EQ(silent.read_all(), "");
  EXPECT_EQ(body.read_all(), "");
  EXPECT_LT(Clock::now() - start_time, std::chrono::seconds(30));
  over = true;
  drip.join();
}

TEST_F(HttpServerTest, ConnectionsOverTheLimitAreRefused) {
  ServiceOptions options;
  options.limits.connections = 3;
  start(options);
  std::vector<std::unique_ptr<Socket>> open;
  for (int i = 0; i < 3; ++i) {
    open.push_back(std::make_unique<Socket>(port()));
    open.back()->send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(open.back()->read_response().status, 200);
  }
  EXPECT_THAT(Socket(port()).read_all(), StartsWith("HTTP/1.1 503"));
  open.clear();
  EXPECT_TRUE(eventually(
      [&] {
        Socket socket(port());
        socket.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        return socket.read_response().status == 200;
      },
      std::chrono::seconds(20)));
}

TEST_F(HttpServerTest, AClientThatLeavesFreesItsSlot) {
  ServiceOptions options;
  options.scheduler.max_sequences = 2;
  start(options);
  for (const bool stream : {true, false}) {
    const std::string body = fmt::format(
        R"({{"prompt":"a","max_tokens":250,"ignore_eos":true,"n":8,"stream":{}}})", stream);
    auto socket = std::make_unique<Socket>(port());
    socket->send(post("/v1/completions", body));
    if (stream) socket->read_until("data: ");
    ASSERT_TRUE(eventually([&] { return service_->scheduler().stats().running > 0; },
                           std::chrono::seconds(20)));
    socket.reset();
    EXPECT_TRUE(
        eventually([&] { return service_->scheduler().is_idle(); }, std::chrono::seconds(10)));
  }
  EXPECT_GE(service_->scheduler().stats().ended[EndReason::kCancelled], 2U);
  EXPECT_TRUE(eventually([&] { return log().size() == 2; }, std::chrono::seconds(10)));
  for (const std::string& line : log()) EXPECT_EQ(parse_json(line, "log")["status"], 499);
}

// A request that waits gets the slot of a client that left at once, not when its text would have
// ended: the text is cancelled.
TEST_F(HttpServerTest, TheSlotOfAClientThatLeftGoesToTheNextRequest) {
  ServiceOptions options;
  options.scheduler.max_sequences = 1;
  start(options);
  const auto cancelled = [&] { return service_->scheduler().stats().ended[EndReason::kCancelled]; };
  for (const bool stream : {true, false}) {
    const std::string body = fmt::format(
        R"({{"prompt":"a","max_tokens":250,"ignore_eos":true,"n":64,"stream":{}}})", stream);
    auto leaving = std::make_unique<Socket>(port());
    leaving->send(post("/v1/completions", body));
    ASSERT_TRUE(eventually([&] { return service_->scheduler().stats().running > 0; },
                           std::chrono::seconds(20)));
    Socket next(port());
    next.send(post("/v1/completions", R"({"prompt":"b","max_tokens":1})"));
    const auto before = cancelled();
    leaving.reset();
    EXPECT_EQ(next.read_response().status, 200);
    EXPECT_TRUE(eventually([&] { return cancelled() > before; }, std::chrono::seconds(20)));
  }
}

TEST_F(HttpServerTest, ClientsThatNeverFinishARequestHoldNoSlot) {
  ServiceOptions options;
  options.scheduler.max_sequences = 1;
  start(options);
  std::vector<std::unique_ptr<Socket>> slow;
  for (int i = 0; i < 30; ++i) {
    slow.push_back(std::make_unique<Socket>(port()));
    if (i % 3 == 0) slow.back()->send("POST /v1/completions HTTP/1.1\r\nHost: local");
    if (i % 3 == 1) {
      slow.back()->send(
          "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
          "application/json\r\nContent-Length: 100\r\n\r\n{\"prompt\":");
    }
  }
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(service_->scheduler().stats().running, 0U);
    Socket socket(port());
    socket.send(post("/v1/completions", R"({"prompt":"b","max_tokens":1})"));
    EXPECT_EQ(socket.read_response().status, 200);
    EXPECT_TRUE(
        eventually([&] { return service_->scheduler().is_idle(); }, std::chrono::seconds(20)));
  }
}

TEST_F(HttpServerTest, TheLogHasFiguresAndNoPrompts) {
  start();
  Socket socket(port());
  socket.send(post("/v1/completions", R"({"prompt":"SECRET words","max_tokens":3,"temperature":0})",
                   "Authorization: Bearer SECRETSECRETSECRET\r\n"));
  EXPECT_EQ(socket.read_response().status, 200);
  ASSERT_TRUE(eventually([&] { return log().size() == 1; }, std::chrono::seconds(10)));
  const std::string line = log().front();
  EXPECT_EQ(line.find("SECRET"), std::string::npos);
  const Json json = parse_json(line, "log");
  EXPECT_EQ(json["route"], "/v1/completions");
  EXPECT_EQ(json["status"], 200);
  EXPECT_EQ(json["completion_tokens"], 3);
  EXPECT_EQ(json["precision"], "w8a8kv8");
  EXPECT_GT(json["first_token_seconds"].get<double>(), 0);
}

TEST_F(HttpServerTest, DrainingAnswersWhatIsOpenAndTakesNothingNew) {
  start();
  Socket idle(port()), busy(port());
  idle.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(idle.read_response().status, 200);
  busy.send(post("/v1/completions",
                 R"({"prompt":"a","max_tokens":200,"ignore_eos":true,"stream":true})"));
  busy.read_until("data: ");
  EXPECT_TRUE(service_->drain());
  EXPECT_EQ(idle.read_all(), "");
  EXPECT_THAT(busy.read_all(), HasSubstr("data: [DONE]"));
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_NE(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ::close(fd);
}

TEST_F(HttpServerTest, WhatIsOpenAtTheEndIsToldSo) {
  ServiceOptions options;
  options.limits.drain_time = std::chrono::milliseconds(50);
  options.scheduler.max_sequences = 1;
  start(options);
  Socket first(port()), second(port());
  const std::string body = R"({"prompt":"a","max_tokens":250,"ignore_eos":true,"n":32})";
  first.send(post("/v1/completions", body));
  ASSERT_TRUE(eventually([&] { return service_->scheduler().stats().running > 0; },
                         std::chrono::seconds(20)));
  second.send(post("/v1/completions", body));
  ASSERT_TRUE(eventually([&] { return service_->scheduler().stats().queued_requests == 2; },
                         std::chrono::seconds(20)));
  EXPECT_FALSE(service_->drain());
  service_.reset();
  EXPECT_THAT(first.read_all(), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(second.read_all(), StartsWith("HTTP/1.1 503"));
}

// P13 over HTTP.
TEST_F(HttpServerTest, MixedRequestsOfManyConnectionsGetTheBytesOfEachAlone) {
  const qalof::testing::TempDir dir;
  ServiceOptions options;
  options.scheduler.prefill_chunk = 16;
  std::vector<std::pair<std::string, std::string>> cases;
  for (int adapter = 1; adapter <= 4; ++adapter) {
    const std::string directory = dir.file(std::to_string(adapter));
    write_adapter(directory, static_cast<std::uint64_t>(adapter));
    options.catalog.adapters.push_back(fmt::format("a{}={}", adapter, directory));
    for (const char* precision : {"8", "w4a8kv4", "w6a6kv8"}) {
      const std::string prompt = fmt::format("The {} mills by the river were", adapter);
      const Json body = {{"model", fmt::format("a{}", adapter)},
                         {"precision", precision},
                         {"prompt", prompt},
                         {"max_tokens", 10},
                         {"temperature", 0.7},
                         {"seed", adapter}};
      cases.emplace_back(
          body.dump(),
          Alone(directory, precision).text(prompt, 10, 0.7, static_cast<std::uint64_t>(adapter)));
    }
  }
  start(options);
  std::atomic<int> mismatches{0};
  std::vector<std::thread> clients;
  for (std::size_t c = 0; c < 6; ++c) {
    clients.emplace_back([&, c] {
      Socket socket(port());
      for (std::size_t i = 0; i < 40; ++i) {
        const auto& [body, expected] = cases[(7 * i + c) % cases.size()];
        socket.send(post("/v1/completions", body));
        const HttpResponse response = socket.read_response();
        if (response.status != 200 ||
            parse_json(response.body, "response")["choices"][0]["text"] != expected)
          ++mismatches;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(mismatches, 0);
}

}  // namespace http_server_test
}  // namespace qalof::serve
