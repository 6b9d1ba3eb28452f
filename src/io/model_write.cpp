// Plans shards by size and writes them one at a time, then the index, then removes the other form.
#include "io/model_write.h"

#include <cmath>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace qalof::io {

namespace fs = std::filesystem;

namespace {

struct Shard {
  std::vector<const TensorToMake*> tensors;
  std::uint64_t bytes = 0;
};

constexpr float kHalfLimit = 65520.0F;  // from here on, values round to infinity

std::uint64_t bytes_of_tensor(const TensorToMake& tensor, std::size_t element) {
  std::uint64_t bytes = element;
  for (const std::size_t extent : tensor.shape) bytes *= extent;
  return bytes;
}

std::vector<Shard> split(const std::vector<TensorToMake>& tensors, std::size_t element,
                         std::uint64_t shard_bytes) {
  std::vector<Shard> shards(1);
  for (const TensorToMake& tensor : tensors) {
    const std::uint64_t bytes = bytes_of_tensor(tensor, element);
    if (shards.back().bytes > 0 && shards.back().bytes + bytes > shard_bytes) shards.emplace_back();
    shards.back().tensors.push_back(&tensor);
    shards.back().bytes += bytes;
  }
  return shards;
}

std::vector<std::byte> bytes_of_values(const std::string& path, const TensorToMake& tensor,
                                       DType dtype) {
  const std::vector<float> values = tensor.make();
  switch (dtype) {
    case DType::kBF16:
      return bf16_bytes(values);
    case DType::kF16:
      for (const float value : values) {
        QALOF_CHECK(std::fabs(value) < kHalfLimit, ErrorKind::kBadInput,
                    "{}: tensor {} has the value {}, beyond the range of f16; expected type f32 or "
                    "bf16",
                    path, tensor.name, value);
      }
      return f16_bytes(values);
    default: {
      QALOF_CHECK(dtype == DType::kF32, ErrorKind::kInternal, "weights in dtype {}",
                  to_string(dtype));
      const auto bytes = std::as_bytes(std::span<const float>(values));
      return {bytes.begin(), bytes.end()};
    }
  }
}

std::uint64_t write_shard(const std::string& path, const Shard& shard, DType dtype,
                          const std::function<void()>& made) {
  std::vector<TensorToStream> tensors;
  for (const TensorToMake* tensor : shard.tensors) {
    tensors.push_back({tensor->name, dtype, tensor->shape, [&path, tensor, dtype, &made] {
                         std::vector<std::byte> bytes = bytes_of_values(path, *tensor, dtype);
                         made();
                         return bytes;
                       }});
  }
  return write_safetensors_streamed(path, std::move(tensors));
}

}  // namespace

void set_config_dtype(Json& config, DType dtype) {
  if (!config.is_object()) return;  // refused where it is parsed
  config.erase("torch_dtype");
  config["dtype"] = dtype == DType::kBF16  ? "bfloat16"
                    : dtype == DType::kF16 ? "float16"
                                           : "float32";
  if (const auto text = config.find("text_config"); text != config.end())
    set_config_dtype(*text, dtype);
}

std::uint64_t model_weight_bytes(const std::vector<TensorToMake>& tensors, DType dtype) {
  const auto element = static_cast<std::size_t>(dtype_bits(dtype)) / 8;
  std::uint64_t bytes = 0;
  for (const TensorToMake& tensor : tensors) bytes += bytes_of_tensor(tensor, element);
  return bytes;
}

std::uint64_t write_model_weights(const std::string& directory,
                                  const std::vector<TensorToMake>& tensors, DType dtype,
                                  const std::function<void()>& made, std::uint64_t shard_bytes) {
  const std::vector<Shard> shards =
      split(tensors, static_cast<std::size_t>(dtype_bits(dtype)) / 8, shard_bytes);
  const fs::path whole = fs::path(directory) / "model.safetensors",
                 index_path = fs::path(directory) / "model.safetensors.index.json";
  std::error_code ignored;  // the files to remove may not exist
  if (shards.size() == 1) {
    const std::uint64_t bytes = write_shard(whole.string(), shards.front(), dtype, made);
    fs::remove(index_path, ignored);
    return bytes;
  }
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  std::uint64_t total = 0, written = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    written += write_shard((fs::path(directory) / name).string(), shards[i], dtype, made);
    for (const TensorToMake* tensor : shards[i].tensors) index["weight_map"][tensor->name] = name;
    total += shards[i].bytes;
  }
  index["metadata"]["total_size"] = total;
  const std::string text = index.dump(2) + "\n";
  write_file_atomic(index_path.string(), text);
  fs::remove(whole, ignored);
  return written + text.size();
}

}  // namespace qalof::io
