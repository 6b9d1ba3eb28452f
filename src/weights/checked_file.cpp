// Opens the safetensors container of a packed file and verifies each tensor's crc32c at first read.
#include "weights/checked_file.h"

#include <algorithm>
#include <cstring>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/finite.h"
#include "core/format_version.h"
#include "weights/packed_layout.h"

namespace qalof::weights {

namespace {

// Padding between tensors has no checksum; every byte of it must be zero.
void check_padding(const std::string& path, const std::string& name, const io::TensorView& view) {
  const bool is_zero = std::all_of(view.bytes.begin(), view.bytes.end(),
                                   [](std::byte byte) { return byte == std::byte{0}; });
  QALOF_CHECK(view.bytes.size() < kPackedAlignment && is_zero, ErrorKind::kCorruptFile,
              "{}: tensor {} is damaged: crc32c missing, expected less than {} zeros", path, name,
              kPackedAlignment);
}

}  // namespace

CheckedFile::CheckedFile(const std::string& path)
    : path_(path), file_(io::SafetensorsFile::open(path)) {
  const auto& metadata = file_.metadata();
  const auto it = metadata.find(kPackedMetadataKey);
  QALOF_CHECK(it != metadata.end(), ErrorKind::kBadInput,
              "{}: a safetensors file without {} is not a packed file", path, kPackedMetadataKey);
  const std::string where = path + ": " + kPackedMetadataKey;
  header_ = parse_json(it->second, where);
  QALOF_CHECK(header_.is_object(), ErrorKind::kCorruptFile, "{}: found {}, expected an object",
              where, header_.type_name());
  version_ = read_format_version(header_, where, kPackedVersion, 1);
  QALOF_CHECK(header_.contains("crc32c") && header_["crc32c"].is_object(), ErrorKind::kCorruptFile,
              "{}: crc32c is missing", where);
  for (const auto& [name, view] : file_.tensors()) {
    if (name.starts_with(io::kPaddingPrefix)) {
      check_padding(path, name, view);
      continue;
    }
    QALOF_CHECK(header_["crc32c"].contains(name), ErrorKind::kCorruptFile,
                "{}: tensor {} has no checksum", path, name);
  }
}

const io::TensorView& CheckedFile::read(const std::string& name, io::DType dtype,
                                        const std::vector<std::size_t>& shape,
                                        ParallelFor& parallel) const {
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
    const std::uint32_t found = crc32c(view.bytes, parallel);
    QALOF_CHECK(
        found == expected, ErrorKind::kCorruptFile,
        "{}: tensor {} is damaged: crc32c {:08x}, expected {:08x}; copy or make the file again",
        path_, name, found, expected);
    verified_.insert(name);
  }
  return view;
}

std::vector<float> CheckedFile::read_floats(const std::string& name, io::DType dtype,
                                            const std::vector<std::size_t>& shape,
                                            ParallelFor& parallel) const {
  const io::TensorView& view = read(name, dtype, shape, parallel);
  std::vector<float> values(view.num_elements());
  io::copy_as_f32(view, values);
  check_finite_tensor(values, path_, name);
  return values;
}

std::vector<std::int32_t> CheckedFile::read_integers(const std::string& name, io::DType dtype,
                                                     const std::vector<std::size_t>& shape,
                                                     ParallelFor& parallel) const {
  const io::TensorView& view = read(name, dtype, shape, parallel);
  std::vector<std::int32_t> values(view.num_elements());
  if (dtype == io::DType::kI32) {
    std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
    return values;
  }
  QALOF_CHECK(dtype == io::DType::kI16, ErrorKind::kInternal, "{}: read as integers of {}", name,
              io::to_string(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::int16_t value = 0;
    std::memcpy(&value, view.bytes.data() + 2 * i, 2);
    values[i] = value;
  }
  return values;
}

std::optional<Head> CheckedFile::read_head(const std::string& name, std::size_t outputs,
                                           std::size_t hidden) const {
  const auto it = file_.tensors().find(name + ".weight");
  if (it == file_.tensors().end()) return std::nullopt;
  QALOF_CHECK(it->second.shape.size() == 2 && it->second.shape[1] == hidden &&
                  it->second.shape[0] > 0 && (outputs == 0 || it->second.shape[0] == outputs),
              ErrorKind::kCorruptFile, "{}: tensor {}.weight has shape [{}], expected [{}, {}]",
              path_, name, fmt::join(it->second.shape, ", "),
              outputs == 0 ? "labels" : std::to_string(outputs), hidden);
  SerialFor serial;
  Head head;
  head.outputs = it->second.shape[0];
  head.weight = read_floats(name + ".weight", io::DType::kF32, it->second.shape, serial);
  if (contains(name + ".bias"))
    head.bias = read_floats(name + ".bias", io::DType::kF32, {head.outputs}, serial);
  return head;
}

}  // namespace qalof::weights
