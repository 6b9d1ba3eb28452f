#include "runtime/packed_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/file.h"
#include "io/safetensors.h"

namespace qalof::runtime {

namespace {

constexpr int kFormatVersion = 1;
constexpr const char* kMetadataKey = "qalof.packed";
constexpr std::array kTokenizerFiles = {"tokenizer.json", "vocab.json", "merges.txt",
                                        "tokenizer_config.json", "special_tokens_map.json"};

int container_bits(int bits) { return bits <= 4 ? 4 : 8; }

// The precision whose packed form a stored width is read with.
quant::Precision stored_precision(int bits) { return {{bits}, {8}}; }

std::string width_prefix(const std::string& linear, int bits) {
  return fmt::format("{}.w{}.", linear, bits);
}

// Collects tensors with the memory behind them, then writes them in one go.
class Writer {
 public:
  void add_bytes(const std::string& name, io::DType dtype, std::vector<std::size_t> shape,
                 std::vector<std::byte> bytes) {
    crc_[name] = crc32c(bytes);
    storage_.push_back(std::move(bytes));
    tensors_.push_back({name, dtype, std::move(shape), storage_.back()});
  }
  template <typename T>
  void add(const std::string& name, io::DType dtype, std::vector<std::size_t> shape,
           std::span<const T> values) {
    const auto bytes = std::as_bytes(values);
    add_bytes(name, dtype, std::move(shape), {bytes.begin(), bytes.end()});
  }
  void add_f32(const std::string& name, std::vector<std::size_t> shape,
               std::span<const float> values) {
    add(name, io::DType::kF32, std::move(shape), values);
  }
  void add_head(const std::string& name, const std::optional<Head>& head, std::size_t hidden) {
    if (!head) return;
    add_f32(name + ".weight", {head->outputs, hidden}, head->weight);
    if (!head->bias.empty()) add_f32(name + ".bias", {head->outputs}, head->bias);
  }
  void write(const std::string& path, Json header) {
    header["crc32c"] = crc_;
    io::write_safetensors(path, tensors_, {{kMetadataKey, header.dump()}});
  }

 private:
  std::vector<std::vector<std::byte>> storage_;
  std::vector<io::TensorToWrite> tensors_;
  std::map<std::string, std::uint32_t> crc_;
};

// Widths to store of each linear.
std::vector<std::set<int>> widths_per_linear(const PackRequest& request) {
  const BaseModel& base = *request.base;
  std::vector<std::set<int>> widths(base.linears().size());
  if (request.plan) {
    const quant::PrecisionPlan plan = quant::resolve(*request.plan, base.target());
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const int bits = plan.linears[i].weight.bits;
      QALOF_CHECK(bits <= 8, ErrorKind::kUsage,
                  "{}: {} has {} weight bits, a packed file stores 2..8", request.plan->source,
                  base.linears()[i].name, bits);
      widths[i].insert(bits);
    }
  }
  for (const int bits : request.widths) {
    QALOF_CHECK(bits >= 2 && bits <= 8, ErrorKind::kUsage,
                "width {}: a packed file stores 2..8 bits", bits);
    for (std::set<int>& of_linear : widths) of_linear.insert(bits);
  }
  return widths;
}

Json add_adapters(Writer& writer, const BaseModel& base, const AdapterSet* set) {
  Json described = Json::object();
  if (set == nullptr) return described;
  for (const auto& [width, adapter] : set->by_width) {
    const std::string prefix = fmt::format("adapter.{}.", width);
    Json linears = Json::object();
    for (std::size_t i = 0; i < adapter->linears.size(); ++i) {
      const LoraLinear* lora = adapter->linears[i].get();
      if (lora == nullptr) continue;
      const model::LinearSpec& spec = base.linears()[i];
      // Rank and scaling may differ per linear, and a scaling need not be alpha / r.
      writer.add_f32(prefix + spec.name + ".lora_A", {lora->rank(), spec.in}, lora->a());
      writer.add_f32(prefix + spec.name + ".lora_B", {spec.out, lora->rank()}, lora->b());
      linears[spec.name] = {{"r", lora->rank()}, {"scaling", lora->view().scaling}};
    }
    described[std::to_string(width)] = {
        {"r", adapter->rank}, {"lora_alpha", adapter->alpha}, {"linears", linears}};
    writer.add_head(prefix + "qa_outputs", adapter->qa_head, base.config().hidden);
    writer.add_head(prefix + "score", adapter->class_head, base.config().hidden);
  }
  return described;
}

void add_bf16(Writer& writer, const std::string& name, std::vector<std::size_t> shape,
              const std::vector<float>& values) {
  writer.add_bytes(name, io::DType::kBF16, std::move(shape), io::bf16_bytes(values));
}

}  // namespace

PackSummary write_packed_file(const std::string& path, const PackRequest& request,
                              ParallelFor& parallel) {
  QALOF_CHECK(request.plan || !request.widths.empty(), ErrorKind::kUsage,
              "{}: neither widths nor a plan to pack", path);
  const BaseModel& base = *request.base;
  const WeightSource& source = base.source();
  const model::ModelConfig& config = base.config();
  Writer writer;
  add_bf16(writer, "wte.weight", {config.vocab_size, config.hidden},
           *source.tensor_f32("wte.weight"));
  add_bf16(writer, "wpe.weight", {config.max_positions, config.hidden},
           *source.tensor_f32("wpe.weight"));
  if (!config.tie_word_embeddings) {
    add_bf16(writer, "lm_head.weight", {config.vocab_size, config.hidden},
             *source.tensor_f32("lm_head.weight"));
  }
  for (const model::TensorSpec& spec : model::expected_tensors(config)) {
    if (spec.shape.size() == 1)
      writer.add_f32(spec.name, spec.shape, *source.tensor_f32(spec.name));
  }
  writer.add_head("qa_outputs", base.qa_head(), config.hidden);
  writer.add_head("score", base.class_head(), config.hidden);

  PackSummary summary;
  std::map<int, std::uint64_t> width_bytes;
  const std::vector<std::set<int>> widths = widths_per_linear(request);
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    const model::LinearSpec& spec = base.linears()[i];
    summary.weights += spec.in * spec.out;
    for (const int bits : widths[i]) {
      const kernels::PackedMatrix& w = base.packed(i, stored_precision(bits), parallel);
      const std::string prefix = width_prefix(spec.name, bits);
      const std::size_t panel_bytes = kernels::packed_matrix_bytes(w.format, w.n, w.k);
      writer.add<std::byte>(prefix + "panels", io::DType::kU8, {panel_bytes},
                            {static_cast<const std::byte*>(w.panels), panel_bytes});
      writer.add_f32(prefix + "scales", {w.n}, {w.scales, w.n});
      writer.add<std::int32_t>(prefix + "code_sums", io::DType::kI32, {w.n}, {w.code_sums, w.n});
      width_bytes[bits] += panel_bytes + 8 * w.n;
    }
  }
  for (const char* file : kTokenizerFiles) {
    const std::filesystem::path tokenizer_path =
        std::filesystem::path(request.tokenizer_directory) / file;
    if (request.tokenizer_directory.empty() || !path_exists(tokenizer_path.string())) continue;
    const std::string text = read_file(tokenizer_path, std::size_t{64} << 20);
    writer.add<char>(fmt::format("file.{}", file), io::DType::kU8, {text.size()},
                     {text.data(), text.size()});
  }
  std::uint64_t weight_bytes = 0;
  for (const auto& [bits, bytes] : width_bytes) {
    summary.widths.push_back({bits, container_bits(bits), bytes});
    weight_bytes += bytes;
  }
  summary.bits_per_weight =
      8.0 * static_cast<double>(weight_bytes) / static_cast<double>(summary.weights);

  Json header = {{"format_version", kFormatVersion},
                 {"scheme", "seed"},
                 {"config", config.raw},
                 {"base", {{"id", base.path()}, {"sha256", source.sha256()}}}};
  Json linear_widths = Json::array();
  for (const std::set<int>& of_linear : widths) linear_widths.push_back(of_linear);
  header["widths"] = linear_widths;
  if (request.plan) {
    header["plan"] = quant::to_json(*request.plan);
  } else {
    const int top = *std::max_element(request.widths.begin(), request.widths.end());
    header["plan"] = quant::to_json(quant::parse_plan(std::to_string(top)));
  }
  header["adapters"] = add_adapters(writer, base, request.adapters.get());
  if (request.adapters && request.adapters->separator)
    header["separator"] = *request.adapters->separator;
  writer.write(path, header);
  summary.bytes = std::filesystem::file_size(path);
  return summary;
}

namespace {

// Tensors of an opened packed file; each is checked against its checksum when it is first read.
class CheckedFile {
 public:
  explicit CheckedFile(const std::string& path)
      : path_(path), file_(io::SafetensorsFile::open(path)) {
    const auto& metadata = file_.metadata();
    const auto it = metadata.find(kMetadataKey);
    QALOF_CHECK(it != metadata.end(), ErrorKind::kBadInput,
                "{}: a safetensors file without {} is not a packed file", path, kMetadataKey);
    const std::string where = path + ": " + kMetadataKey;
    header_ = parse_json(it->second, where);
    QALOF_CHECK(header_.is_object(), ErrorKind::kCorruptFile, "{}: found {}, expected an object",
                where, header_.type_name());
    const std::int64_t version = json_int(header_, "format_version", where, 0, 1000000);
    QALOF_CHECK(version == kFormatVersion, ErrorKind::kUnsupported,
                "{}: format_version {}, this program reads {}; a newer qalof wrote it", path,
                version, kFormatVersion);
    QALOF_CHECK(header_.contains("crc32c") && header_["crc32c"].is_object(),
                ErrorKind::kCorruptFile, "{}: crc32c is missing", where);
    for (const auto& [name, view] : file_.tensors()) {
      QALOF_CHECK(header_["crc32c"].contains(name), ErrorKind::kCorruptFile,
                  "{}: tensor {} has no checksum", path, name);
    }
  }

  const Json& header() const { return header_; }
  const std::string& path() const { return path_; }
  bool contains(const std::string& name) const { return file_.tensors().contains(name); }
  const std::map<std::string, io::TensorView>& tensors() const { return file_.tensors(); }

  // The tensor with its dtype and number of elements checked, its bytes verified.
  const io::TensorView& read(const std::string& name, io::DType dtype,
                             std::vector<std::size_t> shape) const {
    const auto it = file_.tensors().find(name);
    QALOF_CHECK(it != file_.tensors().end(), ErrorKind::kCorruptFile, "{}: tensor {} is missing",
                path_, name);
    const io::TensorView& view = it->second;
    QALOF_CHECK(view.dtype == dtype && (shape.empty() || view.shape == shape),
                ErrorKind::kCorruptFile,
                "{}: tensor {} has shape [{}] or a dtype that do not fit its model, expected [{}]",
                path_, name, fmt::join(view.shape, ", "), fmt::join(shape, ", "));
    const std::lock_guard lock(mutex_);
    if (!verified_.contains(name)) {
      const std::int64_t expected = json_int(header_["crc32c"], name, path_, 0, 0xffffffffLL);
      const std::uint32_t found = crc32c(view.bytes);
      QALOF_CHECK(
          found == expected, ErrorKind::kCorruptFile,
          "{}: tensor {} is damaged: crc32c {:08x}, expected {:08x}; copy or make the file again",
          path_, name, found, expected);
      verified_.insert(name);
    }
    return view;
  }

  std::vector<float> read_f32(const std::string& name, std::vector<std::size_t> shape) const {
    const io::TensorView& view = read(name, io::DType::kF32, std::move(shape));
    std::vector<float> values(view.num_elements());
    io::copy_as_f32(view, values);
    return values;
  }

  // outputs: 0 = as many as the file holds.
  std::optional<Head> read_head(const std::string& name, std::size_t outputs,
                                std::size_t hidden) const {
    const auto it = file_.tensors().find(name + ".weight");
    if (it == file_.tensors().end()) return std::nullopt;
    QALOF_CHECK(it->second.shape.size() == 2 && it->second.shape[1] == hidden &&
                    it->second.shape[0] > 0 && (outputs == 0 || it->second.shape[0] == outputs),
                ErrorKind::kCorruptFile, "{}: tensor {}.weight has shape [{}], expected [{}, {}]",
                path_, name, fmt::join(it->second.shape, ", "),
                outputs == 0 ? "labels" : std::to_string(outputs), hidden);
    Head head;
    head.outputs = it->second.shape[0];
    head.weight = read_f32(name + ".weight", it->second.shape);
    if (contains(name + ".bias")) head.bias = read_f32(name + ".bias", {head.outputs});
    return head;
  }

 private:
  std::string path_;
  io::SafetensorsFile file_;
  Json header_;
  mutable std::mutex mutex_;
  mutable std::set<std::string> verified_;
};

class PackedSource final : public WeightSource {
 public:
  PackedSource(std::shared_ptr<const CheckedFile> file, const model::ModelConfig& config)
      : file_(std::move(file)), config_(config), linears_(model::linears(config)) {
    const std::string where = file_->path();
    const Json& widths = file_->header().at("widths");
    QALOF_CHECK(widths.is_array() && widths.size() == linears_.size(), ErrorKind::kCorruptFile,
                "{}: widths has {} entries, the model has {} linears", where, widths.size(),
                linears_.size());
    for (const Json& of_linear : widths) {
      QALOF_CHECK(of_linear.is_array(), ErrorKind::kCorruptFile,
                  "{}: widths holds {}, expected lists of widths", where, of_linear.type_name());
      std::set<int>& bits = widths_.emplace_back();
      for (const Json& width : of_linear) {
        QALOF_CHECK(width.is_number_integer() && width >= 2 && width <= 8, ErrorKind::kCorruptFile,
                    "{}: widths holds {}, expected 2..8", where, width.dump());
        bits.insert(width.get<int>());
      }
    }
  }

  std::vector<float> linear_f32(std::size_t linear) const override {
    fail(ErrorKind::kUnsupported,
         "{}: a packed file holds {} as integers of {} bits, not as floats", file_->path(),
         linears_[linear].name, fmt::join(widths_[linear], ", "));
  }

  std::unique_ptr<OwnedMatrix> linear_packed(std::size_t linear,
                                             quant::Precision precision) const override {
    const model::LinearSpec& spec = linears_[linear];
    const int bits = precision.weight.bits;
    QALOF_CHECK(widths_[linear].contains(bits), ErrorKind::kUnsupported,
                "{}: {} is stored at {} bits, not at {}; pack it with qalof quantize --bit_widths",
                file_->path(), spec.name, fmt::join(widths_[linear], ", "), bits);
    const std::string prefix = width_prefix(spec.name, bits);
    auto owned = std::make_unique<OwnedMatrix>();
    kernels::PackedMatrix& view = owned->view;
    view.format = weight_format({precision.weight, {8}});
    view.n = spec.out;
    view.k = spec.in;
    const std::size_t panel_bytes = kernels::packed_matrix_bytes(view.format, view.n, view.k);
    view.panels = file_->read(prefix + "panels", io::DType::kU8, {panel_bytes}).bytes.data();
    owned->scales = file_->read_f32(prefix + "scales", {view.n});
    const io::TensorView& sums = file_->read(prefix + "code_sums", io::DType::kI32, {view.n});
    owned->code_sums.resize(view.n);
    std::memcpy(owned->code_sums.data(), sums.bytes.data(), sums.bytes.size());
    view.scales = owned->scales.data();
    view.code_sums = owned->code_sums.data();
    if (precision.activation.is_integer()) return owned;
    // Float activations multiply the codes as floats.
    std::vector<std::int8_t> codes(view.n * view.k);
    kernels::unpack_codes(view, codes.data());
    const std::vector<float> as_float(codes.begin(), codes.end());
    SerialFor serial;
    view.format = kernels::WeightFormat::kF32;
    view.code_sums = nullptr;
    owned->panels.resize(kernels::packed_matrix_bytes(view.format, view.n, view.k));
    kernels::pack_f32(as_float.data(), view.n, view.k, view.k, /*transposed=*/false,
                      reinterpret_cast<float*>(owned->panels.data()), serial);
    view.panels = owned->panels.data();
    return owned;
  }

  std::optional<std::vector<float>> tensor_f32(const std::string& name) const override {
    const auto it = file_->tensors().find(name);
    if (it == file_->tensors().end()) return std::nullopt;
    // open_packed_file has checked the shapes; read checks the bytes.
    std::vector<float> values(it->second.num_elements());
    io::copy_as_f32(file_->read(name, it->second.dtype, it->second.shape), values);
    return values;
  }

  void copy_row(const std::string& name, std::size_t row, std::span<float> dst) const override {
    const io::TensorView& view = file_->tensors().at(name);
    const std::size_t row_bytes = view.bytes.size() / view.shape[0];
    io::copy_as_f32(view.dtype, view.bytes.subspan(row * row_bytes, row_bytes), dst);
  }

  std::vector<int> widths() const override {
    std::set<int> common = widths_.front();
    for (const std::set<int>& of_linear : widths_) {
      std::erase_if(common, [&](int bits) { return !of_linear.contains(bits); });
    }
    return {common.begin(), common.end()};
  }
  std::string sha256() const override {
    return json_string(file_->header().at("base"), "sha256", file_->path());
  }
  std::uint64_t stored_bytes() const override {
    std::uint64_t bytes = 0;
    for (const auto& [name, view] : file_->tensors()) bytes += view.bytes.size();
    return bytes;
  }

 private:
  std::shared_ptr<const CheckedFile> file_;
  model::ModelConfig config_;
  std::vector<model::LinearSpec> linears_;
  std::vector<std::set<int>> widths_;
};

std::shared_ptr<const AdapterSet> read_adapters(const CheckedFile& file,
                                                const model::ModelConfig& config) {
  const Json& described = file.header().at("adapters");
  QALOF_CHECK(described.is_object(), ErrorKind::kCorruptFile, "{}: adapters is not an object",
              file.path());
  if (described.empty()) return nullptr;
  auto set = std::make_shared<AdapterSet>();
  set->path = file.path();
  const std::vector<model::LinearSpec> linears = model::linears(config);
  for (const auto& [key, entry] : described.items()) {
    const int width =
        (key.size() <= 2 && !key.empty() && std::all_of(key.begin(), key.end(), ::isdigit))
            ? std::stoi(key)
            : -1;
    QALOF_CHECK(width >= 0 && width <= 32, ErrorKind::kCorruptFile, "{}: adapters has a width {}",
                file.path(), key);
    auto adapter = std::make_shared<Adapter>();
    const std::string where = fmt::format("{}: adapters.{}", file.path(), key);
    adapter->rank = static_cast<std::size_t>(json_int(entry, "r", where, 0, 65536));
    adapter->alpha = static_cast<float>(json_number(entry, "lora_alpha", where));
    const std::string prefix = fmt::format("adapter.{}.", key);
    QALOF_CHECK(entry.contains("linears") && entry["linears"].is_object(), ErrorKind::kCorruptFile,
                "{}: linears is missing or not an object", where);
    std::size_t found = 0;
    for (const model::LinearSpec& spec : linears) {
      std::unique_ptr<LoraLinear>& lora = adapter->linears.emplace_back();
      const auto pair = entry["linears"].find(spec.name);
      if (pair == entry["linears"].end()) continue;
      ++found;
      const std::string inner = fmt::format("{}.linears.{}", where, spec.name);
      const auto rank = static_cast<std::size_t>(json_int(*pair, "r", inner, 1, 65536));
      const auto scaling = static_cast<float>(json_number(*pair, "scaling", inner));
      const std::string name = prefix + spec.name;
      std::vector<float> a = file.read_f32(name + ".lora_A", {rank, spec.in});
      std::vector<float> b = file.read_f32(name + ".lora_B", {spec.out, rank});
      lora = std::make_unique<LoraLinear>(rank, scaling, std::move(a), std::move(b), spec.in,
                                          spec.out);
    }
    QALOF_CHECK(found == entry["linears"].size(), ErrorKind::kCorruptFile,
                "{}: linears has {} entries, {} of them belong to the model", where,
                entry["linears"].size(), found);
    adapter->qa_head = file.read_head(prefix + "qa_outputs", 2, config.hidden);
    adapter->class_head = file.read_head(prefix + "score", 0, config.hidden);
    set->by_width[width] = std::move(adapter);
  }
  if (file.header().contains("separator")) {
    set->separator =
        static_cast<std::int32_t>(json_int(file.header(), "separator", file.path(), 0,
                                           static_cast<std::int64_t>(config.vocab_size) - 1));
  }
  return set;
}

}  // namespace

bool is_packed_file(const std::string& path) {
  // write_safetensors puts the metadata first, and of its two keys ours second.
  constexpr std::size_t kMagicBytes = 256;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  std::string start(kMagicBytes, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<std::size_t>(file.gcount()));
  return start.size() > 8 && start[8] == '{' &&
         start.find(fmt::format("\"{}\"", kMetadataKey)) != std::string::npos;
}

PackedModel open_packed_file(const std::string& path) {
  const auto file = std::make_shared<const CheckedFile>(path);
  for (const char* key : {"config", "widths", "plan", "adapters", "base"}) {
    QALOF_CHECK(file->header().contains(key), ErrorKind::kCorruptFile, "{}: {} is missing", path,
                key);
  }
  PackedModel packed;
  model::ModelConfig config =
      model::parse_model_config(file->header()["config"], path + ": config");
  std::vector<model::TensorSpec> embeddings = {
      {"wte.weight", {config.vocab_size, config.hidden}},
      {"wpe.weight", {config.max_positions, config.hidden}}};
  if (!config.tie_word_embeddings)
    embeddings.push_back({"lm_head.weight", {config.vocab_size, config.hidden}});
  for (const model::TensorSpec& spec : embeddings)
    file->read(spec.name, io::DType::kBF16, spec.shape);
  for (const model::TensorSpec& spec : model::expected_tensors(config)) {
    if (spec.shape.size() == 1) file->read(spec.name, io::DType::kF32, spec.shape);
  }
  packed.adapters = read_adapters(*file, config);
  packed.plan = quant::plan_from_json(file->header()["plan"], path + ": plan");
  for (const char* name : kTokenizerFiles) {
    const std::string tensor = fmt::format("file.{}", name);
    if (!file->contains(tensor)) continue;
    const std::span<const std::byte> bytes = file->read(tensor, io::DType::kU8, {}).bytes;
    packed.files[name] = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  std::optional<Head> qa = file->read_head("qa_outputs", 2, config.hidden);
  std::optional<Head> score = file->read_head("score", 0, config.hidden);
  auto source = std::make_unique<PackedSource>(file, config);
  auto base = std::make_shared<BaseModel>(std::move(config), path, std::move(source));
  base->set_heads(std::move(qa), std::move(score));
  packed.base = std::move(base);
  return packed;
}

}  // namespace qalof::runtime
