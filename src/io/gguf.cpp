// Parses GGUF headers, metadata and tensor tables, and joins the parts of a split model (gguf.h).
#include "io/gguf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "io/limits.h"

namespace qalof::io {

namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::uint64_t kMaxEntries = 10'000;
constexpr std::uint32_t kMaxGgufRank = 4;
constexpr std::uint64_t kMaxGgufAlignment = 65'536;
constexpr std::uint64_t kDefaultAlignment = 32;

// Metadata keys of a file that is one part of a split model.
constexpr const char* kPartIndex = "split.no";
constexpr const char* kPartCount = "split.count";
constexpr const char* kPartTensors = "split.tensors.count";
constexpr std::uint64_t kMaxParts = 10'000;

// Type numbers of metadata values.
constexpr std::uint32_t kUint8 = 0, kInt8 = 1, kUint16 = 2, kInt16 = 3, kUint32 = 4, kInt32 = 5,
                        kFloat32 = 6, kBool = 7, kString = 8, kArray = 9, kUint64 = 10, kInt64 = 11,
                        kFloat64 = 12;

// Bytes of a scalar type; 0 for strings, arrays and unknown types.
std::size_t scalar_bytes(std::uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
      return 8;
    default:
      return 0;
  }
}

const GgufBlock& block_of(GgufType type) { return *gguf_block(static_cast<std::uint32_t>(type)); }

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

std::string name_text(std::string_view name) {
  return fmt::format("\"{:.80}{}\"", name, name.size() > 80 ? "..." : "");
}

// A scalar of an integer type as unsigned; nullopt for other types and negative numbers.
std::optional<std::uint64_t> as_unsigned(std::uint32_t type, const std::byte* at) {
  const auto of_signed = [](std::int64_t value) -> std::optional<std::uint64_t> {
    if (value < 0) return std::nullopt;
    return static_cast<std::uint64_t>(value);
  };
  switch (type) {
    case kUint8:
      return load<std::uint8_t>(at);
    case kUint16:
      return load<std::uint16_t>(at);
    case kUint32:
      return load<std::uint32_t>(at);
    case kUint64:
      return load<std::uint64_t>(at);
    case kInt8:
      return of_signed(load<std::int8_t>(at));
    case kInt16:
      return of_signed(load<std::int16_t>(at));
    case kInt32:
      return of_signed(load<std::int32_t>(at));
    case kInt64:
      return of_signed(load<std::int64_t>(at));
    default:
      return std::nullopt;
  }
}

}  // namespace

std::size_t GgufTensor::num_elements() const {
  const GgufBlock& block = block_of(type);
  return bytes.size() / block.bytes * block.elements;
}

// Parses a file from front to back; every length is compared with the bytes left before it is used.
class GgufParser {
 public:
  explicit GgufParser(GgufFile& file) : file_(file), rest_(file.file_.bytes()) {}

  void run() {
    const std::span<const std::byte> all = rest_;
    if (all.size() < kMagic.size() || std::memcmp(all.data(), kMagic.data(), kMagic.size()) != 0)
      refuse("is no GGUF file (it does not begin with the magic \"GGUF\")");
    rest_ = rest_.subspan(kMagic.size());
    const auto version = number<std::uint32_t>("version");
    // A small version number whose bytes are in the high half is big-endian.
    if ((version & 0xFFFFU) == 0 && version != 0)
      refuse("is a big-endian GGUF file, read are little-endian ones");
    QALOF_CHECK(version == 2 || version == 3, ErrorKind::kCorruptFile,
                "{}: GGUF version {}, read are 2 and 3", file_.path(), version);
    const auto tensors = number<std::uint64_t>("number of tensors");
    const auto entries = number<std::uint64_t>("number of metadata entries");
    if (tensors > kMaxTensors)
      refuse(fmt::format("{} tensors, at most {} are read", tensors, kMaxTensors));
    if (entries > kMaxEntries)
      refuse(fmt::format("{} metadata entries, at most {} are read", entries, kMaxEntries));
    for (std::uint64_t i = 0; i < entries; ++i) read_entry(i);
    const std::uint64_t alignment = read_alignment();
    for (std::uint64_t i = 0; i < tensors; ++i) read_tensor(i, alignment);
    // Data begins at the next multiple of the alignment.
    const std::size_t header = all.size() - rest_.size();
    const std::size_t padding = (alignment - header % alignment) % alignment;
    if (tensors > 0 && padding > rest_.size()) refuse("ends before its tensors' data");
    place_tensors(rest_.subspan(std::min(padding, rest_.size())), alignment);
  }

 private:
  struct Pending {
    std::string name;
    GgufTensor tensor;
    std::uint64_t offset, bytes;
  };

  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorKind::kCorruptFile, "{}: {}", file_.path(), what);
  }

  std::span<const std::byte> take(std::uint64_t bytes, const std::string& what) {
    if (bytes > rest_.size())
      refuse(fmt::format("{} needs {} bytes, {} are left", what, bytes, rest_.size()));
    const std::span<const std::byte> taken = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return taken;
  }
  template <typename T>
  T number(const std::string& what) {
    return load<T>(take(sizeof(T), what).data());
  }
  std::string name(const std::string& what) {
    const auto bytes = number<std::uint64_t>(what);
    if (bytes == 0 || bytes > kMaxTensorNameBytes)
      refuse(fmt::format("{} has {} bytes, expected 1..{}", what, bytes, kMaxTensorNameBytes));
    all_names_bytes_ += bytes;
    if (all_names_bytes_ > kMaxAllNamesBytes)
      refuse(fmt::format("has more than {} bytes of names", kMaxAllNamesBytes));
    const std::span<const std::byte> text = take(bytes, what);
    for (const std::byte byte : text) {
      if (byte < std::byte{0x20} || byte == std::byte{0x7f})
        refuse(fmt::format("{} has a control character", what));
    }
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  void read_entry(std::uint64_t index) {
    const std::string key = name(fmt::format("key of metadata entry {}", index));
    const std::string what = name_text(key);
    GgufFile::Value value;
    value.type = number<std::uint32_t>(what);
    if (value.type == kArray) {
      value.is_array = true;
      value.type = number<std::uint32_t>(what);
      value.count = number<std::uint64_t>(what);
    }
    const std::byte* begin = rest_.data();
    if (value.type == kString) {
      // Each string takes at least 8 bytes, so a false count soon runs out of file.
      for (std::uint64_t i = 0; i < value.count; ++i) {
        const auto bytes = number<std::uint64_t>(what);
        take(bytes, what);
      }
    } else {
      const std::size_t size = scalar_bytes(value.type);
      QALOF_CHECK(size > 0, ErrorKind::kCorruptFile, "{}: {} has type {}{}", file_.path(), what,
                  value.type, value.type == kArray ? " (an array in an array)" : "");
      if (value.count > rest_.size() / size)
        refuse(
            fmt::format("{} has {} numbers, {} bytes are left", what, value.count, rest_.size()));
      take(value.count * size, what);
    }
    value.bytes = {begin, static_cast<std::size_t>(rest_.data() - begin)};
    if (!file_.values_.emplace(key, value).second)
      refuse(fmt::format("metadata names {} twice", what));
  }

  std::uint64_t read_alignment() const {
    const auto stored = file_.values_.find("general.alignment");
    if (stored == file_.values_.end()) return kDefaultAlignment;
    const std::optional<std::uint64_t> value =
        stored->second.is_array ? std::nullopt
                                : as_unsigned(stored->second.type, stored->second.bytes.data());
    if (!value || *value < 8 || *value > kMaxGgufAlignment || (*value & (*value - 1)) != 0)
      refuse(fmt::format("general.alignment is {}, expected a power of two in 8..{}",
                         value ? std::to_string(*value) : "no number", kMaxGgufAlignment));
    return *value;
  }

  void read_tensor(std::uint64_t index, std::uint64_t alignment) {
    Pending pending;
    pending.name = name(fmt::format("name of tensor {}", index));
    const std::string what = "tensor " + name_text(pending.name);
    const auto rank = number<std::uint32_t>(what);
    if (rank == 0 || rank > kMaxGgufRank)
      refuse(fmt::format("{} has {} dimensions, expected 1..{}", what, rank, kMaxGgufRank));
    std::uint64_t elements = 1;
    for (std::uint32_t i = 0; i < rank; ++i) {
      const auto extent = number<std::uint64_t>(what);
      pending.tensor.shape.insert(pending.tensor.shape.begin(), extent);
      if (extent == 0 || __builtin_mul_overflow(elements, extent, &elements) ||
          elements > std::numeric_limits<std::int64_t>::max() / 64)
        refuse(fmt::format("{}: its dimensions are 0 or overflow", what));
    }
    const auto type = number<std::uint32_t>(what);
    const GgufBlock* block = gguf_block(type);
    QALOF_CHECK(block != nullptr, ErrorKind::kUnsupported, "{}: {} has type {}, implemented are {}",
                file_.path(), what, gguf_type_name(type), gguf_types_read());
    if (pending.tensor.shape.back() % block->elements != 0)
      refuse(fmt::format("{}: rows of {} numbers are no multiple of the {} of a block of {}", what,
                         pending.tensor.shape.back(), block->elements, gguf_type_name(type)));
    pending.tensor.type = block->type;
    pending.bytes = elements / block->elements * block->bytes;
    pending.offset = number<std::uint64_t>(what);
    if (pending.offset % alignment != 0)
      refuse(fmt::format("{} begins at {}, no multiple of the alignment {}", what, pending.offset,
                         alignment));
    tensors_.push_back(std::move(pending));
  }

  // Tensors must fill the data with no gaps but padding, so that none overlaps another.
  void place_tensors(std::span<const std::byte> data, std::uint64_t alignment) {
    std::sort(tensors_.begin(), tensors_.end(),
              [](const Pending& a, const Pending& b) { return a.offset < b.offset; });
    std::uint64_t expected = 0, end = 0;
    for (Pending& pending : tensors_) {
      if (pending.offset != expected)
        refuse(fmt::format("tensor {} begins at {} of the data, expected {}",
                           name_text(pending.name), pending.offset, expected));
      if (pending.offset > data.size() || pending.bytes > data.size() - pending.offset)
        refuse(fmt::format("tensor {} needs {} bytes at {}, the data has {}",
                           name_text(pending.name), pending.bytes, pending.offset, data.size()));
      pending.tensor.bytes = data.subspan(pending.offset, pending.bytes);
      end = pending.offset + pending.bytes;
      expected = (end + alignment - 1) / alignment * alignment;
      if (!file_.tensors_.emplace(pending.name, std::move(pending.tensor)).second)
        refuse(fmt::format("tensor {} appears twice", name_text(pending.name)));
    }
    if (data.size() > expected)
      refuse(fmt::format("{} bytes follow the last tensor", data.size() - expected));
  }

  GgufFile& file_;
  std::span<const std::byte> rest_;
  std::vector<Pending> tensors_;
  std::size_t all_names_bytes_ = 0;
};

namespace {

// How the name of a part ends; parts count from 0.
std::string part_ending(std::uint64_t part, std::uint64_t parts) {
  return fmt::format("-{:05}-of-{:05}.gguf", part + 1, parts);
}

}  // namespace

GgufFile GgufFile::open(const std::string& path) {
  GgufFile file = open_one(path);
  const std::uint64_t parts = file.integer(kPartCount, kMaxParts).value_or(1);
  if (parts <= 1) return file;
  const std::uint64_t own = file.integer(kPartIndex, kMaxParts).value_or(0);
  const std::string ending = part_ending(own, parts);
  QALOF_CHECK(path.ends_with(ending), ErrorKind::kUsage,
              "{}: is part {} of {}, whose others are found where its name ends in {}", path,
              own + 1, parts, ending);
  const std::string stem = path.substr(0, path.size() - ending.size());
  // The first part holds the metadata.
  if (own != 0) file = open_part(stem, 0, parts);
  file.add_parts(stem, parts);
  return file;
}

GgufFile GgufFile::open_one(const std::string& path) {
  GgufFile file(MappedFile::open(path));
  GgufParser(file).run();
  return file;
}

GgufFile GgufFile::open_part(const std::string& stem, std::uint64_t part, std::uint64_t parts) {
  const std::string name = stem + part_ending(part, parts);
  QALOF_CHECK(path_exists(name), ErrorKind::kNotFound, "{}: no such file, part {} of {}", name,
              part + 1, parts);
  GgufFile file = open_one(name);
  const auto index = file.integer(kPartIndex, kMaxParts),
             count = file.integer(kPartCount, kMaxParts);
  QALOF_CHECK(index && count, ErrorKind::kCorruptFile,
              "{}: {} and {} do not say that it is part {} of {}", name, kPartIndex, kPartCount,
              part + 1, parts);
  QALOF_CHECK(*index == part && *count == parts, ErrorKind::kCorruptFile,
              "{}: its contents are part {} of {}, its name says part {} of {}", name, *index + 1,
              *count, part + 1, parts);
  return file;
}

// Adds the tensors of the other parts of a split model, whose names differ in the part number only.
void GgufFile::add_parts(const std::string& stem, std::uint64_t parts) {
  for (std::uint64_t part = 1; part < parts; ++part) {
    GgufFile other = open_part(stem, part, parts);
    for (auto& [tensor_name, tensor] : other.tensors_) {
      QALOF_CHECK(tensors_.emplace(tensor_name, std::move(tensor)).second, ErrorKind::kCorruptFile,
                  "{}: tensor {} stands in another part too", other.path(), name_text(tensor_name));
    }
    other_parts_.push_back(std::move(other.file_));
  }
  const std::optional<std::uint64_t> total = integer(kPartTensors, kMaxTensors);
  QALOF_CHECK(!total || *total == tensors_.size(), ErrorKind::kCorruptFile,
              "{}: its parts hold {} tensors, {} is {}", path(), tensors_.size(), kPartTensors,
              *total);
}

const GgufFile::Value* GgufFile::find(const std::string& key, bool is_array,
                                      std::size_t max_count) const {
  const auto it = values_.find(key);
  if (it == values_.end()) return nullptr;
  QALOF_CHECK(it->second.is_array == is_array, ErrorKind::kBadInput, "{}: {} is {}, expected {}",
              path(), key, it->second.is_array ? "a list" : "a single value",
              is_array ? "a list" : "a single value");
  QALOF_CHECK(it->second.count <= max_count, ErrorKind::kBadInput,
              "{}: {} has {} elements, at most {} are read", path(), key, it->second.count,
              max_count);
  return &it->second;
}

std::optional<std::uint64_t> GgufFile::integer(const std::string& key, std::uint64_t max) const {
  const Value* value = find(key, false);
  if (value == nullptr) return std::nullopt;
  const std::optional<std::uint64_t> found = as_unsigned(value->type, value->bytes.data());
  QALOF_CHECK(found && *found <= max, ErrorKind::kBadInput,
              "{}: {} is {}, expected an integer in 0..{}", path(), key,
              found ? std::to_string(*found) : "something else", max);
  return found;
}

std::optional<double> GgufFile::number(const std::string& key) const {
  const Value* value = find(key, false);
  if (value == nullptr) return std::nullopt;
  double found = std::numeric_limits<double>::quiet_NaN();
  if (value->type == kFloat32) found = static_cast<double>(load<float>(value->bytes.data()));
  if (value->type == kFloat64) found = load<double>(value->bytes.data());
  if (const auto whole = as_unsigned(value->type, value->bytes.data()))
    found = static_cast<double>(*whole);
  QALOF_CHECK(std::isfinite(found), ErrorKind::kBadInput, "{}: {} is no finite number", path(),
              key);
  return found;
}

std::optional<bool> GgufFile::boolean(const std::string& key) const {
  const Value* value = find(key, false);
  if (value == nullptr) return std::nullopt;
  const auto byte = value->type == kBool ? load<std::uint8_t>(value->bytes.data()) : 2;
  QALOF_CHECK(byte <= 1, ErrorKind::kBadInput, "{}: {} is neither true nor false", path(), key);
  return byte == 1;
}

std::optional<std::string_view> GgufFile::string(const std::string& key) const {
  const Value* value = find(key, false);
  if (value == nullptr) return std::nullopt;
  QALOF_CHECK(value->type == kString, ErrorKind::kBadInput, "{}: {} is no text", path(), key);
  return std::string_view(reinterpret_cast<const char*>(value->bytes.data()) + 8,
                          value->bytes.size() - 8);
}

std::optional<std::vector<std::string_view>> GgufFile::strings(const std::string& key,
                                                               std::size_t max_count) const {
  const Value* value = find(key, true, max_count);
  if (value == nullptr) return std::nullopt;
  QALOF_CHECK(value->type == kString, ErrorKind::kBadInput, "{}: {} holds no texts", path(), key);
  std::vector<std::string_view> texts;
  texts.reserve(value->count);
  const std::byte* at = value->bytes.data();
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto bytes = load<std::uint64_t>(at);
    texts.emplace_back(reinterpret_cast<const char*>(at) + 8, bytes);
    at += 8 + bytes;
  }
  return texts;
}

template <typename T>
std::optional<std::vector<T>> GgufFile::read_numbers(const std::string& key, std::size_t max_count,
                                                     std::initializer_list<std::uint32_t> types,
                                                     const char* what) const {
  const Value* value = find(key, true, max_count);
  if (value == nullptr) return std::nullopt;
  QALOF_CHECK(std::find(types.begin(), types.end(), value->type) != types.end(),
              ErrorKind::kBadInput, "{}: {} holds no {}", path(), key, what);
  std::vector<T> numbers(value->count);
  if (!numbers.empty()) std::memcpy(numbers.data(), value->bytes.data(), value->bytes.size());
  return numbers;
}

std::optional<std::vector<std::int32_t>> GgufFile::integers(const std::string& key,
                                                            std::size_t max_count) const {
  return read_numbers<std::int32_t>(key, max_count, {kInt32, kUint32}, "integers of 32 bits");
}

std::optional<std::vector<float>> GgufFile::floats(const std::string& key,
                                                   std::size_t max_count) const {
  return read_numbers<float>(key, max_count, {kFloat32}, "numbers of 32 bits");
}

std::optional<std::vector<std::uint8_t>> GgufFile::booleans(const std::string& key,
                                                            std::size_t max_count) const {
  return read_numbers<std::uint8_t>(key, max_count, {kBool}, "truth values");
}

bool GgufFile::is_list(const std::string& key) const {
  const auto it = values_.find(key);
  return it != values_.end() && it->second.is_array;
}

void copy_as_f32(const GgufTensor& tensor, std::size_t first_row, std::span<float> dst) {
  const GgufBlock& block = block_of(tensor.type);
  const std::size_t row_bytes = tensor.shape.back() / block.elements * block.bytes;
  const std::size_t bytes = dst.size() / block.elements * block.bytes;
  QALOF_CHECK(
      dst.size() % tensor.shape.back() == 0 && first_row * row_bytes + bytes <= tensor.bytes.size(),
      ErrorKind::kInternal, "copy_as_f32: rows lie outside the tensor");
  blocks_as_f32(tensor.type, tensor.bytes.subspan(first_row * row_bytes, bytes), dst);
}

}  // namespace qalof::io
