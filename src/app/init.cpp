// Draws initial weights tensor by tensor and writes config, tokenizer files and safetensors.
#include "app/init.h"

#include <algorithm>
#include <filesystem>

#include "app/hub.h"
#include "app/model_handle.h"
#include "core/error.h"
#include "core/file.h"
#include "core/random.h"
#include "io/model_write.h"
#include "model/config.h"
#include "text/bpe_tokenizer.h"

namespace qalof::app {

namespace fs = std::filesystem;

namespace {

// True unless the config names the plain LM class: a new model gets a QA head, so that it can be
// evaluated on that task, too.
bool wants_qa_head(const model::ModelConfig& config) {
  return !config.raw.contains("architectures") ||
         config.raw["architectures"] !=
             Json::array({model::architecture(config, model::ModelClass::kCausalLm)});
}

std::vector<float> initial_values(const model::TensorSpec& spec, const model::ModelConfig& config,
                                  std::uint64_t seed, ParallelFor& parallel) {
  std::size_t count = 1;
  for (const std::size_t extent : spec.shape) count *= extent;
  const bool is_gain = spec.shape.size() == 1 && spec.name.ends_with(".weight");
  std::vector<float> values(count, is_gain ? 1.0F - config.norm_offset : 0.0F);
  if (spec.shape.size() == 1) return values;
  const RandomStream stream(seed, spec.name);
  constexpr std::size_t kPart = std::size_t{1} << 16;
  parallel.run((count + kPart - 1) / kPart, [&](std::size_t part) {
    for (std::size_t i = part * kPart; i < std::min(count, (part + 1) * kPart); ++i)
      values[i] = config.initializer_range * stream.normal(0, i);
  });
  return values;
}

}  // namespace

std::vector<std::string> init_families() { return model::model_types(); }
std::string init_sizes() { return model::named_sizes_text(); }

InitResult run_init(const InitOptions& given, Observer& observer) {
  InitOptions options = given;
  for (std::string* name : {&options.config_name, &options.tokenizer_name})
    *name = local_path(*name, io::HubUse::kTokenizer, observer);
  QALOF_CHECK(!options.output_dir.empty(), ErrorKind::kUsage, "--output_dir is missing");
  QALOF_CHECK(options.size.empty() != options.config_name.empty(), ErrorKind::kUsage,
              "give either --size or --config_name");
  Json raw;
  std::string where = options.config_name;
  if (options.config_name.empty()) {
    raw = model::named_model_config(options.model_type, options.size);
    where = options.size;
  } else {
    if (is_directory(where)) where = fs::path(where) / "config.json";
    raw = read_json_file(where, std::size_t{1} << 20);
  }
  io::set_config_dtype(raw, options.bf16 ? io::DType::kBF16 : io::DType::kF32);
  const model::ModelConfig config = model::parse_model_config(raw, where);
  const fs::path directory = options.output_dir;
  QALOF_CHECK(options.overwrite || !path_exists((directory / "config.json").string()),
              ErrorKind::kUsage, "{}: holds a model already, --overwrite_output_dir replaces it",
              options.output_dir);
  const NewDirectory made(options.output_dir);
  // Done first, because it throws for a directory without tokenizer files.
  if (!options.tokenizer_name.empty())
    text::copy_tokenizer_files(options.tokenizer_name, options.output_dir);

  std::vector<model::TensorSpec> specs = model::stored_tensors(config);
  const bool has_qa_head = wants_qa_head(config);
  const std::string decoder = model::decoder_prefix(
      config, has_qa_head ? model::ModelClass::kQuestionAnswering : model::ModelClass::kCausalLm);
  if (has_qa_head) {
    specs.push_back({"qa_outputs.weight", {2, config.hidden}});
    specs.push_back({"qa_outputs.bias", {2}});
  }
  ThreadPool pool(choose_threads(0));
  std::vector<io::TensorToMake> tensors;
  for (const model::TensorSpec& spec : specs) {
    const bool is_head = spec.name.starts_with("qa_outputs") || spec.name.starts_with("lm_head");
    tensors.push_back({(is_head ? "" : decoder) + spec.name, spec.shape,
                       [&] { return initial_values(spec, config, options.seed, pool); }});
  }
  std::uint64_t done = 0;
  observer.progress("tensors", done, tensors.size(), "");
  io::write_model_weights(options.output_dir, tensors,
                          options.bf16 ? io::DType::kBF16 : io::DType::kF32,
                          [&] { observer.progress("tensors", ++done, tensors.size(), ""); });
  write_file_atomic((directory / "config.json").string(), raw.dump(2) + "\n");
  return {model::parameter_count(config), options.output_dir};
}

}  // namespace qalof::app
