// Plans shards by size and writes them one at a time, then the index, then removes the other form.
#include "io/model_write.h"

#include <filesystem>
#include <list>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "io/safetensors.h"

namespace qalof::io {

namespace fs = std::filesystem;

namespace {

struct Shard {
  std::vector<const TensorToMake*> tensors;
  std::uint64_t bytes = 0;
};

std::vector<Shard> split(const std::vector<TensorToMake>& tensors, std::size_t element,
                         std::uint64_t shard_bytes) {
  std::vector<Shard> shards(1);
  for (const TensorToMake& tensor : tensors) {
    std::uint64_t bytes = element;
    for (const std::size_t extent : tensor.shape) bytes *= extent;
    if (shards.back().bytes > 0 && shards.back().bytes + bytes > shard_bytes) shards.emplace_back();
    shards.back().tensors.push_back(&tensor);
    shards.back().bytes += bytes;
  }
  return shards;
}

void write_shard(const std::string& path, const Shard& shard, bool bf16,
                 const std::function<void()>& made) {
  // Lists, because their elements do not move: TensorToWrite holds views of them.
  std::list<std::vector<float>> floats;
  std::list<std::vector<std::byte>> halves;
  std::vector<TensorToWrite> tensors;
  for (const TensorToMake* tensor : shard.tensors) {
    std::vector<float> values = tensor->make();
    std::span<const std::byte> bytes;
    if (bf16) {
      bytes = halves.emplace_back(bf16_bytes(values));
    } else {
      bytes = std::as_bytes(std::span<const float>(floats.emplace_back(std::move(values))));
    }
    tensors.push_back({tensor->name, bf16 ? DType::kBF16 : DType::kF32, tensor->shape, bytes});
    made();
  }
  write_safetensors(path, std::move(tensors), {});
}

}  // namespace

void write_model_weights(const std::string& directory, const std::vector<TensorToMake>& tensors,
                         bool bf16, const std::function<void()>& made, std::uint64_t shard_bytes) {
  const std::vector<Shard> shards = split(tensors, bf16 ? 2 : 4, shard_bytes);
  const fs::path whole = fs::path(directory) / "model.safetensors",
                 index_path = fs::path(directory) / "model.safetensors.index.json";
  std::error_code ignored;  // the files to remove may not exist
  if (shards.size() == 1) {
    write_shard(whole.string(), shards.front(), bf16, made);
    fs::remove(index_path, ignored);
    return;
  }
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_shard((fs::path(directory) / name).string(), shards[i], bf16, made);
    for (const TensorToMake* tensor : shards[i].tensors) index["weight_map"][tensor->name] = name;
    total += shards[i].bytes;
  }
  index["metadata"]["total_size"] = total;
  write_file_atomic(index_path.string(), index.dump(2) + "\n");
  fs::remove(whole, ignored);
}

}  // namespace qalof::io
