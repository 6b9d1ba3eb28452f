// Exports to a Hugging Face directory: weights, config, tokenizer, as one tree that appears at
// once.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>

#include "app/export/formats.h"
#include "core/error.h"
#include "core/file.h"
#include "io/model_dir.h"
#include "io/model_write.h"
#include "text/bpe_tokenizer.h"

namespace qalof::app {

namespace {

namespace fs = std::filesystem;

// Files that are copied as they are where the model has them.
constexpr std::array kCopiedFiles = {
    "generation_config.json", "chat_template.jinja", "tokenizer.model", "added_tokens.json",
    "tokenizer.json",         "vocab.json",          "merges.txt",      "tokenizer_config.json",
    "special_tokens_map.json"};
constexpr std::size_t kMaxCopiedBytes = std::size_t{64} << 20;

bool is_exported_file(const std::string& name) {
  const bool is_weights =
      name.starts_with("model") && name.find(".safetensors") != std::string::npos;
  return is_weights || name == "config.json" ||
         std::find(kCopiedFiles.begin(), kCopiedFiles.end(), name) != kCopiedFiles.end();
}

// A directory that is filled under another name beside its own, and renamed when it is complete.
class NewTree {
 public:
  NewTree(const std::string& path, bool overwrite) : path_(trimmed(path)) {
    QALOF_CHECK(!path_exists(path_) || is_directory(path_), ErrorKind::kUsage,
                "{}: is a file, --format hf writes a directory", path_);
    if (is_directory(path_)) check_contents(overwrite);
    temporary_ = fmt::format("{}.tmp-{}", path_, ::getpid());
    remove_tree(temporary_);  // of a killed process that had the same number
    make_directories(temporary_);
  }
  ~NewTree() {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
  }
  NewTree(const NewTree&) = delete;
  NewTree& operator=(const NewTree&) = delete;

  const std::string& directory() const { return temporary_; }
  void commit() {
    sync_directory(temporary_);
    // rename(2) replaces an empty directory, no other. Exchanged, the old one is under the
    // temporary name, and goes with it.
    const bool replaces = is_directory(path_) && !fs::is_empty(path_);
    if (!replaces) {
      rename_path(temporary_, path_);
      return;
    }
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) == 0)
      return;
    // A file system without exchange: for a moment neither is there.
    const std::string replaced = fmt::format("{}.replaced-{}", path_, ::getpid());
    remove_tree(replaced);
    rename_path(path_, replaced);
    try {
      rename_path(temporary_, path_);
    } catch (const Error&) {
      rename_path(replaced, path_);
      throw;
    }
    std::error_code ignored;
    fs::remove_all(replaced, ignored);
  }

 private:
  static std::string trimmed(const std::string& path) {
    const std::string normal = fs::absolute(path).lexically_normal().string();
    return normal.size() > 1 && normal.ends_with('/') ? normal.substr(0, normal.size() - 1)
                                                      : normal;
  }
  // What is replaced must be a model and nothing else.
  void check_contents(bool overwrite) const {
    std::error_code error;
    for (fs::directory_iterator entry(path_, error), end; !error && entry != end;
         entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      QALOF_CHECK(overwrite, ErrorKind::kUsage, "{}: holds {} already, --overwrite replaces it",
                  path_, name);
      QALOF_CHECK(is_exported_file(name), ErrorKind::kUsage,
                  "{}: holds {}, which is no part of a model; choose another directory", path_,
                  name);
    }
  }

  std::string path_, temporary_;
};

io::DType float_dtype(io::GgufType type) {
  if (type == io::GgufType::kBF16) return io::DType::kBF16;
  return type == io::GgufType::kF16 ? io::DType::kF16 : io::DType::kF32;
}

// The heads of what is written: the adapter's, else the base's.
struct ExportedHeads {
  std::optional<weights::Head> qa, classes;
  model::ModelClass model_class = model::ModelClass::kCausalLm;
};

ExportedHeads heads_of(const ExportSource& source) {
  ExportedHeads heads;
  if (source.adapter != nullptr) {
    heads.qa = source.adapter->qa_head;
    heads.classes = source.adapter->class_head;
  }
  const model::ModelConfig& config = source.config();
  const auto is_class = [&](model::ModelClass model_class) {
    const auto names = config.raw.find("architectures");
    return names != config.raw.end() && names->is_array() && !names->empty() &&
           names->front() == model::architecture(config, model_class);
  };
  if (!heads.qa && !heads.classes) {
    // An adapter without a head is one of the language model, where there is one.
    const bool is_lm = config.lm_head != model::LmHead::kNone &&
                       (source.adapter != nullptr || is_class(model::ModelClass::kCausalLm));
    if (!is_lm) heads.qa = source.base->qa_head();
    if (!is_lm && (!heads.qa || is_class(model::ModelClass::kSequenceClassification)))
      heads.classes = source.base->class_head();
  }
  if (heads.classes) {
    heads.model_class = model::ModelClass::kSequenceClassification;
  } else if (heads.qa) {
    heads.model_class = model::ModelClass::kQuestionAnswering;
  }
  return heads;
}

std::vector<io::TensorToMake> tensors_to_export(const ExportSource& source,
                                                const ExportedHeads& heads) {
  const model::ModelConfig& config = source.config();
  const bool is_lm = heads.model_class == model::ModelClass::kCausalLm;
  const std::string prefix = model::decoder_prefix(config, heads.model_class);
  std::vector<io::TensorToMake> tensors;
  for (const model::TensorSpec& spec : model::expected_tensors(config)) {
    tensors.push_back({prefix + spec.name, spec.shape,
                       [&source, name = spec.name] { return source.merged_tensor(name); }});
  }
  if (config.lm_head == model::LmHead::kOwn && is_lm) {
    const model::TensorSpec spec = model::lm_head_tensor(config);
    tensors.push_back({spec.name, spec.shape,
                       [&source, name = spec.name] { return source.merged_tensor(name); }});
  }
  const auto add_head = [&](const char* name, const std::optional<weights::Head>& head) {
    if (!head) return;
    const std::size_t outputs = head->outputs;
    tensors.push_back({fmt::format("{}.weight", name), {outputs, config.hidden}, [&head] {
                         return head->weight;
                       }});
    if (!head->bias.empty())
      tensors.push_back({fmt::format("{}.bias", name), {outputs}, [&head] { return head->bias; }});
  };
  add_head("qa_outputs", heads.qa);
  add_head("score", heads.classes);
  return tensors;
}

Json config_of_export(const ExportSource& source, const ExportedHeads& heads, io::DType dtype) {
  Json raw = source.config().raw;
  raw["architectures"] = {model::architecture(source.config(), heads.model_class)};
  io::set_config_dtype(raw, dtype);
  if (!heads.classes) return raw;
  const std::size_t classes = heads.classes->outputs;
  std::vector<std::string> names;
  if (source.adapters) names = source.adapters->label_names;
  if (names.size() != classes && raw.contains("id2label") && raw["id2label"].size() == classes)
    return raw;
  raw["id2label"] = Json::object();
  raw["label2id"] = Json::object();
  for (std::size_t label = 0; label < classes; ++label) {
    const std::string name =
        names.size() == classes ? names[label] : fmt::format("LABEL_{}", label);
    raw["id2label"][std::to_string(label)] = name;
    raw["label2id"][name] = label;
  }
  return raw;
}

}  // namespace

ExportResult export_hugging_face(const ExportSource& source) {
  const fs::path from = source.base->path();
  QALOF_CHECK(!is_same_file(source.output, source.base->path()) &&
                  (!source.adapters || !is_same_file(source.output, source.adapters->path)),
              ErrorKind::kUsage, "{}: is read; choose another directory for the output",
              source.output);
  const ExportedHeads heads = heads_of(source);
  const io::DType dtype = float_dtype(source.type);
  const std::vector<io::TensorToMake> tensors = tensors_to_export(source, heads);
  if (source.config().lm_head == model::LmHead::kOwn &&
      heads.model_class != model::ModelClass::kCausalLm) {
    source.observer.warn(fmt::format("{}: the LM head is left out, {} has none",
                                     source.base->path(),
                                     model::architecture(source.config(), heads.model_class)));
  }
  NewTree tree(source.output, source.overwrite);
  source.tell_size(io::model_weight_bytes(tensors, dtype));
  ExportResult result;
  result.tensors = tensors.size();
  result.bytes =
      io::write_model_weights(tree.directory(), tensors, dtype, source.counter(tensors.size()));
  const fs::path to = tree.directory();
  for (const char* name : kCopiedFiles) {
    if (!path_exists((from / name).string())) continue;
    write_file_atomic((to / name).string(), read_file((from / name).string(), kMaxCopiedBytes));
  }
  const std::string config_path = (to / "config.json").string();
  write_file_atomic(config_path,
                    dump_json(config_of_export(source, heads, dtype), config_path, 2) + "\n");
  tree.commit();
  return result;
}

}  // namespace qalof::app
