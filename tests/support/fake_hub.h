// A model hub on this machine: serves repositories from memory as huggingface.co does, large files
// from a storage at another address, and misbehaves as a test asks.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/ascii.h"
#include "core/hash.h"
#include "core/json.h"

namespace qalof::testing {

struct HttpAsked {
  std::string path;                            // with the query
  std::map<std::string, std::string> headers;  // names in lower case
  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

struct HttpReply {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers = {};
  std::string body = {};
  bool tells_length = true;                   // else the end of the connection ends the body
  std::optional<std::size_t> cut_after = {};  // bytes of the body, then the connection breaks
  std::chrono::milliseconds pause{0};         // before anything, and after each piece
  std::size_t piece = std::size_t{1} << 20;   // bytes sent at a time
};

/// An HTTP/1.1 server on a loopback address and a free port. Handlers run on threads of
/// connections, one at a time.
class LoopbackServer {
 public:
  using Handler = std::function<HttpReply(const HttpAsked&)>;

  LoopbackServer(const std::string& host, Handler handler)
      : host_(host), handler_(std::move(handler)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    ::inet_pton(AF_INET, host.c_str(), &address.sin_addr);
    socklen_t size = sizeof address;
    auto* const plain = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener_, plain, size) != 0 || ::listen(listener_, 64) != 0 ||
        ::getsockname(listener_, plain, &size) != 0) {
      throw std::runtime_error("no loopback server");
    }
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~LoopbackServer() {
    is_ending_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    ::close(listener_);
    for (Connection& connection : connections_) ::shutdown(connection.fd, SHUT_RDWR);
    for (Connection& connection : connections_) {
      connection.thread.join();
      ::close(connection.fd);
    }
  }
  LoopbackServer(const LoopbackServer&) = delete;
  LoopbackServer& operator=(const LoopbackServer&) = delete;

  std::string url() const { return "http://" + host_ + ":" + std::to_string(port_); }
  int connections() const { return accepted_; }
  std::vector<HttpAsked> asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }

 private:
  struct Connection {
    int fd;
    std::thread thread;
  };

  void accept_all() {
    for (;;) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (is_ending_ || fd < 0) {
        if (fd >= 0) ::close(fd);
        return;
      }
      ++accepted_;
      const int on = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      connections_.push_back({fd, {}});
      connections_.back().thread = std::thread([this, fd] { serve(fd); });
    }
  }

  static bool send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  void serve(int fd) {
    std::string input;
    for (;;) {
      std::size_t end = 0;
      while ((end = input.find("\r\n\r\n")) == std::string::npos) {
        char part[4096];
        const ssize_t got = ::recv(fd, part, sizeof part, 0);
        if (got <= 0) return;
        input.append(part, static_cast<std::size_t>(got));
      }
      const HttpAsked asked = parse(input.substr(0, end));
      input.erase(0, end + 4);
      HttpReply reply;
      {
        const std::lock_guard lock(mutex_);
        asked_.push_back(asked);
        reply = handler_(asked);
      }
      if (!answer(fd, reply)) {
        ::shutdown(fd, SHUT_RDWR);
        return;
      }
    }
  }

  static HttpAsked parse(const std::string& text) {
    HttpAsked asked;
    const std::size_t line = text.find("\r\n");
    const std::size_t begin = text.find(' ') + 1;
    asked.path = text.substr(begin, text.find(' ', begin) - begin);
    for (std::size_t at = line; at != std::string::npos && at + 2 < text.size();) {
      const std::size_t next = text.find("\r\n", at + 2);
      const std::string header = text.substr(at + 2, next - at - 2);
      const std::size_t colon = header.find(": ");
      if (colon != std::string::npos)
        asked.headers[lower_ascii(header.substr(0, colon))] = header.substr(colon + 2);
      at = next;
    }
    return asked;
  }

  // False where the connection is to be closed.
  bool answer(int fd, const HttpReply& reply) const {
    wait(reply.pause);
    std::string head = "HTTP/1.1 " + std::to_string(reply.status) + " Fake\r\n";
    for (const auto& [name, value] : reply.headers) head += name + ": " + value + "\r\n";
    head += reply.tells_length ? "Content-Length: " + std::to_string(reply.body.size()) + "\r\n\r\n"
                               : "Connection: close\r\n\r\n";
    if (!send_all(fd, head)) return false;
    std::string_view body = reply.body;
    if (reply.cut_after) body = body.substr(0, *reply.cut_after);
    while (!body.empty()) {
      const std::string_view piece = body.substr(0, reply.piece);
      if (is_ending_ || !send_all(fd, piece)) return false;
      body.remove_prefix(piece.size());
      if (!body.empty()) wait(reply.pause);
    }
    return reply.tells_length && !reply.cut_after;
  }

  void wait(std::chrono::milliseconds time) const {
    const auto end = std::chrono::steady_clock::now() + time;
    while (!is_ending_ && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }

  std::string host_;
  Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> is_ending_ = false;
  std::atomic<int> accepted_ = 0;
  std::list<Connection> connections_;
  std::thread acceptor_;
  mutable std::mutex mutex_;
  std::vector<HttpAsked> asked_;
};

/// Repositories of files, each with one commit, which main and any other name stand for.
class FakeHub {
 public:
  struct File {
    std::string bytes;
    bool is_large = false;                           // sha256, from the storage at another address
    std::string listed_hash = {}, listed_path = {};  // "" = the true ones
    std::optional<std::size_t> listed_size = {};
  };
  using Files = std::map<std::string, File>;

  explicit FakeHub(Files files, std::string repository = "org/name")
      : files_(std::move(files)),
        repository_(std::move(repository)),
        storage_("127.0.0.2", [this](const HttpAsked& asked) { return store(asked); }),
        hub_("127.0.0.1", [this](const HttpAsked& asked) { return serve(asked); }) {}

  static constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";
  std::string url() const { return hub_.url(); }
  const LoopbackServer& hub() const { return hub_; }
  const LoopbackServer& storage() const { return storage_; }
  int connections() const { return hub_.connections() + storage_.connections(); }

  /// Asked before the hub's, or the storage's, own answer; may replace it. Set before requests.
  std::function<std::optional<HttpReply>(const HttpAsked&)> instead, instead_stored;
  /// Changes answers with a file's bytes, whoever sends them. Set before requests.
  std::function<void(const std::string& file, HttpReply&)> spoil;
  bool knows_ranges = true;
  std::size_t page_size = 1000;  // files of a page of the list

  static std::string hash_of(const File& file) {
    const auto bytes = std::as_bytes(std::span(file.bytes));
    if (file.is_large) return sha256_hex(bytes);
    Sha1 hash;
    const std::string head = "blob " + std::to_string(file.bytes.size()) + '\0';
    hash.update(std::as_bytes(std::span(head)));
    hash.update(bytes);
    return hash.finish();
  }

 private:
  static HttpReply json_reply(const Json& json) {
    return {200, {{"Content-Type", "application/json"}}, json.dump()};
  }
  static HttpReply error(int status, const std::string& code) {
    return {status, {{"X-Error-Code", code}}, ""};
  }

  HttpReply send_file(const std::string& name, const File& file, const HttpAsked& asked) const {
    HttpReply reply;
    reply.body = file.bytes;
    const std::string range = asked.header("range");
    if (knows_ranges && range.starts_with("bytes=")) {
      const std::size_t first = std::stoull(range.substr(6));
      const std::string size = std::to_string(file.bytes.size());
      if (first >= file.bytes.size()) return {416, {{"Content-Range", "bytes */" + size}}, ""};
      reply.status = 206;
      reply.body = file.bytes.substr(first);
      reply.headers.emplace_back("Content-Range", "bytes " + std::to_string(first) + "-" +
                                                      std::to_string(file.bytes.size() - 1) + "/" +
                                                      size);
    }
    if (spoil) spoil(name, reply);
    return reply;
  }

  HttpReply store(const HttpAsked& asked) const {
    if (instead_stored) {
      if (auto reply = instead_stored(asked)) return *reply;
    }
    for (const auto& [name, file] : files_) {
      if (asked.path == "/" + hash_of(file) + "?signature=x") return send_file(name, file, asked);
    }
    return {403, {}, ""};
  }

  HttpReply list(const HttpAsked& asked) const {
    const std::size_t at = asked.path.find("cursor=");
    std::size_t skip = at == std::string::npos ? 0 : std::stoull(asked.path.substr(at + 7));
    const std::size_t end = skip + page_size;
    Json page = Json::array();
    std::size_t index = 0;
    for (const auto& [name, file] : files_) {
      if (index++ < skip || index > end) continue;
      const std::string hash = file.listed_hash.empty() ? hash_of(file) : file.listed_hash;
      const std::size_t size = file.listed_size.value_or(file.bytes.size());
      Json entry = {{"type", "file"},
                    {"path", file.listed_path.empty() ? name : file.listed_path},
                    {"size", size},
                    {"oid", file.is_large ? std::string(40, 'a') : hash}};
      if (file.is_large) entry["lfs"] = {{"oid", hash}, {"size", size}, {"pointerSize", 134}};
      page.push_back(entry);
    }
    page.push_back({{"type", "directory"}, {"path", "onnx"}, {"size", 0}, {"oid", "x"}});
    HttpReply reply = json_reply(page);
    if (end < files_.size()) {
      reply.headers.emplace_back("Link", "<" + url() + asked.path.substr(0, asked.path.find('?')) +
                                             "?cursor=" + std::to_string(end) + ">; rel=\"next\"");
    }
    return reply;
  }

  HttpReply serve(const HttpAsked& asked) const {
    if (instead) {
      if (auto reply = instead(asked)) return *reply;
    }
    const std::string api = "/api/models/" + repository_;
    if (asked.path.starts_with(api + "/revision/")) return json_reply({{"sha", kCommit}});
    if (asked.path.starts_with(api + "/tree/" + kCommit)) return list(asked);
    const std::string resolve = "/" + repository_ + "/resolve/" + kCommit + "/";
    if (!asked.path.starts_with(resolve)) return error(401, "RepoNotFound");
    const auto found = files_.find(asked.path.substr(resolve.size()));
    if (found == files_.end()) return error(404, "EntryNotFound");
    if (!found->second.is_large) return send_file(found->first, found->second, asked);
    return {302,
            {{"Location", storage_.url() + "/" + hash_of(found->second) + "?signature=x"}},
            "Found. Redirecting",
            true,
            {},
            {}};
  }

  Files files_;
  std::string repository_;
  LoopbackServer storage_, hub_;
};

}  // namespace qalof::testing
