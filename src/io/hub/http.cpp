// Loads libcurl and drives its easy interface.
#include "io/hub/http.h"

#include "core/ascii.h"
#include "core/error.h"

#ifdef QALOF_HAS_CURL
#define CURL_DISABLE_TYPECHECK  // calls go through pointers
#include <curl/curl.h>
#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <exception>
#endif

namespace qalof::io {

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

bool HttpUrl::is_loopback() const {
  const std::string name = lower_ascii(host);
  if (name == "localhost" || name == "[::1]" || name == "::1") return true;
  return name.starts_with("127.") && name.find_first_not_of("0123456789.") == std::string::npos;
}

#ifndef QALOF_HAS_CURL

namespace {

constexpr const char* kMissing =
    "this build has no downloads, as libcurl's headers were missing (libcurl4-openssl-dev)";

}  // namespace

std::string http_library(bool* available) {
  *available = false;
  return kMissing;
}

HttpClient::HttpClient(Settings settings) : settings_(std::move(settings)) {
  fail(ErrorKind::kUnsupported, "{}", kMissing);
}
HttpClient::~HttpClient() = default;
HttpUrl HttpClient::parse(const std::string&) const { return {}; }
HttpUrl HttpClient::resolve(const HttpUrl&, const std::string&) const { return {}; }
HttpResponse HttpClient::get(const HttpUrl&, const std::vector<std::string>&, const OnHead&,
                             const OnBody&) {
  return {};
}

#else

namespace {

// The functions of libcurl that are used. Its interface has been the same since 2006.
struct CurlLibrary {
  std::string missing;  // why it cannot be used, or ""
  decltype(&::curl_global_init) global_init = nullptr;
  decltype(&::curl_version) version = nullptr;
  decltype(&::curl_easy_init) easy_init = nullptr;
  decltype(&::curl_easy_cleanup) easy_cleanup = nullptr;
  decltype(&::curl_easy_reset) easy_reset = nullptr;
  decltype(&::curl_easy_setopt) easy_setopt = nullptr;
  decltype(&::curl_easy_getinfo) easy_getinfo = nullptr;
  decltype(&::curl_easy_perform) easy_perform = nullptr;
  decltype(&::curl_easy_strerror) easy_strerror = nullptr;
  decltype(&::curl_slist_append) slist_append = nullptr;
  decltype(&::curl_slist_free_all) slist_free_all = nullptr;
  decltype(&::curl_url) url = nullptr;
  decltype(&::curl_url_cleanup) url_cleanup = nullptr;
  decltype(&::curl_url_set) url_set = nullptr;
  decltype(&::curl_url_get) url_get = nullptr;
  decltype(&::curl_free) free_text = nullptr;

  CurlLibrary() {
    void* library = nullptr;
    // The second is Debian's build with GnuTLS; both have one interface.
    for (const char* name : {"libcurl.so.4", "libcurl-gnutls.so.4"}) {
      if (library == nullptr) library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (library == nullptr) {
      missing =
          "downloads need libcurl.so.4, which is not installed (Debian: apt install libcurl4)";
      return;
    }
    load(library, "curl_global_init", global_init);
    load(library, "curl_version", version);
    load(library, "curl_easy_init", easy_init);
    load(library, "curl_easy_cleanup", easy_cleanup);
    load(library, "curl_easy_reset", easy_reset);
    load(library, "curl_easy_setopt", easy_setopt);
    load(library, "curl_easy_getinfo", easy_getinfo);
    load(library, "curl_easy_perform", easy_perform);
    load(library, "curl_easy_strerror", easy_strerror);
    load(library, "curl_slist_append", slist_append);
    load(library, "curl_slist_free_all", slist_free_all);
    load(library, "curl_url", url);
    load(library, "curl_url_cleanup", url_cleanup);
    load(library, "curl_url_set", url_set);
    load(library, "curl_url_get", url_get);
    load(library, "curl_free", free_text);
    if (missing.empty() && global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
      missing = "libcurl does not start";
  }

 private:
  template <typename Function>
  void load(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
    if (function == nullptr) missing = fmt::format("libcurl is too old: it has no {}", name);
  }
};

// Loaded at the first use, and kept: what it loads itself does not bear unloading.
const CurlLibrary& curl() {
  static const CurlLibrary library;
  return library;
}

// Keeps SIGPIPE of a closed connection from this thread while it lives; libcurl asks for that.
class PipeSignalBlock {
 public:
  PipeSignalBlock() {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~PipeSignalBlock() {
    const timespec now{0, 0};
    if (::sigismember(&before_, SIGPIPE) == 0) ::sigtimedwait(&pipe_, nullptr, &now);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  PipeSignalBlock(const PipeSignalBlock&) = delete;
  PipeSignalBlock& operator=(const PipeSignalBlock&) = delete;

 private:
  sigset_t pipe_{}, before_{};
};

// libcurl's parsed address.
class ParsedUrl {
 public:
  ParsedUrl() : handle_(curl().url()) {}
  ~ParsedUrl() { curl().url_cleanup(handle_); }
  ParsedUrl(const ParsedUrl&) = delete;
  ParsedUrl& operator=(const ParsedUrl&) = delete;
  bool set(const std::string& text) {
    return text.find_first_of(std::string_view("\0\r\n\t ", 5)) == std::string::npos &&
           curl().url_set(handle_, CURLUPART_URL, text.c_str(), CURLU_DISALLOW_USER) == CURLUE_OK;
  }
  std::string part(CURLUPart which) const {
    char* text = nullptr;
    if (curl().url_get(handle_, which, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return "";
    std::string copy = text;
    curl().free_text(text);
    return copy;
  }
  HttpUrl url() const {
    HttpUrl url;
    char* text = nullptr;
    if (curl().url_get(handle_, CURLUPART_URL, &text, 0) == CURLUE_OK) {
      url.text = text;
      curl().free_text(text);
    }
    url.scheme = lower_ascii(part(CURLUPART_SCHEME));
    url.host = lower_ascii(part(CURLUPART_HOST));
    url.origin = fmt::format("{}://{}:{}", url.scheme, url.host, part(CURLUPART_PORT));
    return url;
  }

 private:
  CURLU* handle_;
};

HttpUrl checked_url(const ParsedUrl& parsed, bool is_set, const std::string& text, ErrorKind kind) {
  HttpUrl url = is_set ? parsed.url() : HttpUrl{};
  QALOF_CHECK(!url.host.empty() && (url.scheme == "https" || url.scheme == "http"), kind,
              "{:.200}: is no https address",
              text.substr(text.rfind('@') + 1));  // what stands before may be a password
  return url;
}

// Failures that another try may not see.
bool may_pass(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string http_library(bool* available) {
  *available = curl().missing.empty();
  return *available ? curl().version() : curl().missing;
}

// What the callbacks of one request share.
struct HttpClient::Transfer {
  const Settings& settings;
  const OnHead& on_head;
  const OnBody& on_body;
  HttpResponse response;
  std::size_t header_bytes = 0;
  bool is_told = false, is_refused = false;
  std::exception_ptr thrown;

  // Runs a callback of the caller; false ends the transfer.
  template <typename Call>
  bool guarded(const Call& call) {
    try {
      if (call()) return true;
      is_refused = true;
    } catch (...) {
      thrown = std::current_exception();
    }
    return false;
  }
  bool tell_head() {
    if (is_told) return true;
    is_told = true;
    return guarded([&] { return !on_head || on_head(response); });
  }

  static std::size_t take_header(char* text, std::size_t size, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    constexpr std::size_t kMostBytes = std::size_t{256} << 10;
    std::string_view line(text, size * count);
    transfer.header_bytes += line.size();
    if (transfer.header_bytes > kMostBytes) return 0;
    while (line.ends_with('\n') || line.ends_with('\r') || line.ends_with(' '))
      line.remove_suffix(1);
    if (line.starts_with("HTTP/")) {  // of a proxy, or an interim answer: the last ones count
      transfer.response.headers.clear();
      transfer.response.status = 0;
      const std::size_t space = std::min(line.find(' '), line.size());
      for (const char digit : line.substr(std::min(space + 1, line.size())).substr(0, 3)) {
        if (digit < '0' || digit > '9') break;
        transfer.response.status = transfer.response.status * 10 + (digit - '0');
      }
      return size * count;
    }
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return size * count;
    std::string_view value = line.substr(colon + 1);
    while (value.starts_with(' ') || value.starts_with('\t')) value.remove_prefix(1);
    transfer.response.headers[lower_ascii(std::string(line.substr(0, colon)))] = value;
    return size * count;
  }

  static std::size_t take_body(char* bytes, std::size_t size, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    if (!transfer.tell_head()) return 0;
    const std::span<const char> part(bytes, size * count);
    const bool goes_on = transfer.guarded(
        [&] { return !transfer.on_body || transfer.on_body(std::as_bytes(part)); });
    return goes_on ? size * count : 0;
  }

  static int pass_time(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto& transfer = *static_cast<Transfer*>(self);
    const auto& should_stop = transfer.settings.should_stop;
    if (!should_stop) return 0;
    return transfer.guarded([&] {
      QALOF_CHECK(!should_stop(), ErrorKind::kInterrupted, "stopped");
      return true;
    })
               ? 0
               : 1;
  }
};

HttpClient::HttpClient(Settings settings) : settings_(std::move(settings)) {
  QALOF_CHECK(curl().missing.empty(), ErrorKind::kUnsupported, "{}", curl().missing);
  handle_ = curl().easy_init();
  QALOF_CHECK(handle_ != nullptr, ErrorKind::kResource, "libcurl does not start: out of memory");
}

HttpClient::~HttpClient() {
  if (handle_ != nullptr) curl().easy_cleanup(handle_);
}

HttpUrl HttpClient::parse(const std::string& text) const {
  ParsedUrl parsed;
  const bool is_set = parsed.set(text);
  return checked_url(parsed, is_set, text, ErrorKind::kUsage);
}

HttpUrl HttpClient::resolve(const HttpUrl& base, const std::string& reference) const {
  ParsedUrl parsed;
  const bool is_set = parsed.set(base.text) && parsed.set(reference);
  return checked_url(parsed, is_set, reference, ErrorKind::kNetwork);
}

HttpResponse HttpClient::get(const HttpUrl& url, const std::vector<std::string>& headers,
                             const OnHead& on_head, const OnBody& on_body) {
  const CurlLibrary& library = curl();
  auto* const handle = static_cast<CURL*>(handle_);
  Transfer transfer{settings_, on_head, on_body, {}, 0, false, false, nullptr};
  library.easy_reset(handle);  // keeps connections
  curl_slist* list = nullptr;
  for (const std::string& header : headers) list = library.slist_append(list, header.c_str());
  const auto set = [&](CURLoption option, auto value) {
    const CURLcode code = library.easy_setopt(handle, option, value);
    QALOF_CHECK(code == CURLE_OK, ErrorKind::kInternal, "libcurl: option {}: {}",
                static_cast<int>(option), library.easy_strerror(code));
  };
  char reason[CURL_ERROR_SIZE] = "";
  set(CURLOPT_ERRORBUFFER, static_cast<char*>(reason));
  set(CURLOPT_URL, url.text.c_str());
  set(CURLOPT_HTTPHEADER, list);
  set(CURLOPT_USERAGENT, "qalof");
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_FOLLOWLOCATION, 0L);  // the caller judges each address; url's scheme is checked
  if (url.is_loopback()) set(CURLOPT_NOPROXY, "*");
  if (!settings_.certificates.empty()) set(CURLOPT_CAINFO, settings_.certificates.c_str());
  set(CURLOPT_CONNECTTIMEOUT_MS, std::lround(settings_.connect_seconds * 1000));
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, std::max(1L, std::lround(std::ceil(settings_.silence_seconds))));
  set(CURLOPT_HEADERFUNCTION, &Transfer::take_header);
  set(CURLOPT_HEADERDATA, static_cast<void*>(&transfer));
  set(CURLOPT_WRITEFUNCTION, &Transfer::take_body);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &Transfer::pass_time);
  set(CURLOPT_XFERINFODATA, static_cast<void*>(&transfer));
  const CURLcode code = [&] {
    const PipeSignalBlock block;
    return library.easy_perform(handle);
  }();
  library.slist_free_all(list);
  library.easy_setopt(handle, CURLOPT_ERRORBUFFER, static_cast<char*>(nullptr));
  if (transfer.thrown) std::rethrow_exception(transfer.thrown);
  if (code == CURLE_OK) transfer.tell_head();  // of an empty body
  if (transfer.thrown) std::rethrow_exception(transfer.thrown);
  if (code != CURLE_OK && !transfer.is_refused) {
    transfer.response.failure = *reason != '\0' ? reason : library.easy_strerror(code);
    transfer.response.may_pass = may_pass(code);
  }
  return std::move(transfer.response);
}

#endif

}  // namespace qalof::io
