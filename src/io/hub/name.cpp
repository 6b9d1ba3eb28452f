// Parses names of hub repositories and judges names that become paths.
#include "io/hub/name.h"

#include <algorithm>

namespace qalof::io {

namespace {

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// One half of org/name, by the rules of Python's huggingface_hub.
bool is_repository_part(std::string_view part) {
  constexpr std::size_t kLongest = 96;
  return !part.empty() && part.size() <= kLongest && is_word(part.front()) &&
         is_word(part.back()) &&
         std::all_of(part.begin(), part.end(),
                     [](char c) { return is_word(c) || c == '-' || c == '.'; }) &&
         part.find("--") == std::string_view::npos && part.find("..") == std::string_view::npos &&
         !part.ends_with(".git");
}

}  // namespace

std::string to_string(const HubName& name) {
  std::string text = name.repository;
  if (!name.file.empty()) text += "/" + name.file;
  if (name.revision != "main") text += "@" + name.revision;
  return text;
}

bool is_pickle_name(std::string_view path) {
  for (const std::string_view end : {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}) {
    if (path.ends_with(end)) return true;
  }
  return false;
}

bool is_hex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool is_commit(std::string_view text) { return text.size() == 40 && is_hex(text); }

bool is_safe_hub_path(std::string_view path) {
  constexpr std::size_t kLongest = 1024, kLongestPart = 255;
  if (path.empty() || path.size() > kLongest) return false;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.front() == '-') return false;
    if (part.size() > kLongestPart) return false;
    begin = end + 1;
  }
  return std::all_of(path.begin(), path.end(),
                     [](char c) { return c >= ' ' && c < '\x7f' && c != '\\'; });
}

std::optional<HubName> parse_hub_name(std::string_view text) {
  HubName name;
  if (const std::size_t at = text.find('@'); at != std::string_view::npos) {
    name.revision = text.substr(at + 1);
    if (!is_safe_hub_path(name.revision) || name.revision.find(' ') != std::string::npos)
      return std::nullopt;
    text = text.substr(0, at);
  }
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const std::size_t end = std::min(text.find('/', slash + 1), text.size());
  if (!is_repository_part(text.substr(0, slash)) ||
      !is_repository_part(text.substr(slash + 1, end - slash - 1))) {
    return std::nullopt;
  }
  name.repository = text.substr(0, end);
  if (end == text.size()) return name;
  name.file = text.substr(end + 1);
  if (!is_safe_hub_path(name.file)) return std::nullopt;
  if (!name.file.ends_with(".gguf") && !name.file.ends_with(".qalof")) return std::nullopt;
  return name;
}

}  // namespace qalof::io
