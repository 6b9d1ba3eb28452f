// Requests and responses as values, without sockets, and errors in the form of OpenAI's API.
#pragma once

#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"

namespace qalof::serve {

/// One request; values of headers have no control bytes.
struct HttpRequest {
  std::string method;  // "POST"
  std::string target;  // as sent: "/v1/models?x"
  std::string content_type, authorization, host, origin;
  std::string client;  // address, for the log
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
};

/// What the log says of one request; filled while it is served.
struct RequestRecord {
  std::string route;  // "/v1/completions"; "" where none matched
  std::string model, precision;
  std::size_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
  double first_token_seconds = 0;  // 0: there was none
};

/// Where the response to one request goes: send alone, or begin, write any number of times, end.
/// Calls come one after the other, from any thread.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual void send(HttpResponse response) = 0;
  /// Begins a stream; the head's body is empty.
  virtual void begin(HttpResponse head) = 0;
  virtual void write(std::string bytes) = 0;
  virtual void end() = 0;

  /// The client has left: work for it may stop. Any thread.
  void abandon() { abandoned_.store(true, std::memory_order_relaxed); }
  bool is_abandoned() const { return abandoned_.load(std::memory_order_relaxed); }
  RequestRecord record;  // written before the last call alone

 private:
  std::atomic<bool> abandoned_{false};
};

/// A refusal that the client is told.
struct ApiError : std::runtime_error {
  ApiError(int status_code, const std::string& sentence, std::string parameter = "",
           std::string error_code = "")
      : std::runtime_error(sentence),
        status(status_code),
        param(std::move(parameter)),
        code(std::move(error_code)) {}
  int status;
  std::string param;  // the field; "" = none
  std::string code;   // "model_not_found"; "" = none
};

/// {"error": {"message", "type", "param", "code"}}
Json error_json(const ApiError& error);
HttpResponse error_response(const ApiError& error);
HttpResponse json_response(const Json& json);
/// Text of a JSON value; strings that are not UTF-8 are mended.
std::string json_text(const Json& json);
/// "Not Found" of 404.
std::string_view reason_phrase(int status);

}  // namespace qalof::serve
