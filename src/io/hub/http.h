// HTTP requests by libcurl, which is loaded when the first one is made: a program that downloads
// nothing starts without it. One request at a time; redirects and retries are the caller's.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace qalof::io {

/// A parsed address, as libcurl understands it.
struct HttpUrl {
  std::string text;  // whole
  std::string scheme, host;
  std::string origin;  // scheme, host and port: who is asked
  bool is_secure() const { return scheme == "https"; }
  /// True for localhost, 127.0.0.0/8 and ::1.
  bool is_loopback() const;
};

struct HttpResponse {
  int status = 0;                              // 0: no answer came; failure says why
  std::map<std::string, std::string> headers;  // names in lower case; the last of equal ones
  std::string failure;                         // of the connection; "" = the answer came whole
  bool may_pass = false;                       // the failure: another try may succeed
  /// A header's value, or "".
  std::string header(const std::string& name) const;
};

/// "libcurl/7.88.1 OpenSSL/3.0.17 ..."; where it cannot be used, why not, and false in available.
std::string http_library(bool* available);

/// Keeps connections open between requests. Not thread-safe; each thread may have its own.
class HttpClient {
 public:
  struct Settings {
    double connect_seconds = 10;
    double silence_seconds = 10;        // without a byte
    std::string certificates;           // file with certificates to trust; "" = the system's
    std::function<bool()> should_stop;  // asked about once a second; may be null
  };
  /// Error{kUnsupported} where libcurl is not installed, or the build was made without it.
  explicit HttpClient(Settings settings);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// Error{kUsage} where text is no http or https address, or holds a user's name.
  HttpUrl parse(const std::string& text) const;
  /// The address that reference, absolute or not, means in an answer from base. Error{kNetwork}.
  HttpUrl resolve(const HttpUrl& base, const std::string& reference) const;

  /// Called when the headers are there, before the first byte of the body; false: no body, please.
  using OnHead = std::function<bool(const HttpResponse&)>;
  /// Called with parts of the body in turn; false: no more.
  using OnBody = std::function<bool(std::span<const std::byte>)>;
  /// GET. What callbacks throw leaves this function. A body that was not wanted is no failure.
  /// Connections to other machines go through the proxy that the environment names.
  HttpResponse get(const HttpUrl& url, const std::vector<std::string>& headers,
                   const OnHead& on_head, const OnBody& on_body);

 private:
  struct Transfer;
  Settings settings_;
  void* handle_ = nullptr;  // CURL
};

}  // namespace qalof::io
