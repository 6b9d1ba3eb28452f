// Bytes as a client sends them to the service's socket. Every connection must end, and soon.
#include "fuzz/fuzz_http.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <cstdlib>
#include <string>

#include "serve/http_server.h"

namespace qalof::fuzz {

namespace {

// True where the server would wait for more. A client that then ends its side is one that leaves,
// and a client that leaves gets no answer.
bool is_cut(std::span<const std::byte> input) {
  boost::beast::http::request_parser<boost::beast::http::string_body> parser;
  parser.eager(true);
  boost::system::error_code failed;
  parser.put(boost::asio::buffer(input.data(), input.size()), failed);
  return failed == boost::beast::http::error::need_more || (!failed && !parser.is_done());
}

int connected(std::uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval time_limit{9, 0};
  if (fd < 0 || ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time_limit, sizeof time_limit) != 0 ||
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    std::abort();
  return fd;
}

}  // namespace

bool read_http(std::span<const std::byte> input) {
  static serve::HttpStats stats;
  static const serve::Access access;
  static const serve::Limits limits = [] {
    serve::Limits quick;
    quick.idle_time = std::chrono::milliseconds(1);  // of a connection after its answer
    // A second request may be cut, which is_cut does not see.
    quick.header_time = quick.body_time = std::chrono::milliseconds(100);
    return quick;
  }();
  static const auto* server =  // the process ends it
      new serve::HttpServer("127.0.0.1", 0, access, limits, stats);
  const int fd = connected(server->port());
  // What the server does not want to read may not be sent whole.
  (void)::send(fd, input.data(), input.size(), MSG_NOSIGNAL);
  if (is_cut(input)) ::shutdown(fd, SHUT_WR);
  std::string answer(4096, '\0');
  std::size_t size = 0;
  ssize_t count = 0;
  while ((count = ::recv(fd, answer.data() + size, answer.size() - size, 0)) > 0 ||
         (count < 0 && errno == EINTR)) {  // the fuzzer's clock
    if (count > 0) size = std::min(size + static_cast<std::size_t>(count), answer.size() - 1);
  }
  if (count < 0 && errno != ECONNRESET) std::abort();
  ::close(fd);
  answer.resize(size);
  if (!answer.empty() && !answer.starts_with("HTTP/1.1 ")) std::abort();
  return answer.find("HTTP/1.1 503 ") != std::string::npos;
}

}  // namespace qalof::fuzz
