// Reads the variables of the environment and the token's file.
#include "io/hub/settings.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "core/ascii.h"
#include "core/error.h"
#include "core/file.h"

namespace qalof::io {

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// 1, ON, YES or TRUE, in any case.
bool is_true(const std::string& value) {
  const std::string lower = lower_ascii(value);
  return lower == "1" || lower == "on" || lower == "yes" || lower == "true";
}

std::string home() { return variable("HOME"); }

// The path a variable names, "~" at its beginning replaced; fallback where it is not set.
std::string path_variable(const char* name, const std::string& fallback) {
  const std::string value = variable(name);
  if (value.empty()) return fallback;
  return value == "~" || value.starts_with("~/") ? home() + value.substr(1) : value;
}

double seconds_variable(const char* name, double fallback) {
  const std::string value = variable(name);
  if (value.empty()) return fallback;
  char* end = nullptr;
  const double seconds = std::strtod(value.c_str(), &end);
  QALOF_CHECK(*end == '\0' && seconds >= 1 && seconds <= 86400, ErrorKind::kUsage,
              "{}: found {}, expected seconds, 1 to 86400", name, value);
  return seconds;
}

std::string read_token(const std::string& hub_home) {
  if (is_true(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) return "";
  std::string where = "HF_TOKEN", token = variable("HF_TOKEN");
  if (token.empty()) {
    where = "HUGGING_FACE_HUB_TOKEN";
    token = variable("HUGGING_FACE_HUB_TOKEN");
  }
  if (token.empty()) {
    constexpr std::size_t kMostBytes = 4096;
    where = path_variable("HF_TOKEN_PATH", hub_home + "/token");
    if (!path_exists(where)) return "";
    token = read_file(where, kMostBytes);
  }
  const std::string_view blank = " \t\r\n";
  const std::size_t begin = std::min(token.find_first_not_of(blank), token.size());
  token = token.substr(begin, token.find_last_not_of(blank) + 1 - begin);
  // A line end would begin a header of its own.
  QALOF_CHECK(std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c < '\x7f'; }),
              ErrorKind::kUsage, "{}: holds a character that no token has", where);
  return token;
}

}  // namespace

HubSettings hub_settings() {
  HubSettings settings;
  if (std::string endpoint = variable("HF_ENDPOINT"); !endpoint.empty()) {
    while (endpoint.ends_with('/')) endpoint.pop_back();
    QALOF_CHECK(endpoint.starts_with("https://") || endpoint.starts_with("http://"),
                ErrorKind::kUsage,
                "HF_ENDPOINT: found {}, expected an address that begins with "
                "https://",
                endpoint);
    settings.endpoint = endpoint;
  }
  const std::string user_cache = path_variable("XDG_CACHE_HOME", home() + "/.cache");
  const std::string hub_home = path_variable("HF_HOME", user_cache + "/huggingface");
  settings.cache =
      path_variable("HF_HUB_CACHE", path_variable("HUGGINGFACE_HUB_CACHE", hub_home + "/hub"));
  settings.token = read_token(hub_home);
  settings.certificates = path_variable("SSL_CERT_FILE", path_variable("CURL_CA_BUNDLE", ""));
  const std::string offline = variable("HF_HUB_OFFLINE");
  settings.offline = is_true(offline.empty() ? variable("TRANSFORMERS_OFFLINE") : offline);
  settings.symlinks = !is_true(variable("HF_HUB_DISABLE_SYMLINKS"));
  settings.connect_seconds = seconds_variable("HF_HUB_ETAG_TIMEOUT", settings.connect_seconds);
  settings.silence_seconds = seconds_variable("HF_HUB_DOWNLOAD_TIMEOUT", settings.silence_seconds);
  return settings;
}

}  // namespace qalof::io
