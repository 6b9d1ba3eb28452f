// Writing packed files tensor by tensor through a spool on disk. packed_file.cpp reads them.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/file.h"
#include "io/hub/cache.h"
#include "io/safetensors.h"
#include "weights/codebook_weights.h"
#include "weights/packed_file.h"
#include "weights/packed_layout.h"
#include "weights/rotation.h"

namespace qalof::weights {

namespace {

// The precision whose packed form is stored for a width.
quant::Precision stored_precision(int bits) { return {{bits}, {8}}; }

// Spools tensors to disk as they are made, then writes the file: memory holds one at a time.
class Writer {
 public:
  explicit Writer(const std::string& path) : path_(path), spool_(path) {}

  template <typename T>
  void add(const std::string& name, io::DType dtype, std::vector<std::size_t> shape,
           std::span<const T> values) {
    begin(name, dtype, std::move(shape));
    append(values);
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
  // Adds a bfloat16 tensor whose rows of shape[1] values are produced in parts: fill(first row,
  // dst).
  void add_rows(const std::string& name, std::vector<std::size_t> shape,
                const std::function<void(std::size_t, std::span<float>)>& fill) {
    constexpr std::size_t kPartValues = std::size_t{1} << 20;
    const std::size_t rows = shape[0], width = shape[1];
    const std::size_t part = std::max<std::size_t>(1, kPartValues / width);
    begin(name, io::DType::kBF16, std::move(shape));
    std::vector<float> values;
    for (std::size_t row = 0; row < rows; row += part) {
      values.resize(std::min(part, rows - row) * width);
      fill(row, values);
      append<std::byte>(io::bf16_bytes(values));
    }
  }
  // Returns the bytes of the file.
  std::uint64_t write(Json header) {
    const MappedFile stored = spool_.map();
    std::map<std::string, std::uint32_t> checksums;
    std::vector<io::TensorToWrite> tensors;
    for (const Added& added : added_) {
      checksums[added.name] = added.checksum;
      tensors.push_back(
          {added.name, added.dtype, added.shape, stored.bytes().subspan(added.first, added.size)});
    }
    header["crc32c"] = checksums;
    return io::write_safetensors(path_, std::move(tensors),
                                 {{kPackedMetadataKey, dump_json(header, path_)}}, kPackedAlignment,
                                 [&](std::span<const std::byte> bytes) { stored.release(bytes); });
  }

 private:
  struct Added {
    std::string name;
    io::DType dtype;
    std::vector<std::size_t> shape;
    std::size_t first, size = 0;  // bytes of the spool
    std::uint32_t checksum = 0;
  };
  void begin(const std::string& name, io::DType dtype, std::vector<std::size_t> shape) {
    added_.push_back({name, dtype, std::move(shape), spool_.size()});
  }
  template <typename T>
  void append(std::span<const T> values) {
    const auto bytes = std::as_bytes(values);
    spool_.append(bytes);
    Added& added = added_.back();
    added.size += bytes.size();
    added.checksum = crc32c_combine(added.checksum, crc32c(bytes), bytes.size());
  }

  std::string path_;
  SpoolFile spool_;
  std::vector<Added> added_;
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
    quant::check_scheme(request.scheme, {{bits}, {request.scheme.is_codebook() ? 16 : 8}},
                        fmt::format("width {}", bits));
    for (std::set<int>& of_linear : widths) of_linear.insert(bits);
  }
  // Both widths of nested codes are there in any case.
  if (request.scheme.nested) std::fill(widths.begin(), widths.end(), std::set<int>{4, 8});
  return widths;
}

// Widths of the LM head without repeats, in the order given: the first runs by default.
std::vector<int> lm_head_widths(const PackRequest& request) {
  std::vector<int> widths;
  for (const int bits : request.lm_head_bits) {
    lm_head_precision(quant::BitWidth{bits});  // throws for a width that does not exist
    if (std::find(widths.begin(), widths.end(), bits) == widths.end()) widths.push_back(bits);
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
      // The weights of a merged adapter already contain its product.
      if (lora == nullptr || adapter->merged) continue;
      const model::LinearSpec& spec = base.linears()[i];
      // Rank and scaling may differ per linear, and a scaling need not be alpha / r.
      writer.add_f32(prefix + spec.name + ".lora_A", {lora->rank(), spec.in}, lora->a());
      writer.add_f32(prefix + spec.name + ".lora_B", {spec.out, lora->rank()}, lora->b());
      linears[spec.name] = {{"r", lora->rank()}, {"scaling", lora->view().scaling}};
    }
    described[std::to_string(width)] = {
        {"r", adapter->rank}, {"lora_alpha", adapter->alpha}, {"linears", linears}};
    if (adapter->learned) {
      Json clips = Json::array();
      for (const LearnedLinear& values : adapter->learned->linears) clips.push_back(values.clip);
      described[std::to_string(width)]["clips"] = clips;
    }
    writer.add_head(prefix + "qa_outputs", adapter->qa_head, base.config().hidden);
    writer.add_head(prefix + "score", adapter->class_head, base.config().hidden);
  }
  return described;
}

// Sums of codes of a group of at most 128 fit 16 bits.
std::vector<std::int16_t> narrow(std::span<const std::int32_t> values) {
  std::vector<std::int16_t> narrowed(values.size());
  std::transform(values.begin(), values.end(), narrowed.begin(), [](std::int32_t value) {
    QALOF_CHECK(std::abs(value) <= std::numeric_limits<std::int16_t>::max(), ErrorKind::kInternal,
                "a sum of codes is {}", value);
    return static_cast<std::int16_t>(value);
  });
  return narrowed;
}

void add_panels(Writer& writer, const std::string& name, const kernels::PackedMatrix& w) {
  const std::size_t bytes = kernels::packed_matrix_bytes(w.format, w.n, w.k);
  writer.add<std::byte>(name, io::DType::kU8, {bytes},
                        {static_cast<const std::byte*>(w.panels), bytes});
}

// Adds the scales and zeros of integers; returns their stored bytes.
std::uint64_t add_scales(Writer& writer, const std::string& prefix,
                         const kernels::PackedMatrix& w) {
  if (w.group == 0) {
    writer.add_f32(prefix + "scales", {w.n}, {w.scales, w.n});
    return 4 * w.n;
  }
  const std::size_t groups = kernels::num_groups(w.k, w.group);
  const std::size_t count = kernels::grouped_count(w.n, groups);
  const std::vector<std::size_t> shape = grouped_shape(w.n, groups);
  writer.add<std::byte>(prefix + "scales", io::DType::kBF16, shape,
                        io::bf16_bytes({w.scales, count}));
  if (w.zeros == nullptr) return 2 * count;
  writer.add<std::int8_t>(prefix + "zeros", io::DType::kI8, shape, {w.zeros, count});
  return 3 * count;
}

// Adds a packed matrix of a width; returns its stored bytes.
std::uint64_t add_matrix(Writer& writer, const std::string& prefix,
                         const kernels::PackedMatrix& w) {
  add_panels(writer, prefix + "panels", w);
  std::uint64_t bytes = kernels::packed_matrix_bytes(w.format, w.n, w.k);
  if (!kernels::is_integer(w.format)) return bytes;
  bytes += add_scales(writer, prefix, w);
  if (w.group == 0) {
    writer.add<std::int32_t>(prefix + "code_sums", io::DType::kI32, {w.n}, {w.code_sums, w.n});
    return bytes + 4 * w.n;
  }
  if (w.format != kernels::WeightFormat::kInt8) return bytes;
  const std::size_t groups = kernels::num_groups(w.k, w.group);
  const std::size_t count = kernels::grouped_count(w.n, groups);
  writer.add<std::int16_t>(prefix + "code_sums", io::DType::kI16, grouped_shape(w.n, groups),
                           narrow({w.code_sums, count}));
  return bytes + 2 * count;
}

// Adds a linear in a nested scheme; bytes[4] are those that 4 bits read alone but for the scales.
void add_nested(Writer& writer, const BaseModel& base, quant::QuantScheme scheme,
                std::size_t linear, std::map<int, std::uint64_t>& bytes, ParallelFor& parallel) {
  const std::string& name = base.linears()[linear].name;
  const auto whole = base.make_packed(linear, stored_precision(8), scheme, parallel);
  const NestedMatrix nested = pack_nested(whole->view, parallel);
  add_panels(writer, width_prefix(name, 4) + "panels", nested.high->view);
  add_panels(writer, width_prefix(name, 8) + kLowPanels, nested.low->view);
  bytes[4] += nested.high->panels.size();
  bytes[8] +=
      nested.low->panels.size() + add_scales(writer, width_prefix(name, 8), nested.low->view);
}

// Adds weights of a codebook scheme; returns their stored bytes.
std::uint64_t add_codebook(Writer& writer, const std::string& prefix, const CodebookWeights& w) {
  writer.add<std::uint8_t>(prefix + "codes", io::DType::kU8, {w.codes.size()}, w.codes);
  if (!w.double_quant()) {
    writer.add_f32(prefix + "absmax", {w.scales.size()}, w.scales);
  } else {
    writer.add<std::uint8_t>(prefix + "absmax", io::DType::kU8, {w.scale_codes.size()},
                             w.scale_codes);
    writer.add_f32(prefix + "absmax_scales", {w.block_scales.size()}, w.block_scales);
    writer.add_f32(prefix + "absmax_mean", {1}, {&w.scale_mean, 1});
  }
  return w.bytes();
}

// The adapter that serves a width, or null.
const Adapter* serving_adapter(const PackRequest& request, int bits) {
  if (request.adapters == nullptr) return nullptr;
  const std::optional<int> serving = request.adapters->serving_width(bits);
  return serving ? request.adapters->by_width.at(*serving).get() : nullptr;
}

bool owns_weights(const PackRequest& request) {
  return request.adapters &&
         std::any_of(request.adapters->by_width.begin(), request.adapters->by_width.end(),
                     [](const auto& entry) { return owns_weights(*entry.second); });
}

// Adds a linear at a width in the request's scheme, with the weights its adapter needs; returns
// its stored bytes.
std::uint64_t add_linear(Writer& writer, const std::shared_ptr<const BaseModel>& model,
                         const PackRequest& request, std::size_t linear, int bits,
                         ParallelFor& parallel) {
  const BaseModel& base = *model;
  const Adapter* adapter = serving_adapter(request, bits);
  const model::LinearSpec& spec = base.linears()[linear];
  const std::string prefix = width_prefix(spec.name, bits);
  if (!request.scheme.is_codebook()) {
    AdaptedLinear adapted;
    if (adapter != nullptr) {
      adapted =
          adapt_linear(model, *adapter, linear, stored_precision(bits), request.scheme, parallel);
    }
    if (adapted.weight) return add_matrix(writer, prefix, adapted.weight->view);
    return add_matrix(
        writer, prefix,
        base.make_packed(linear, stored_precision(bits), request.scheme, parallel)->view);
  }
  return add_codebook(
      writer, prefix,
      quantize_with_codebook(adapter != nullptr ? adapted_floats(base, *adapter, linear, parallel)
                                                : base.source().linear_f32(linear),
                             spec.out, spec.in, request.scheme, parallel));
}

// The lowest version that holds these widths, 2..8 of every linear.
int format_version(const std::vector<std::set<int>>& widths, bool nested, bool has_own_weights) {
  const bool has_few_bits = std::any_of(widths.begin(), widths.end(), [](const auto& of_linear) {
    return !of_linear.empty() && *of_linear.begin() < 4;
  });
  if (has_few_bits || nested) return 4;
  return has_own_weights ? 3 : 2;
}

}  // namespace

PackSummary write_packed_file(const std::string& path, const PackRequest& request,
                              ParallelFor& parallel) {
  QALOF_CHECK(request.plan || !request.widths.empty(), ErrorKind::kUsage,
              "{}: neither widths nor a plan to pack", path);
  QALOF_CHECK(!request.plan || !request.plan->scheme || *request.plan->scheme == request.scheme,
              ErrorKind::kUsage, "{}: scheme {} contradicts scheme {}", request.plan->source,
              quant::to_string(*request.plan->scheme), quant::to_string(request.scheme));
  QALOF_CHECK(!request.scheme.nested || !owns_weights(request), ErrorKind::kUnsupported,
              "scheme {}: 8 and 4 bits share their weights, and these adapters (merged, or with "
              "learned quantizers) have weights of their own for each width",
              quant::to_string(request.scheme));
  const std::shared_ptr<const BaseModel> model = model_for(request.base, request.scheme);
  const BaseModel& base = *model;
  QALOF_CHECK(request.scheme.is_rotated() == (base.rotation() != nullptr), ErrorKind::kInternal,
              "{}: a rotated model in scheme {}", path, quant::to_string(request.scheme));
  const WeightSource& source = base.source();
  const model::ModelConfig& config = base.config();
  Writer writer(path);
  for (const model::TensorSpec& spec : model::row_tensors(config)) {
    writer.add_rows(spec.name, spec.shape, [&](std::size_t first, std::span<float> dst) {
      source.copy_rows(spec.name, first, dst);
    });
  }
  for (const model::TensorSpec& spec : model::expected_tensors(config)) {
    if (spec.shape.size() == 1)
      writer.add_f32(spec.name, spec.shape, *source.tensor_f32(spec.name));
  }
  if (base.rotation()) {
    const std::vector<const std::vector<float>*> values = base.rotation()->folded_values();
    std::size_t next = 0;
    for (const model::TensorSpec& spec : folded_tensors(config, request.scheme.rotations))
      writer.add_f32(spec.name, spec.shape, *values[next++]);
  }
  writer.add_head("qa_outputs", base.qa_head(), config.hidden);
  writer.add_head("score", base.class_head(), config.hidden);

  PackSummary summary;
  std::map<int, std::uint64_t> width_bytes;
  const std::vector<std::set<int>> widths = widths_per_linear(request);
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    if (request.on_linear) request.on_linear(i, base.linears().size());
    const model::LinearSpec& spec = base.linears()[i];
    summary.weights += spec.in * spec.out;
    if (request.scheme.nested) {
      add_nested(writer, base, request.scheme, i, width_bytes, parallel);
      continue;
    }
    for (const int bits : widths[i]) {
      width_bytes[bits] += add_linear(writer, model, request, i, bits, parallel);
    }
  }
  if (request.on_linear) request.on_linear(base.linears().size(), base.linears().size());
  for (const int bits : lm_head_widths(request)) {
    summary.lm_head.push_back(
        {bits, container_bits(bits),
         add_matrix(writer, width_prefix(kLmHead, bits),
                    base.make_lm_head(quant::BitWidth{bits}, parallel)->view)});
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
    summary.widths.push_back({bits, request.scheme.nested ? 4 : container_bits(bits), bytes});
    weight_bytes += bytes;
  }
  summary.bits_per_weight =
      8.0 * static_cast<double>(weight_bytes) / static_cast<double>(summary.weights);

  const bool has_own_weights = owns_weights(request);
  const std::string repository = io::find_hub_repository(base.path());
  Json header = {
      {"format_version", format_version(widths, request.scheme.nested, has_own_weights)},
      {"scheme", quant::to_string(request.scheme)},
      {"lm_head", lm_head_widths(request)},
      {"config", config.raw},
      {"base",
       {{"id", repository.empty() ? base.path() : repository}, {"sha256", source.sha256()}}}};
  if (config.lm_head == model::LmHead::kNone) header[kNoLmHeadKey] = true;
  if (!request.method.empty()) header["method"] = request.method;
  if (has_own_weights) header["adapter_weights"] = true;
  Json linear_widths = Json::array();
  for (const std::set<int>& of_linear : widths) linear_widths.push_back(of_linear);
  header["widths"] = linear_widths;
  quant::PlanSpec plan;
  if (request.plan) {
    plan = *request.plan;
  } else {
    const int top = *std::max_element(request.widths.begin(), request.widths.end());
    plan = quant::parse_plan(request.scheme.is_codebook() ? fmt::format("w{}a16", top)
                                                          : std::to_string(top));
  }
  plan.scheme = request.scheme;
  header["plan"] = quant::to_json(plan);
  header["adapters"] = add_adapters(writer, base, request.adapters.get());
  if (request.adapters && request.adapters->separator)
    header["separator"] = *request.adapters->separator;
  if (request.adapters && !request.adapters->label_names.empty())
    header["label_names"] = request.adapters->label_names;
  summary.bytes = writer.write(header);
  return summary;
}

}  // namespace qalof::weights
