// Chooses files of a hub repository by their names.
#include "io/hub/select.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "io/adapter_dir.h"
#include "io/limits.h"

namespace qalof::io {

namespace {

constexpr const char* kConfig = "config.json";
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kOurAdapters = "qalof.json";
// Of a PEFT adapter, and what a training output has beside them in each width's directory.
constexpr const char* kAdapterConfig = "adapter_config.json";
constexpr const char* kAdapterWeights = "adapter_model.safetensors";
constexpr const char* kLearnedValues = "quant.safetensors";
constexpr std::array kTokenizerFiles = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "tokenizer.model",
                                        "chat_template.jinja",
                                        "chat_template.json"};

const HubFile* find(const HubListing& listing, std::string_view path) {
  const auto found = std::find_if(listing.begin(), listing.end(),
                                  [&](const HubFile& file) { return file.path == path; });
  return found == listing.end() ? nullptr : &*found;
}

bool has_gguf(const HubListing& listing) {
  return std::any_of(listing.begin(), listing.end(),
                     [](const HubFile& file) { return file.path.ends_with(".gguf"); });
}

// Says what a repository has instead of what is wanted.
[[noreturn]] void fail_without(const HubListing& listing, const HubName& name, const char* wanted) {
  std::vector<std::string> pickles, gguf;
  for (const HubFile& file : listing) {
    if (is_pickle_name(file.path)) pickles.push_back(file.path);
    if (file.path.ends_with(".gguf")) gguf.push_back(file.path);
  }
  constexpr std::size_t kMostNamed = 4;
  const auto some = [](std::vector<std::string> names) {
    const bool cut = names.size() > kMostNamed;
    if (cut) names.resize(kMostNamed);
    return fmt::format("{}{}", fmt::join(names, ", "), cut ? ", ..." : "");
  };
  const std::string text = to_string(name);
  if (!gguf.empty()) {
    fail(ErrorKind::kUnsupported,
         "{}: holds {}, but GGUF files ({}); name one: qalof import {}/{} --output_dir DIR", text,
         wanted, some(gguf), name.repository, gguf.front());
  }
  QALOF_CHECK(pickles.empty(), ErrorKind::kUnsupported,
              "{}: holds {}, but {}: pickled files are not read because they can run code; look "
              "for a repository or revision with safetensors",
              text, wanted, some(pickles));
  fail(ErrorKind::kBadInput, "{}: holds {}", text, wanted);
}

void add_if_listed(const HubListing& listing, std::string_view path, std::vector<HubFile>& files) {
  if (const HubFile* file = find(listing, path)) files.push_back(*file);
}

bool add_weights(const HubListing& listing, std::vector<HubFile>& files) {
  const HubFile* weights = find(listing, kWeights);
  if (weights == nullptr) weights = find(listing, kShardIndex);
  if (weights != nullptr) files.push_back(*weights);
  return weights != nullptr;
}

bool add_adapters(const HubListing& listing, std::vector<HubFile>& files) {
  const HubFile* ours = find(listing, kOurAdapters);
  if (ours == nullptr) {
    const HubFile* config = find(listing, kAdapterConfig);
    const HubFile* weights = find(listing, kAdapterWeights);
    if (config == nullptr || weights == nullptr) return false;
    files.insert(files.end(), {*config, *weights});
    return true;
  }
  files.push_back(*ours);
  for (const HubFile& file : listing) {
    const std::size_t slash = file.path.find('/');
    if (slash == std::string::npos) continue;
    const std::string_view rest = std::string_view(file.path).substr(slash + 1);
    if (rest == kAdapterConfig || rest == kAdapterWeights || rest == kLearnedValues)
      files.push_back(file);
  }
  return true;
}

// "model-00001-of-00003.gguf" -> "model-" and "-of-00003.gguf"; nothing for a file of one part.
std::optional<std::pair<std::string, std::string>> split_parts(const std::string& path) {
  const std::size_t of = path.rfind("-of-");
  constexpr std::size_t kDigits = 5;
  if (!path.ends_with(".gguf") || of == std::string::npos || of < kDigits + 1) return std::nullopt;
  const std::string number = path.substr(of - kDigits, kDigits);
  if (number.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  return std::pair(path.substr(0, of - kDigits), path.substr(of));
}

std::vector<HubFile> select_one(const HubListing& listing, const HubName& name) {
  std::vector<HubFile> files;
  add_if_listed(listing, name.file, files);
  if (files.empty()) {
    HubName whole = name;
    whole.file.clear();
    QALOF_CHECK(has_gguf(listing), ErrorKind::kNotFound, "{}: holds no file {}", to_string(whole),
                name.file);
    fail_without(listing, whole, fmt::format("no file {}", name.file).c_str());
  }
  const auto parts = split_parts(name.file);
  if (!parts) return files;
  for (const HubFile& file : listing) {
    const auto other = split_parts(file.path);
    if (other && *other == *parts && file.path != name.file) files.push_back(file);
  }
  return files;
}

// The sub-directories of a training output whose adapters it lists.
std::set<std::string> adapter_directories(const std::string& snapshot) {
  std::set<std::string> names;
  const AdapterDir dir = read_adapter_dir(snapshot);
  for (const auto* side : {&dir.adapters, &dir.heads, &dir.quantizers}) {
    for (const auto& [width, name] : *side) names.insert(name);
  }
  return names;
}

std::string missing_weights(const HubRepository& cache, const std::string& commit) {
  if (cache.has(commit, kWeights)) return "";
  if (!cache.has(commit, kShardIndex)) return kWeights;
  const std::string path = cache.snapshot(commit) + "/" + kShardIndex;
  const Json index = read_json_file(path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    return kShardIndex;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string() || !is_safe_hub_path(file.get_ref<const std::string&>()))
      return kShardIndex;
    if (!cache.has(commit, file.get<std::string>())) return file.get<std::string>();
  }
  return "";
}

std::string missing_adapters(const HubRepository& cache, const std::string& commit) {
  if (!cache.has(commit, kOurAdapters)) {
    for (const char* file : {kAdapterConfig, kAdapterWeights}) {
      if (!cache.has(commit, file)) return file;
    }
    return "";
  }
  for (const std::string& directory : adapter_directories(cache.snapshot(commit))) {
    for (const char* file : {kAdapterConfig, kAdapterWeights}) {
      std::string path = directory + "/" + file;
      if (!cache.has(commit, path)) return path;
    }
  }
  return "";
}

// The first part of a file that is not there, or "".
std::string missing_parts(const HubRepository& cache, const std::string& commit,
                          const std::string& file) {
  if (!cache.has(commit, file)) return file;
  const auto parts = split_parts(file);
  if (!parts) return "";
  constexpr std::size_t kBeforeCount = 4, kDigits = 5;  // "-of-00003"
  std::size_t count = 0;
  for (const char digit : parts->second.substr(kBeforeCount, kDigits)) {
    if (digit < '0' || digit > '9') return "";
    count = count * 10 + static_cast<std::size_t>(digit - '0');
  }
  for (std::size_t i = 1; i <= count; ++i) {
    std::string part = fmt::format("{}{:05}{}", parts->first, i, parts->second);
    if (!cache.has(commit, part)) return part;
  }
  return "";
}

}  // namespace

void add_listing_page(const Json& page, const std::string& where, HubListing& listing) {
  QALOF_CHECK(page.is_array(), ErrorKind::kCorruptFile, "{}: is no list of files", where);
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 50;
  for (const Json& entry : page) {
    QALOF_CHECK(entry.is_object(), ErrorKind::kCorruptFile, "{}: is no list of files", where);
    if (json_string(entry, "type", where) != "file") continue;
    HubFile file;
    file.path = json_string(entry, "path", where);
    const auto lfs = entry.find("lfs");
    const bool is_lfs = lfs != entry.end() && !lfs->is_null();
    const Json& source = is_lfs ? *lfs : entry;
    QALOF_CHECK(source.is_object(), ErrorKind::kCorruptFile, "{}: {}: lfs is no object", where,
                file.path);
    file.size = static_cast<std::uint64_t>(json_int(source, "size", where, 0, kMostBytes));
    file.hash = json_string(source, "oid", where);
    constexpr std::size_t kSha256 = 64, kSha1 = 40;
    QALOF_CHECK(file.hash.size() == (is_lfs ? kSha256 : kSha1) && is_hex(file.hash),
                ErrorKind::kCorruptFile, "{}: {}: oid {:.80} is no {}", where, file.path, file.hash,
                is_lfs ? "sha256" : "sha1");
    if (is_safe_hub_path(file.path)) listing.push_back(std::move(file));
  }
}

std::vector<HubFile> select_files(const HubListing& listing, const HubName& name, HubUse use) {
  if (!name.file.empty()) return select_one(listing, name);
  std::vector<HubFile> files;
  for (const std::string& path : optional_files(use)) add_if_listed(listing, path, files);
  const bool model = use == HubUse::kModel || use == HubUse::kAny;
  const bool adapter = use == HubUse::kAdapter || use == HubUse::kAny;
  const HubFile* config = find(listing, kConfig);
  if (model && config != nullptr) files.push_back(*config);
  const bool has_weights = model && config != nullptr && add_weights(listing, files);
  const bool has_adapters = adapter && add_adapters(listing, files);
  if (use == HubUse::kTokenizer) {
    if (config != nullptr) files.push_back(*config);
    const bool has_tokenizer =
        std::any_of(kTokenizerFiles.begin(), kTokenizerFiles.end(),
                    [&](const char* file) { return find(listing, file) != nullptr; });
    if (!has_tokenizer) fail_without(listing, name, "no tokenizer");
    return files;
  }
  if (has_weights || has_adapters) return files;
  const bool is_adapter =
      find(listing, kAdapterWeights) != nullptr || find(listing, kOurAdapters) != nullptr;
  QALOF_CHECK(use != HubUse::kModel || !is_adapter, ErrorKind::kBadInput,
              "{}: holds an adapter, give it as --adapter and its base as --model_name_or_path",
              to_string(name));
  if (use == HubUse::kAdapter) {
    QALOF_CHECK(config == nullptr || find(listing, kWeights) == nullptr, ErrorKind::kBadInput,
                "{}: holds a model and no adapter, give it as --model_name_or_path",
                to_string(name));
    fail_without(listing, name, "no adapter (adapter_config.json with adapter_model.safetensors)");
  }
  if (config == nullptr && !has_gguf(listing)) fail_without(listing, name, "no config.json");
  fail_without(listing, name, "no model.safetensors");
}

std::vector<HubFile> list_shards(const Json& index, const HubListing& listing,
                                 const HubName& name) {
  const std::string where = to_string(name) + ": " + kShardIndex;
  QALOF_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
              ErrorKind::kCorruptFile, "{}: weight_map is missing", where);
  std::set<std::string> paths;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    QALOF_CHECK(file.is_string(), ErrorKind::kCorruptFile, "{}: the file of tensor {} is no text",
                where, tensor);
    paths.insert(file.get<std::string>());
  }
  std::vector<HubFile> files;
  for (const std::string& path : paths) {
    QALOF_CHECK(path.find('/') == std::string::npos && path.ends_with(".safetensors"),
                ErrorKind::kCorruptFile,
                "{}: names {:.200}, expected a bare name of a safetensors "
                "file",
                where, path);
    const HubFile* file = find(listing, path);
    QALOF_CHECK(file != nullptr, ErrorKind::kCorruptFile,
                "{}: names {:.200}, which the repository does not list", where, path);
    files.push_back(*file);
  }
  return files;
}

std::vector<std::string> optional_files(HubUse use) {
  std::vector<std::string> names;
  if (use == HubUse::kAdapter) return names;
  names.assign(kTokenizerFiles.begin(), kTokenizerFiles.end());
  if (use != HubUse::kTokenizer) names.emplace_back("generation_config.json");
  return names;
}

std::string missing_in_cache(const HubRepository& cache, const std::string& commit,
                             const HubName& name, HubUse use, bool sure) {
  if (!name.file.empty()) return missing_parts(cache, commit, name.file);
  if (use == HubUse::kAdapter) return missing_adapters(cache, commit);
  if (use == HubUse::kAny && missing_adapters(cache, commit).empty()) return "";
  if (sure) {
    for (const std::string& file : optional_files(use)) {
      if (!cache.has(commit, file) && !cache.lacks(commit, file)) return file;
    }
  }
  if (use == HubUse::kTokenizer) {
    const bool any = std::any_of(kTokenizerFiles.begin(), kTokenizerFiles.end(),
                                 [&](const char* file) { return cache.has(commit, file); });
    return any ? "" : "tokenizer.json";
  }
  return cache.has(commit, kConfig) ? missing_weights(cache, commit) : kConfig;
}

}  // namespace qalof::io
