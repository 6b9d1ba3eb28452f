// Applies learned steps to weights, and reads and writes quant.safetensors with strict checks.
#include "weights/learned_quantizer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/format_version.h"
#include "core/json.h"
#include "io/safetensors.h"
#include "kernels/learned_quantizer.h"

namespace qalof::weights {

namespace {

constexpr int kFormatVersion = 1;

// Reads the tensors of one file, counting those that belong to the model.
class Reader {
 public:
  explicit Reader(const io::SafetensorsFile& file) : file_(file) {}

  bool contains(const std::string& name) const { return file_.tensors().contains(name); }

  std::vector<float> floats(const std::string& name, const std::vector<std::size_t>& shape,
                            float low, float high) {
    const io::TensorView& view = tensor(name, io::DType::kF32, shape);
    std::vector<float> values(view.num_elements());
    io::copy_as_f32(view, values);
    for (const float value : values) {
      QALOF_CHECK(value >= low && value <= high, ErrorKind::kBadInput,
                  "{}: tensor {} holds {}, expected {}..{}", file_.path(), name, value, low, high);
    }
    return values;
  }
  std::vector<std::int8_t> codes(const std::string& name, const std::vector<std::size_t>& shape,
                                 int low, int high) {
    const io::TensorView& view = tensor(name, io::DType::kI8, shape);
    const auto* first = reinterpret_cast<const std::int8_t*>(view.bytes.data());
    std::vector<std::int8_t> values(first, first + view.bytes.size());
    for (const std::int8_t value : values) {
      QALOF_CHECK(value >= low && value <= high, ErrorKind::kBadInput,
                  "{}: tensor {} holds {}, expected {}..{}", file_.path(), name, int{value}, low,
                  high);
    }
    return values;
  }
  std::size_t num_read() const { return num_read_; }

 private:
  const io::TensorView& tensor(const std::string& name, io::DType dtype,
                               const std::vector<std::size_t>& shape) {
    const auto found = file_.tensors().find(name);
    QALOF_CHECK(found != file_.tensors().end(), ErrorKind::kBadInput, "{}: tensor {} is missing",
                file_.path(), name);
    const io::TensorView& view = found->second;
    QALOF_CHECK(view.dtype == dtype && view.shape == shape, ErrorKind::kBadInput,
                "{}: tensor {} is {} [{}], expected {} [{}]", file_.path(), name,
                io::to_string(view.dtype), fmt::join(view.shape, ", "), io::to_string(dtype),
                fmt::join(shape, ", "));
    ++num_read_;
    return view;
  }

  const io::SafetensorsFile& file_;
  std::size_t num_read_ = 0;
};

}  // namespace

RowCodes quantize_with_steps(const std::vector<float>& weights, std::size_t out, std::size_t in,
                             int bits, const quant::QuantScheme& scheme,
                             const LearnedLinear& learned, ParallelFor& parallel) {
  RowCodes rows{out,           in,           scheme.group, std::vector<std::int8_t>(out * in),
                learned.steps, learned.zeros};
  const std::size_t count = out * rows.groups();
  QALOF_CHECK(weights.size() == out * in && rows.scales.size() == count &&
                  rows.zeros.size() == (scheme.asymmetric ? count : 0),
              ErrorKind::kInternal, "learned steps: {} weights, {} steps and {} zeros for [{}, {}]",
              weights.size(), rows.scales.size(), rows.zeros.size(), out, in);
  const kernels::StepGrid grid{bits, scheme.group, rows.scales.data(),
                               rows.zeros.empty() ? nullptr : rows.zeros.data()};
  kernels::quantize_with_steps(weights.data(), out, in, grid, rows.codes.data(), parallel);
  return rows;
}

void write_learned_quantizers(const std::string& path, const LearnedQuantizers& learned,
                              const std::vector<model::LinearSpec>& linears) {
  std::vector<io::TensorToWrite> tensors;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const LearnedLinear& values = learned.linears.at(i);
    const std::string& name = linears[i].name;
    const std::vector<std::size_t> shape = {
        linears[i].out, kernels::num_groups(linears[i].in, learned.scheme.group)};
    const auto add = [&](const char* part, io::DType dtype, std::vector<std::size_t> extents,
                         std::span<const std::byte> bytes) {
      tensors.push_back({fmt::format("{}.{}", name, part), dtype, std::move(extents), bytes});
    };
    if (!values.steps.empty())
      add("steps", io::DType::kF32, shape, std::as_bytes(std::span(values.steps)));
    if (!values.zeros.empty())
      add("zeros", io::DType::kI8, shape, std::as_bytes(std::span(values.zeros)));
    add("clip", io::DType::kF32, {1}, std::as_bytes(std::span(&values.clip, 1)));
  }
  const Json header = {{"format_version", kFormatVersion},
                       {"bits", learned.bits},
                       {"scheme", quant::to_string(learned.scheme)}};
  io::write_safetensors(path, tensors, {{kLearnedMetadataKey, dump_json(header, path)}});
}

LearnedQuantizers read_learned_quantizers(const std::string& path,
                                          const std::vector<model::LinearSpec>& linears) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  const auto found = file.metadata().find(kLearnedMetadataKey);
  QALOF_CHECK(found != file.metadata().end(), ErrorKind::kBadInput, "{}: its metadata has no {}",
              path, kLearnedMetadataKey);
  const std::string where = fmt::format("{}: {}", path, kLearnedMetadataKey);
  const Json header = parse_json(found->second, where);
  read_format_version(header, where, kFormatVersion);
  LearnedQuantizers learned;
  learned.bits = static_cast<int>(json_int(header, "bits", where, 2, 8));
  learned.scheme = quant::parse_scheme(json_string(header, "scheme", where), where + ": scheme",
                                       ErrorKind::kBadInput);
  QALOF_CHECK(learned.scheme.kind == quant::CodeKind::kUniform, ErrorKind::kBadInput,
              "{}: scheme {}: its steps cannot be learned", where,
              quant::to_string(learned.scheme));
  Reader reader(file);
  const bool has_steps = reader.contains(linears.front().name + ".steps");
  const int top = (1 << (learned.bits - 1)) - 1;
  constexpr float kLargest = 3e38F;
  for (const model::LinearSpec& spec : linears) {
    LearnedLinear& values = learned.linears.emplace_back();
    const std::vector<std::size_t> shape = {spec.out,
                                            kernels::num_groups(spec.in, learned.scheme.group)};
    if (has_steps) {
      values.steps = reader.floats(spec.name + ".steps", shape, 0.0F, kLargest);
      if (learned.scheme.asymmetric)
        values.zeros = reader.codes(spec.name + ".zeros", shape, std::max(-top - 1, -127), top);
    }
    values.clip = reader.floats(spec.name + ".clip", {1}, 1e-6F, 1.0F).front();
  }
  QALOF_CHECK(reader.num_read() == file.tensors().size(), ErrorKind::kBadInput,
              "{}: holds {} tensors, {} of them belong to this model", path, file.tensors().size(),
              reader.num_read());
  return learned;
}

}  // namespace qalof::weights
