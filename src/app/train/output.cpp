// Writes adapters, model directories and checkpoints of a run. See output.h.
#include "app/train/output.h"

#include <fmt/format.h>

#include "app/train/checkpoint.h"
#include "app/train/resume.h"
#include "core/file.h"
#include "io/adapter_dir.h"
#include "io/checkpoint.h"
#include "io/hub/cache.h"
#include "io/safetensors.h"
#include "text/bpe_tokenizer.h"

namespace qalof::app {

namespace {

void write_json(const std::string& path, const Json& json) {
  write_file_atomic(path, json.dump(2) + "\n");
}

// The plan an adapter directory runs at unless told otherwise: the plan trained in, else the
// highest width.
Json default_plan(const TrainRunOptions& options, const ModelHandle& handle,
                  const train::TrainedWeights& weights) {
  if (options.train.plan) return quant::to_json(handle.plan);
  const int width = weights.adapters.rbegin()->first;
  quant::PlanSpec spec = quant::parse_plan(std::to_string(width));
  spec.scheme = handle.plan.scheme;
  if (options.train.widths.kv_bits)
    spec.default_precision.k = spec.default_precision.v = {*options.train.widths.kv_bits};
  return quant::to_json(spec);
}

void write_adapters(const std::string& path, const TrainRunOptions& options,
                    const ModelHandle& handle, const train::TrainedWeights& weights) {
  io::AdapterDir dir;
  const std::string repository = io::find_hub_repository(handle.base->path());
  dir.base_id = repository.empty() ? handle.base->path() : repository;
  dir.base_sha256 = handle.base->source().sha256();
  dir.separator = task_of(options).pair_separator();
  dir.label_names = options.label_names;
  for (const auto& [width, adapter] : weights.adapters) {
    const std::string name = fmt::format("w{}", width);
    weights::save_adapter(path + "/" + name, *adapter, handle.base->config(),
                          options.train.head_kind, dir.base_id);
    dir.adapters[width] = name;
    if (adapter->qa_head || adapter->class_head) dir.heads[width] = name;
    if (adapter->learned) dir.quantizers[width] = name;
    dir.merged = adapter->merged;
  }
  dir.scheme = quant::to_string(*handle.plan.scheme);
  dir.plan = default_plan(options, handle, weights);
  io::write_adapter_dir(path, dir);
}

}  // namespace

void write_model_directory(const std::string& path, const weights::BaseModel& base,
                           weights::HeadKind head_kind,
                           const std::map<std::string, train::NamedTensor>& tensors, bool bf16,
                           const std::vector<std::string>& label_names) {
  const model::ModelClass model_class = weights::model_class(head_kind);
  const std::string prefix = model::decoder_prefix(base.config(), model_class);
  std::vector<std::vector<std::byte>> storage;
  storage.reserve(tensors.size());
  std::vector<io::TensorToWrite> to_write;
  for (const auto& [name, tensor] : tensors) {
    if (bf16) {
      storage.push_back(io::bf16_bytes(tensor.values));
    } else {
      const auto bytes = std::as_bytes(std::span<const float>(tensor.values));
      storage.emplace_back(bytes.begin(), bytes.end());
    }
    const bool is_head =
        name.starts_with("qa_outputs") || name.starts_with("score") || name.starts_with("lm_head");
    to_write.push_back({is_head ? name : prefix + name, bf16 ? io::DType::kBF16 : io::DType::kF32,
                        tensor.shape, storage.back()});
  }
  io::write_safetensors(path + "/model.safetensors", to_write, {});
  text::copy_tokenizer_files(base.path(), path);
  Json config = base.config().raw;
  config["architectures"] = {model::architecture(base.config(), model_class)};
  if (!label_names.empty()) {
    config["id2label"] = config["label2id"] = Json::object();
    for (std::size_t label = 0; label < label_names.size(); ++label) {
      config["id2label"][std::to_string(label)] = label_names[label];
      config["label2id"][label_names[label]] = label;
    }
  }
  config["dtype"] = bf16 ? "bfloat16" : "float32";
  write_json(path + "/config.json", config);
}

void write_weights(const std::string& path, const TrainRunOptions& options,
                   const ModelHandle& handle, const train::TrainedWeights& weights) {
  if (!weights.adapters.empty()) write_adapters(path, options, handle, weights);
  if (!weights.tensors.empty())
    write_model_directory(path, *handle.base, options.train.head_kind, weights.tensors,
                          options.save_bf16, options.label_names);
}

void write_training_output(const TrainRunOptions& options, const ModelHandle& handle,
                           const TrainRunResult& result, const Json& trainer_state) {
  write_weights(options.output_dir, options, handle, result.train.weights);
  write_json(options.output_dir + "/trainer_state.json", trainer_state);
  write_json(options.output_dir + "/all_results.json", to_json(result));
}

void save_checkpoint(const TrainRunOptions& options, const ModelHandle& handle,
                     const Json& identity, const train::Checkpoint& point,
                     const Json& trainer_state) {
  const train::RunState state = point.state();
  io::CheckpointWriter writer(options.output_dir, point.global_step);
  write_weights(writer.directory(), options, handle, point.weights());
  write_run_state(writer.directory() + "/state.safetensors", state);
  write_json(writer.directory() + "/trainer_state.json", trainer_state);
  write_identity(writer.directory(), identity, options.micro_batches_each);
  writer.commit();
  io::limit_checkpoints(options.output_dir, options.save_total_limit);
}

}  // namespace qalof::app
