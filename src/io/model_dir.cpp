// Opens model directories: finds shards, strips wrapper prefixes, drops buffers, and explains what
// is wrong with directories that are not models.
#include "io/model_dir.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <set>
#include <span>

#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "core/hash.h"
#include "core/name_pattern.h"
#include "io/limits.h"

namespace qalof::io {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxIndexBytes = std::size_t{16} << 20;
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;  // converted at once, then released
// Wrappers first, then the decoder's own prefixes.
constexpr std::array<std::string_view, 7> kPrefixes = {
    "module.",      "_orig_mod.", "base_model.",    "pretrained_model.",
    "transformer.", "model.",     "language_model."};
constexpr std::size_t kNumWrappers = 4;

// Files of a shard index and the tensors each must hold.
std::map<std::string, std::set<std::string>> read_index(const std::string& path) {
  const Json index = read_json_file(path, kMaxIndexBytes);
  QALOF_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
              ErrorKind::kBadInput, "{}: weight_map is missing or not an object", path);
  std::map<std::string, std::set<std::string>> files;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    QALOF_CHECK(file.is_string(), ErrorKind::kBadInput,
                "{}: weight_map[\"{:.80}\"] is not a file name", path, tensor);
    const auto name = file.get<std::string>();
    QALOF_CHECK(
        !name.empty() && name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
            name[0] != '.' && name.ends_with(".safetensors"),
        ErrorKind::kBadInput,
        "{}: weight_map names \"{:.80}\", expected a bare .safetensors file name", path, name);
    files[name].insert(tensor);
  }
  QALOF_CHECK(!files.empty(), ErrorKind::kBadInput, "{}: weight_map is empty", path);
  return files;
}

// The numbers in model-00002-of-00003.safetensors; nullopt for other names.
struct ShardName {
  std::size_t number = 0, count = 0;
};
std::optional<ShardName> parse_shard_name(const std::string& name) {
  ShardName shard;
  int end = 0;
  const bool matches = std::sscanf(name.c_str(), "model-%5zu-of-%5zu.safetensors%n", &shard.number,
                                   &shard.count, &end) == 2;
  if (!matches || static_cast<std::size_t>(end) != name.size()) return std::nullopt;
  return shard;
}

// Refuses a directory of shards without the index that says what they hold.
void refuse_shards_without_index(const fs::path& directory) {
  std::set<std::size_t> found;
  ShardName last;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored)) {
    const std::optional<ShardName> shard = parse_shard_name(entry.path().filename().string());
    if (!shard) continue;
    found.insert(shard->number);
    last = *shard;
  }
  if (found.empty()) return;
  fail(ErrorKind::kNotFound,
       "{}: has {} of {} parts (model-{:05}-of-{:05}.safetensors) but no "
       "model.safetensors.index.json, which says what each holds",
       directory.string(), found.size(), last.count, *found.begin(), last.count);
}

// Refuses a directory that holds a GGUF file instead of a model, naming the file.
void refuse_gguf(const fs::path& directory) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored)) {
    if (entry.path().extension() == ".gguf") {
      fail(ErrorKind::kUnsupported,
           "{}: is no model directory but holds a GGUF file; qalof import {} --output_dir DIR "
           "makes one of it",
           directory.string(), entry.path().string());
    }
  }
}

[[noreturn]] void fail_without_weights(const fs::path& directory) {
  refuse_shards_without_index(directory);
  for (const char* pickled : {"pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt",
                              "flax_model.msgpack", "tf_model.h5"}) {
    if (path_exists((directory / pickled).string())) {
      fail(ErrorKind::kUnsupported,
           "{}: only {} is there, which is not read (pickled files can run code); save it again as "
           "model.safetensors",
           directory.string(), pickled);
    }
  }
  refuse_gguf(directory);
  fail(ErrorKind::kNotFound, "{}: has neither model.safetensors nor model.safetensors.index.json",
       directory.string());
}

// Refuses a path that is a file, naming its format by its first bytes.
[[noreturn]] void fail_for_file(const std::string& path) {
  constexpr std::size_t kMagicBytes = 9;
  const std::string start = read_start(path, kMagicBytes);
  QALOF_CHECK(!start.starts_with("GGUF"), ErrorKind::kBadInput,
              "{}: is a GGUF file; qalof import {} --output_dir DIR makes a model directory of it",
              path, path);
  QALOF_CHECK(start.size() < kMagicBytes || start.back() != '{', ErrorKind::kBadInput,
              "{}: is a safetensors file alone, expected the directory that holds it and its "
              "config.json, or a packed file of qalof quantize",
              path);
  fail(ErrorKind::kBadInput, "{}: is neither a model directory nor a packed file of qalof quantize",
       path);
}

// Refuses an index that names files which do not exist.
void check_shards(const std::string& index,
                  const std::map<std::string, std::set<std::string>>& mapped) {
  std::vector<std::string> missing;
  for (const auto& [file, tensors] : mapped) {
    if (!path_exists((fs::path(index).parent_path() / file).string())) missing.push_back(file);
  }
  if (missing.empty()) return;
  const std::size_t count = missing.size();
  constexpr std::size_t kMaxNamed = 4;
  missing.resize(std::min(count, kMaxNamed));
  fail(ErrorKind::kNotFound, "{}: {} of the {} files it names {} not there: {}{}", index, count,
       mapped.size(), count == 1 ? "is" : "are", fmt::join(missing, ", "),
       count > kMaxNamed ? ", ..." : "");
}

// True for buffers that old files store and every version recomputes: GPT-2's causal masks
// h.N.attn.bias [1, 1, P, P] and h.N.attn.masked_bias [], rotary frequencies (inside a layer or
// beside the layers), and positions.
bool is_buffer(std::string_view name, const TensorView& view) {
  for (const std::string_view last :
       {"attn.masked_bias", "rotary_emb.inv_freq", "rotary_emb.original_inv_freq",
        "rotary_emb.cos_cached", "rotary_emb.sin_cached", "position_ids"}) {
    if (ends_in_name(name, last)) return true;
  }
  return ends_in_name(name, "attn.bias") && view.shape.size() == 4;
}

std::string strip(std::string name, std::span<const std::string_view> prefixes) {
  for (bool changed = true; changed;) {
    changed = false;
    for (const std::string_view prefix : prefixes) {
      if (!name.starts_with(prefix)) continue;
      name.erase(0, prefix.size());
      changed = true;
    }
  }
  return name;
}

}  // namespace

std::string strip_prefixes(std::string name) { return strip(std::move(name), kPrefixes); }

std::string strip_wrappers(std::string name) {
  return strip(std::move(name), std::span(kPrefixes).first(kNumWrappers));
}

ModelDir ModelDir::open(const std::string& path) {
  QALOF_CHECK(path_exists(path), ErrorKind::kNotFound, "{}: no such model directory", path);
  if (!is_directory(path)) fail_for_file(path);
  ModelDir dir;
  dir.path_ = path;
  for (const char* name : {"qalof.json", "adapter_config.json"}) {
    QALOF_CHECK(path_exists(dir.config_path()) || !path_exists(path + "/" + name),
                ErrorKind::kBadInput,
                "{}: is an adapter directory ({}), give it as --adapter and its base as "
                "--model_name_or_path",
                path, name);
  }
  if (!path_exists(dir.config_path())) refuse_gguf(path);
  dir.config_ = read_json_file(dir.config_path(), kMaxConfigBytes);
  if (const std::string generation = path + "/generation_config.json"; path_exists(generation)) {
    const Json json = read_json_file(generation, kMaxConfigBytes);
    const bool says = json.is_object() && json.contains("eos_token_id") &&
                      !json["eos_token_id"].is_null() && dir.config_.is_object();
    if (says) dir.config_["eos_token_id"] = json["eos_token_id"];
  }
  std::map<std::string, std::set<std::string>> mapped;
  if (path_exists(path + "/model.safetensors")) {
    mapped["model.safetensors"];
  } else if (const fs::path index = fs::path(path) / "model.safetensors.index.json";
             path_exists(index.string())) {
    mapped = read_index(index.string());
    check_shards(index.string(), mapped);
  } else {
    fail_without_weights(path);
  }
  for (const auto& [file_name, expected] : mapped) {
    const SafetensorsFile& file =
        dir.files_.emplace(file_name, SafetensorsFile::open((fs::path(path) / file_name).string()))
            .first->second;
    for (const std::string& name : expected) {
      QALOF_CHECK(file.tensors().contains(name), ErrorKind::kBadInput,
                  "{}: tensor {} is missing, the index maps it there", file.path(), name);
    }
    for (const auto& [name, view] : file.tensors()) {
      const std::string bare = strip_prefixes(name);
      if (is_buffer(bare, view)) continue;
      QALOF_CHECK(expected.empty() || expected.contains(name), ErrorKind::kBadInput,
                  "{}: tensor {} is not mapped to this file by the index", file.path(), name);
      QALOF_CHECK(dir.tensors_.emplace(bare, Stored{&view, &name}).second, ErrorKind::kBadInput,
                  "{}: tensor {} stands for {}, which another tensor is already", file.path(), name,
                  bare);
    }
  }
  for (const auto& [name, view] : dir.tensors_) dir.names_.push_back(name);
  return dir;
}

const TensorView* ModelDir::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : it->second.view;
}

void ModelDir::copy_as_f32(const TensorView& view, std::size_t first, std::span<float> dst) const {
  const auto element = static_cast<std::size_t>(dtype_bits(view.dtype)) / 8;
  const std::byte* begin = view.bytes.data();
  const auto file = std::find_if(files_.begin(), files_.end(), [&](const auto& entry) {
    const std::span<const std::byte> bytes = entry.second.file_bytes();
    return begin >= bytes.data() && begin < bytes.data() + bytes.size();
  });
  // Releasing fewer pages gains nothing: embedding rows are read one by one.
  constexpr std::size_t kWorthReleasing = std::size_t{1} << 20;
  for (std::size_t done = 0; done < dst.size();) {
    const std::size_t count = std::min(dst.size() - done, kChunkBytes / element);
    const auto bytes = view.bytes.subspan((first + done) * element, count * element);
    const auto part = dst.subspan(done, count);
    io::copy_as_f32(view.dtype, bytes, part);
    if (first_not_finite(part) != count) fail_not_finite(view, part, first + done);
    if (bytes.size() >= kWorthReleasing && file != files_.end()) file->second.release(bytes);
    done += count;
  }
}

void ModelDir::fail_not_finite(const TensorView& view, std::span<const float> values,
                               std::size_t first) const {
  for (const auto& [bare, stored] : tensors_) {
    if (stored.view == &view) check_finite_tensor(values, path_, *stored.name, first);
  }
  check_finite_tensor(values, path_, "of another directory", first);
}

std::string ModelDir::sha256() const {
  std::call_once(digest_->once, [this] {
    Sha256 hash;
    for (const auto& [name, file] : files_) {
      for (auto rest = file.file_bytes(); !rest.empty();) {
        const auto chunk = rest.first(std::min(rest.size(), kChunkBytes));
        hash.update(chunk);
        file.release(chunk);
        rest = rest.subspan(chunk.size());
      }
    }
    digest_->hex = hash.finish();
  });
  return digest_->hex;
}

}  // namespace qalof::io
