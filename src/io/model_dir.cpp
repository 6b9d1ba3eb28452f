#include "io/model_dir.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"

namespace qalof::io {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxIndexBytes = std::size_t{16} << 20;
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;  // read at once before it is released
constexpr std::array<std::string_view, 5> kPrefixes = {"module.", "_orig_mod.", "base_model.model.",
                                                       "transformer.", "model."};

// Files of a shard index, with the tensors each must hold.
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

[[noreturn]] void fail_without_weights(const fs::path& directory) {
  for (const char* pickled : {"pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt",
                              "flax_model.msgpack", "tf_model.h5"}) {
    if (path_exists((directory / pickled).string())) {
      fail(ErrorKind::kUnsupported,
           "{}: only {} is there, which is not read (pickled files can run code); save it again as "
           "model.safetensors",
           directory.string(), pickled);
    }
  }
  fail(ErrorKind::kNotFound, "{}: has neither model.safetensors nor model.safetensors.index.json",
       directory.string());
}

// Causal-mask buffers that old GPT-2 files carry: h.N.attn.bias [1, 1, P, P] and
// h.N.attn.masked_bias [].
bool is_mask_buffer(const std::string& name, const TensorView& view) {
  return name.ends_with(".attn.masked_bias") ||
         (name.ends_with(".attn.bias") && view.shape.size() == 4);
}

}  // namespace

std::string strip_prefixes(std::string name) {
  for (bool changed = true; changed;) {
    changed = false;
    for (const std::string_view prefix : kPrefixes) {
      if (!name.starts_with(prefix)) continue;
      name.erase(0, prefix.size());
      changed = true;
    }
  }
  return name;
}

ModelDir ModelDir::open(const std::string& path) {
  QALOF_CHECK(path_exists(path), ErrorKind::kNotFound, "{}: no such model directory", path);
  QALOF_CHECK(is_directory(path), ErrorKind::kBadInput,
              "{}: is neither a model directory nor a packed file of qalof quantize", path);
  ModelDir dir;
  dir.path_ = path;
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
      QALOF_CHECK(expected.empty() || expected.contains(name), ErrorKind::kBadInput,
                  "{}: tensor {} is not mapped to this file by the index", file.path(), name);
      const std::string bare = strip_prefixes(name);
      if (is_mask_buffer(bare, view)) continue;
      QALOF_CHECK(dir.tensors_.emplace(bare, &view).second, ErrorKind::kBadInput,
                  "{}: tensor {} stands for {}, which another tensor is already", file.path(), name,
                  bare);
    }
  }
  for (const auto& [name, view] : dir.tensors_) dir.names_.push_back(name);
  return dir;
}

const TensorView* ModelDir::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : it->second;
}

void ModelDir::copy_as_f32(const TensorView& view, std::size_t first, std::span<float> dst) const {
  const auto element = static_cast<std::size_t>(dtype_bits(view.dtype)) / 8;
  const std::byte* begin = view.bytes.data();
  const auto file = std::find_if(files_.begin(), files_.end(), [&](const auto& entry) {
    const std::span<const std::byte> bytes = entry.second.file_bytes();
    return begin >= bytes.data() && begin < bytes.data() + bytes.size();
  });
  // Fewer pages are no gain: rows of embeddings come one by one.
  constexpr std::size_t kWorthReleasing = std::size_t{1} << 20;
  for (std::size_t done = 0; done < dst.size();) {
    const std::size_t count = std::min(dst.size() - done, kChunkBytes / element);
    const auto bytes = view.bytes.subspan((first + done) * element, count * element);
    io::copy_as_f32(view.dtype, bytes, dst.subspan(done, count));
    if (bytes.size() >= kWorthReleasing && file != files_.end()) file->second.release(bytes);
    done += count;
  }
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
