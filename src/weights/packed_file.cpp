// Opening packed files: a weight source that maps panels in place. packed_write.cpp writes them.
#include "weights/packed_file.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/finite.h"
#include "io/adapter_dir.h"
#include "weights/checked_file.h"
#include "weights/codebook_weights.h"
#include "weights/packed_layout.h"
#include "weights/rotation.h"

namespace qalof::weights {

namespace {

// The stored widths, 2..8, of every linear.
std::vector<std::set<int>> read_widths(const CheckedFile& file, std::size_t num_linears) {
  const Json& json = file.header().at("widths");
  QALOF_CHECK(json.is_array() && json.size() == num_linears, ErrorKind::kCorruptFile,
              "{}: widths has {} entries, the model has {} linears", file.path(), json.size(),
              num_linears);
  std::vector<std::set<int>> widths;
  for (const Json& of_linear : json) {
    QALOF_CHECK(of_linear.is_array(), ErrorKind::kCorruptFile,
                "{}: widths holds {}, expected lists of widths", file.path(),
                of_linear.type_name());
    std::set<int>& bits = widths.emplace_back();
    for (const Json& width : of_linear) {
      QALOF_CHECK(width.is_number_integer() && width >= 2 && width <= 8, ErrorKind::kCorruptFile,
                  "{}: widths holds {}, expected 2..8", file.path(), width.dump());
      bits.insert(width.get<int>());
    }
  }
  return widths;
}

// Widths of the LM head as stored, the default first.
std::vector<int> read_lm_head_widths(const CheckedFile& file) {
  if (file.version() == 1) return {};
  const auto json = file.header().find("lm_head");
  QALOF_CHECK(json != file.header().end() && json->is_array(), ErrorKind::kCorruptFile,
              "{}: lm_head is missing or no list of widths", file.path());
  std::vector<int> widths;
  for (const Json& width : *json) {
    const bool is_width =
        width.is_number_integer() && (width == 4 || width == 8 || width == 16 || width == 32);
    QALOF_CHECK(is_width, ErrorKind::kCorruptFile, "{}: lm_head holds {}, expected 4, 8, 16 or 32",
                file.path(), width.dump());
    widths.push_back(width.get<int>());
  }
  return widths;
}

quant::QuantScheme read_scheme(const CheckedFile& file) {
  const std::string where = file.path() + ": scheme";
  const std::string name = json_string(file.header(), "scheme", file.path());
  QALOF_CHECK(file.version() > 1 || name == "seed", ErrorKind::kCorruptFile,
              "{}: found {:.40} in a file of format_version 1, which has seed alone", where, name);
  return quant::parse_scheme(name, where, ErrorKind::kUnsupported);
}

class PackedSource final : public WeightSource {
 public:
  PackedSource(std::shared_ptr<const CheckedFile> file, const model::ModelConfig& config)
      : file_(std::move(file)),
        config_(config),
        linears_(model::linears(config)),
        scheme_(read_scheme(*file_)),
        widths_(read_widths(*file_, linears_.size())),
        lm_head_widths_(read_lm_head_widths(*file_)) {}

  std::vector<float> linear_f32(std::size_t linear) const override {
    fail(ErrorKind::kUnsupported,
         "{}: a packed file holds {} as integers of {} bits, not as floats", file_->path(),
         linears_[linear].name, fmt::join(widths_[linear], ", "));
  }

  std::unique_ptr<OwnedMatrix> linear_packed(std::size_t linear, quant::Precision precision,
                                             quant::QuantScheme scheme,
                                             ParallelFor& parallel) const override {
    const model::LinearSpec& spec = linears_[linear];
    const int bits = precision.weight.bits;
    QALOF_CHECK(widths_[linear].contains(bits), ErrorKind::kUnsupported,
                "{}: {} is stored at {} bits, not at {}; pack it with qalof quantize --bit_widths",
                file_->path(), spec.name, fmt::join(widths_[linear], ", "), bits);
    QALOF_CHECK(scheme == scheme_.weights(), ErrorKind::kUnsupported,
                "{}: is packed in scheme {}, not in {}; pack it with qalof quantize --scheme",
                file_->path(), quant::to_string(scheme_), quant::to_string(scheme));
    quant::check_scheme(scheme, precision, spec.name);
    if (scheme.is_codebook())
      return pack_codebook(read_codebook(spec, bits, parallel), precision.activation, parallel);
    std::unique_ptr<OwnedMatrix> integers;
    if (scheme.nested) {
      integers = read_nested(spec, bits, parallel);
    } else {
      integers = read_matrix(width_prefix(spec.name, bits),
                             code_format(container_bits(bits, file_->version())), spec.out, spec.in,
                             scheme_, parallel);
    }
    if (precision.activation.is_integer()) return integers;
    return pack_for_floats(integers->view, parallel);
  }

  std::unique_ptr<OwnedMatrix> lm_head_packed(quant::BitWidth width,
                                              ParallelFor& parallel) const override {
    const auto& stored = lm_head_widths_;
    if (std::find(stored.begin(), stored.end(), width.bits) != stored.end()) {
      return read_matrix(width_prefix(kLmHead, width.bits), weight_format(lm_head_precision(width)),
                         config_.vocab_size, config_.hidden, {}, parallel);
    }
    // Heads of 16 bits and less are made from the bfloat16 embedding in any case.
    QALOF_CHECK(width.bits <= embedding_bits(), ErrorKind::kUnsupported,
                "{}: holds no LM head of {} bits, nor the floats to make it; pack it with qalof "
                "quantize --lm_head_bits {}",
                file_->path(), width.bits, width.bits);
    return nullptr;
  }
  int embedding_bits() const override { return 16; }

  std::optional<std::vector<float>> tensor_f32(const std::string& name) const override {
    const auto it = file_->tensors().find(name);
    if (it == file_->tensors().end()) return std::nullopt;
    // open_packed_file has checked the shapes; read verifies the bytes.
    SerialFor serial;
    return file_->read_floats(name, it->second.dtype, it->second.shape, serial);
  }

  void copy_rows(const std::string& name, std::size_t first, std::span<float> dst) const override {
    const io::TensorView& view = file_->tensors().at(name);
    const std::size_t element = view.bytes.size() / view.num_elements();
    const std::size_t row_bytes = view.bytes.size() / view.shape[0];
    io::copy_as_f32(view.dtype, view.bytes.subspan(first * row_bytes, dst.size() * element), dst);
    check_finite_tensor(dst, file_->path(), name, first * row_bytes / element);
  }

  void check(const std::string& name) const override {
    const io::TensorView& view = file_->tensors().at(name);
    SerialFor serial;
    file_->read(name, view.dtype, view.shape, serial);
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

  quant::QuantScheme scheme() const { return scheme_; }
  const std::vector<int>& lm_head_widths() const { return lm_head_widths_; }

 private:
  // 4 bits use the high panels in place, with scales and zeros made from those of 8 bits; 8 bits
  // are put together in memory.
  std::unique_ptr<OwnedMatrix> read_nested(const model::LinearSpec& spec, int bits,
                                           ParallelFor& parallel) const {
    const std::string prefix = width_prefix(spec.name, 8);
    auto high = read_panels(width_prefix(spec.name, 4) + "panels", kernels::WeightFormat::kInt4,
                            spec.out, spec.in, parallel);
    read_scales(*high, prefix, scheme_, parallel);
    for (const std::int8_t zero : high->zeros) {
      QALOF_CHECK(zero % 16 == 0, ErrorKind::kCorruptFile,
                  "{}: tensor {}zeros holds {}, expected multiples of 16", file_->path(), prefix,
                  zero);
    }
    if (bits == 4) {
      for (float& scale : high->scales) scale *= 16.0F;
      check_finite_tensor(high->scales, file_->path(), prefix + "scales, 16 times");
      for (std::int8_t& zero : high->zeros) zero = static_cast<std::int8_t>(zero / 16);
      return high;
    }
    auto low =
        read_panels(prefix + kLowPanels, kernels::WeightFormat::kInt4, spec.out, spec.in, parallel);
    read_scales(*low, prefix, scheme_, parallel);
    const RowCodes rows = unpack_nested(high->view, low->view);
    QALOF_CHECK(*std::min_element(rows.codes.begin(), rows.codes.end()) >= -127,
                ErrorKind::kCorruptFile, "{}: {} holds nested codes below -127", file_->path(),
                spec.name);
    return pack_codes(rows, {{8}, {8}}, parallel);
  }

  // A matrix whose view points at panels in the mapping.
  std::unique_ptr<OwnedMatrix> read_panels(const std::string& name, kernels::WeightFormat format,
                                           std::size_t n, std::size_t k,
                                           ParallelFor& parallel) const {
    auto owned = std::make_unique<OwnedMatrix>();
    owned->view.format = format;
    owned->view.n = n;
    owned->view.k = k;
    const std::size_t bytes = kernels::packed_matrix_bytes(format, n, k);
    owned->view.panels = file_->read(name, io::DType::kU8, {bytes}, parallel).bytes.data();
    return owned;
  }

  // Copies the scales and zeros of integers.
  void read_scales(OwnedMatrix& owned, const std::string& prefix, quant::QuantScheme scheme,
                   ParallelFor& parallel) const {
    const std::size_t n = owned.view.n;
    if (scheme.group == 0) {
      owned.scales = file_->read_floats(prefix + "scales", io::DType::kF32, {n}, parallel);
    } else {
      owned.view.group = scheme.group;
      const auto shape = grouped_shape(n, kernels::num_groups(owned.view.k, scheme.group));
      owned.scales = file_->read_floats(prefix + "scales", io::DType::kBF16, shape, parallel);
      if (scheme.asymmetric) {
        const io::TensorView& zeros =
            file_->read(prefix + "zeros", io::DType::kI8, shape, parallel);
        const auto* values = reinterpret_cast<const std::int8_t*>(zeros.bytes.data());
        owned.zeros.assign(values, values + zeros.bytes.size());
      }
    }
    owned.update_view();
  }

  // Panels are used in place in the mapping; scales, sums and zero points are copied.
  std::unique_ptr<OwnedMatrix> read_matrix(const std::string& prefix, kernels::WeightFormat format,
                                           std::size_t n, std::size_t k, quant::QuantScheme scheme,
                                           ParallelFor& parallel) const {
    auto owned = read_panels(prefix + "panels", format, n, k, parallel);
    if (!kernels::is_integer(format)) {
      const std::size_t bytes = kernels::packed_matrix_bytes(format, n, k);
      check_float_panels(prefix + "panels", format,
                         {static_cast<const std::byte*>(owned->view.panels), bytes});
      return owned;
    }
    read_scales(*owned, prefix, scheme, parallel);
    const std::string sums = prefix + "code_sums";
    if (scheme.group == 0) {
      owned->code_sums = file_->read_integers(sums, io::DType::kI32, {n}, parallel);
    } else if (format == kernels::WeightFormat::kInt8) {
      const auto shape = grouped_shape(n, kernels::num_groups(k, scheme.group));
      owned->code_sums = file_->read_integers(sums, io::DType::kI16, shape, parallel);
    }
    owned->update_view();
    return owned;
  }

  // Verifies panels of floats, which are padded with zeros.
  void check_float_panels(const std::string& name, kernels::WeightFormat format,
                          std::span<const std::byte> panels) const {
    const bool is_f32 = format == kernels::WeightFormat::kF32;
    const std::size_t element = is_f32 ? 4 : 2;
    std::vector<float> part(std::size_t{1} << 16);
    for (std::size_t first = 0; first < panels.size() / element; first += part.size()) {
      part.resize(std::min(part.size(), panels.size() / element - first));
      io::copy_as_f32(is_f32 ? io::DType::kF32 : io::DType::kBF16,
                      panels.subspan(first * element, part.size() * element), part);
      check_finite_tensor(part, file_->path(), name, first);
    }
  }

  CodebookWeights read_codebook(const model::LinearSpec& spec, int bits,
                                ParallelFor& parallel) const {
    const std::string prefix = width_prefix(spec.name, bits);
    CodebookWeights weights;
    weights.n = spec.out;
    weights.k = spec.in;
    weights.codebook = choose_codebook(scheme_);
    const std::size_t count = spec.out * spec.in, blocks = kernels::codebook_blocks(count);
    weights.codes = read_bytes(prefix + "codes", kernels::codebook_bytes(count), parallel);
    if (!scheme_.double_quant) {
      weights.scales = file_->read_floats(prefix + "absmax", io::DType::kF32, {blocks}, parallel);
      return weights;
    }
    weights.scale_codes = read_bytes(prefix + "absmax", blocks, parallel);
    weights.block_scales = file_->read_floats(prefix + "absmax_scales", io::DType::kF32,
                                              {kernels::scale_blocks(blocks)}, parallel);
    weights.scale_mean =
        file_->read_floats(prefix + "absmax_mean", io::DType::kF32, {1}, parallel).front();
    return weights;
  }
  std::vector<std::uint8_t> read_bytes(const std::string& name, std::size_t count,
                                       ParallelFor& parallel) const {
    const io::TensorView& view = file_->read(name, io::DType::kU8, {count}, parallel);
    const auto* values = reinterpret_cast<const std::uint8_t*>(view.bytes.data());
    return {values, values + count};
  }

  std::shared_ptr<const CheckedFile> file_;
  model::ModelConfig config_;
  std::vector<model::LinearSpec> linears_;
  quant::QuantScheme scheme_;
  std::vector<std::set<int>> widths_;
  std::vector<int> lm_head_widths_;
};

// The learned clip factors of an adapter's width; its learned steps are part of the weights.
std::optional<LearnedQuantizers> read_clips(const Json& entry, const std::string& where, int width,
                                            const quant::QuantScheme& scheme,
                                            std::size_t num_linears) {
  const auto clips = entry.find("clips");
  if (clips == entry.end()) return std::nullopt;
  QALOF_CHECK(clips->is_array() && clips->size() == num_linears, ErrorKind::kCorruptFile,
              "{}: clips is not a list of {} numbers", where, num_linears);
  LearnedQuantizers learned{width, scheme, {}};
  for (const Json& clip : *clips) {
    QALOF_CHECK(clip.is_number() && clip > 0.0 && clip <= 1.0, ErrorKind::kCorruptFile,
                "{}: clips holds {}, expected more than 0 and at most 1", where, clip.dump());
    learned.linears.emplace_back().clip = clip.get<float>();
  }
  return learned;
}

std::shared_ptr<const AdapterSet> read_adapters(const CheckedFile& file,
                                                const model::ModelConfig& config) {
  SerialFor serial;
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
      std::vector<float> a =
          file.read_floats(name + ".lora_A", io::DType::kF32, {rank, spec.in}, serial);
      std::vector<float> b =
          file.read_floats(name + ".lora_B", io::DType::kF32, {spec.out, rank}, serial);
      lora = std::make_unique<LoraLinear>(rank, scaling, std::move(a), std::move(b), spec.in,
                                          spec.out);
    }
    QALOF_CHECK(found == entry["linears"].size(), ErrorKind::kCorruptFile,
                "{}: linears has {} entries, {} of them belong to the model", where,
                entry["linears"].size(), found);
    adapter->qa_head = file.read_head(prefix + "qa_outputs", 2, config.hidden);
    adapter->class_head = file.read_head(prefix + "score", 0, config.hidden);
    adapter->learned = read_clips(entry, where, width, read_scheme(file), linears.size());
    set->by_width[width] = std::move(adapter);
  }
  if (file.header().contains("separator")) {
    set->separator =
        static_cast<std::int32_t>(json_int(file.header(), "separator", file.path(), 0,
                                           static_cast<std::int64_t>(config.vocab_size) - 1));
  }
  if (file.header().contains("label_names")) {
    set->label_names =
        io::read_label_names(file.header()["label_names"], file.path() + ": label_names");
  }
  return set;
}

}  // namespace

bool is_packed_file(const std::string& path) {
  // write_safetensors puts the metadata first; kPackedMetadataKey is the second of its two keys.
  constexpr std::size_t kMagicBytes = 256;
  const std::string start = read_start(path, kMagicBytes);
  return start.size() > 8 && start[8] == '{' &&
         start.find(fmt::format("\"{}\"", kPackedMetadataKey)) != std::string::npos;
}

PackedModel open_packed_file(const std::string& path) {
  SerialFor serial;
  return open_packed_file(path, serial);
}

PackedModel open_packed_file(const std::string& path, ParallelFor& parallel) {
  const auto file = std::make_shared<const CheckedFile>(path);
  for (const char* key : {"config", "scheme", "widths", "plan", "adapters", "base"}) {
    QALOF_CHECK(file->header().contains(key), ErrorKind::kCorruptFile, "{}: {} is missing", path,
                key);
  }
  PackedModel packed;
  model::ModelConfig config =
      model::parse_model_config(file->header()["config"], path + ": config");
  if (file->header().contains(kNoLmHeadKey)) {
    QALOF_CHECK(
        json_bool(file->header(), kNoLmHeadKey, path) && config.lm_head == model::LmHead::kOwn,
        ErrorKind::kCorruptFile, "{}: {} contradicts config", path, kNoLmHeadKey);
    model::set_lm_head(config, model::LmHead::kNone);
  }
  for (const model::TensorSpec& spec : model::row_tensors(config))
    file->read(spec.name, io::DType::kBF16, spec.shape, parallel);
  for (const model::TensorSpec& spec : model::expected_tensors(config)) {
    if (spec.shape.size() == 1) file->read(spec.name, io::DType::kF32, spec.shape, parallel);
  }
  packed.adapters = read_adapters(*file, config);
  if (file->header().contains("method"))
    packed.method = json_string(file->header(), "method", path);
  packed.has_adapter_weights = file->header().contains("adapter_weights");
  packed.plan = quant::plan_from_json(file->header()["plan"], path + ": plan");
  for (const char* name : kTokenizerFiles) {
    const std::string tensor = fmt::format("file.{}", name);
    if (!file->contains(tensor)) continue;
    const std::span<const std::byte> bytes = file->read(tensor, io::DType::kU8, {}, parallel).bytes;
    packed.files[name] = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  std::optional<Head> qa = file->read_head("qa_outputs", 2, config.hidden);
  std::optional<Head> score = file->read_head("score", 0, config.hidden);
  auto source = std::make_unique<PackedSource>(file, config);
  for (const model::TensorSpec& spec : folded_tensors(config, source->scheme().rotations))
    file->read(spec.name, io::DType::kF32, spec.shape, parallel);
  packed.lm_head_bits = source->lm_head_widths();
  QALOF_CHECK(!packed.plan.scheme || *packed.plan.scheme == source->scheme(),
              ErrorKind::kCorruptFile, "{}: the plan's scheme is {}, the file's {}", path,
              quant::to_string(*packed.plan.scheme), quant::to_string(source->scheme()));
  packed.plan.scheme = source->scheme();
  auto base = std::make_shared<BaseModel>(std::move(config), path, std::move(source));
  base->set_heads(std::move(qa), std::move(score));
  packed.base = std::move(base);
  return packed;
}

}  // namespace qalof::weights
