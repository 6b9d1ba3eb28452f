// Parses safetensors headers as a stream and checks that tensors tile the data.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "io/limits.h"
#include "io/safetensors.h"

namespace qalof::io {

namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr std::size_t kMaxSafetensorsRank = 8;
constexpr std::size_t kMaxMetadataEntries = 1000;
// Longest string: a packed file stores its description, with a checksum per tensor, as one metadata
// string.
constexpr std::size_t kMaxTokenBytes = std::size_t{4} << 20;

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  int bits;
};
constexpr DTypeInfo kDTypes[] = {
    {DType::kBool, "BOOL", 8},      {DType::kU8, "U8", 8},          {DType::kI8, "I8", 8},
    {DType::kF8E4M3, "F8_E4M3", 8}, {DType::kF8E5M2, "F8_E5M2", 8}, {DType::kI16, "I16", 16},
    {DType::kU16, "U16", 16},       {DType::kF16, "F16", 16},       {DType::kBF16, "BF16", 16},
    {DType::kI32, "I32", 32},       {DType::kU32, "U32", 32},       {DType::kF32, "F32", 32},
    {DType::kI64, "I64", 64},       {DType::kU64, "U64", 64},       {DType::kF64, "F64", 64},
};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  fail(ErrorKind::kCorruptFile, "{}: {}", path, what);
}

std::string name_text(const std::string& name) {
  return fmt::format("\"{:.80}{}\"", name, name.size() > 80 ? "..." : "");
}

// Computes the bytes that a shape needs; false where the product overflows.
bool shape_bytes(const TensorView& entry, std::uint64_t* bytes) {
  std::uint64_t bits = static_cast<std::uint64_t>(dtype_bits(entry.dtype));
  for (const std::size_t extent : entry.shape) {
    if (__builtin_mul_overflow(bits, extent, &bits)) return false;
  }
  *bytes = bits / 8;
  return true;
}

// Parses the header without building a tree: memory holds the tensors and one entry.
class HeaderParser {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  /// data: the bytes after the header.
  HeaderParser(const std::string& path, std::span<const std::byte> data)
      : path_(path), data_(data) {}

  std::map<std::string, TensorView> entries;
  std::map<std::string, std::string> metadata;

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("true or false"); }
  bool number_integer(number_integer_t value) {
    return unexpected(fmt::format("the negative number {}", value));
  }
  bool number_unsigned(number_unsigned_t value) {
    if (state_ == State::kShape) {
      if (entry_.shape.size() == kMaxSafetensorsRank)
        refuse(path_, fmt::format("tensor {} has more than {} dimensions", name_text(name_),
                                  kMaxSafetensorsRank));
      entry_.shape.push_back(value);
    } else if (state_ == State::kOffsets) {
      if (num_offsets_ == 2)
        refuse(path_,
               fmt::format("tensor {}: data_offsets has more than two numbers", name_text(name_)));
      (num_offsets_++ == 0 ? begin_ : end_) = value;
    } else {
      return unexpected(fmt::format("the number {}", value));
    }
    return true;
  }
  bool number_float(number_float_t, const string_t& token) {
    return unexpected(fmt::format("the number {:.40} (expected an integer of 64 bits)", token));
  }
  bool string(string_t& value) {
    if (state_ == State::kMetadata) {
      metadata[field_] = value;
    } else if (state_ == State::kEntry && field_ == "dtype") {
      set_dtype(value);
    } else {
      return unexpected(fmt::format("the string {}", name_text(value)));
    }
    return true;
  }
  bool binary(binary_t&) { return false; }
  bool start_object(std::size_t) {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kTop:
        if (name_ == "__metadata__") {
          state_ = State::kMetadata;
        } else {
          state_ = State::kEntry;
          entry_.shape.clear();
          num_offsets_ = 0;
          seen_dtype_ = seen_shape_ = seen_offsets_ = false;
        }
        return true;
      default:
        return unexpected("an object");
    }
  }
  bool end_object() {
    if (state_ == State::kEntry) finish_entry();
    state_ = state_ == State::kTop ? State::kDone : State::kTop;
    return true;
  }
  bool start_array(std::size_t) {
    if (state_ != State::kEntry || (field_ != "shape" && field_ != "data_offsets"))
      return unexpected("a list");
    state_ = field_ == "shape" ? State::kShape : State::kOffsets;
    return true;
  }
  bool end_array() {
    state_ = State::kEntry;
    return true;
  }
  bool key(string_t& value) {
    if (value.size() > kMaxTensorNameBytes)
      refuse(path_, fmt::format("header has a name of {} bytes, at most {} are read", value.size(),
                                kMaxTensorNameBytes));
    if (value.find('\0') != string_t::npos) refuse(path_, "header has a name with a NUL byte");
    if (state_ == State::kTop) {
      const bool is_metadata = value == "__metadata__";
      if (is_metadata ? seen_metadata_ : entries.contains(value))
        refuse(path_, fmt::format("header names {} twice", name_text(value)));
      seen_metadata_ |= is_metadata;
      if (entries.size() == kMaxTensors)
        refuse(path_, fmt::format("header has more than {} tensors", kMaxTensors));
      all_names_bytes_ += value.size();
      if (all_names_bytes_ > kMaxAllNamesBytes)
        refuse(path_, fmt::format("header has more than {} bytes of names", kMaxAllNamesBytes));
      name_ = value;
      return true;
    }
    field_ = value;
    if (state_ == State::kMetadata) {
      if (metadata.contains(field_))
        refuse(path_, fmt::format("__metadata__ names {} twice", name_text(field_)));
      if (metadata.size() == kMaxMetadataEntries)
        refuse(path_, fmt::format("__metadata__ has more than {} entries", kMaxMetadataEntries));
      return true;
    }
    bool* seen = field_ == "dtype"          ? &seen_dtype_
                 : field_ == "shape"        ? &seen_shape_
                 : field_ == "data_offsets" ? &seen_offsets_
                                            : nullptr;
    if (seen == nullptr)
      refuse(path_,
             fmt::format("tensor {} has an unknown field {}", name_text(name_), name_text(field_)));
    if (*seen) refuse(path_, fmt::format("tensor {} has {} twice", name_text(name_), field_));
    *seen = true;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) {
    std::string reason = error.what();
    if (const std::size_t end = reason.find("] "); end != std::string::npos)
      reason.erase(0, end + 2);
    refuse(path_, fmt::format("header is not valid JSON (byte {}): {:.200}", position, reason));
  }

 private:
  enum class State { kStart, kTop, kMetadata, kEntry, kShape, kOffsets, kDone };

  bool unexpected(const std::string& found) {
    const std::string where = state_ == State::kStart ? "header"
                              : state_ == State::kTop ? "header: entry " + name_text(name_)
                              : state_ == State::kMetadata
                                  ? "__metadata__ " + name_text(field_)
                                  : fmt::format("tensor {}: {}", name_text(name_), field_);
    refuse(path_, fmt::format("{} holds {}", where, found));
  }
  void set_dtype(const std::string& value) {
    for (const DTypeInfo& info : kDTypes) {
      if (info.name == value) {
        entry_.dtype = info.dtype;
        return;
      }
    }
    fail(value.starts_with("F4") || value.starts_with("F6") || value.starts_with("F8")
             ? ErrorKind::kUnsupported
             : ErrorKind::kCorruptFile,
         "{}: tensor {} has dtype {}, expected one of F32, F16, BF16, integers or BOOL", path_,
         name_text(name_), name_text(value));
  }
  void finish_entry() {
    for (const auto& [seen, field] : {std::pair{seen_dtype_, "dtype"},
                                      {seen_shape_, "shape"},
                                      {seen_offsets_, "data_offsets"}}) {
      if (!seen) refuse(path_, fmt::format("tensor {} has no {}", name_text(name_), field));
    }
    if (num_offsets_ != 2)
      refuse(path_, fmt::format("tensor {}: data_offsets has {} numbers, expected 2",
                                name_text(name_), num_offsets_));
    std::uint64_t needed = 0;
    if (!shape_bytes(entry_, &needed))
      refuse(path_, fmt::format("tensor {}: shape [{}] overflows", name_text(name_),
                                fmt::join(entry_.shape, ", ")));
    if (begin_ > end_ || end_ > data_.size()) {
      refuse(path_, fmt::format("tensor {}: data_offsets [{}, {}] lie outside the {} bytes of data",
                                name_text(name_), begin_, end_, data_.size()));
    }
    if (end_ - begin_ != needed) {
      refuse(path_, fmt::format("tensor {}: data_offsets span {} bytes, its shape needs {}",
                                name_text(name_), end_ - begin_, needed));
    }
    entry_.bytes = data_.subspan(begin_, needed);
    entries.emplace(name_, entry_);
  }

  const std::string& path_;
  std::span<const std::byte> data_;
  State state_ = State::kStart;
  std::string name_, field_;
  TensorView entry_;
  std::uint64_t begin_ = 0, end_ = 0;  // data_offsets of the current entry
  std::size_t num_offsets_ = 0, all_names_bytes_ = 0;
  bool seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false, seen_metadata_ = false;
};

// Tensors must tile the data: no overlap, no gap, nothing after the last one.
void check_layout(const std::string& path, const std::map<std::string, TensorView>& tensors,
                  std::span<const std::byte> data) {
  std::vector<const std::pair<const std::string, TensorView>*> order;
  order.reserve(tensors.size());
  for (const auto& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.bytes.data(), a->second.bytes.size()) <
           std::pair(b->second.bytes.data(), b->second.bytes.size());
  });
  std::size_t expected = 0;
  for (const auto* entry : order) {
    const auto begin = static_cast<std::size_t>(entry->second.bytes.data() - data.data());
    if (begin != expected) {
      refuse(path,
             fmt::format("tensor {} begins at {}, expected {} ({})", name_text(entry->first), begin,
                         expected,
                         begin < expected ? "it overlaps another" : "there is a hole before it"));
    }
    expected += entry->second.bytes.size();
  }
  if (expected != data.size())
    refuse(path, fmt::format("{} bytes of data follow the last tensor", data.size() - expected));
}

}  // namespace

std::string_view to_string(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].name; }
int dtype_bits(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].bits; }

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile file(MappedFile::open(path));
  const std::span<const std::byte> bytes = file.file_.bytes();
  if (bytes.size() < 8)
    refuse(path, fmt::format("has {} bytes, a safetensors file has at least 8", bytes.size()));
  std::uint64_t header_bytes = 0;
  for (std::size_t i = 8; i-- > 0;)
    header_bytes = header_bytes << 8 | static_cast<std::uint64_t>(bytes[i]);
  if (header_bytes > kMaxHeaderBytes)
    refuse(path,
           fmt::format("header length {} is over the limit of {}", header_bytes, kMaxHeaderBytes));
  if (header_bytes > bytes.size() - 8)
    refuse(path, fmt::format("header length {} is over the {} bytes left in the file", header_bytes,
                             bytes.size() - 8));
  std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  if (!header.starts_with('{')) refuse(path, "header does not begin with {");
  // Padding may be long, and the parser would buffer it.
  header = header.substr(0, header.find_last_not_of(" \t\n\r") + 1);
  check_json_tokens(header, path, kMaxTokenBytes);
  const std::span<const std::byte> data = bytes.subspan(8 + header_bytes);
  HeaderParser parser(path, data);
  nlohmann::json::sax_parse(header.begin(), header.end(), &parser);
  check_layout(path, parser.entries, data);
  file.tensors_ = std::move(parser.entries);
  file.metadata_ = std::move(parser.metadata);
  return file;
}

}  // namespace qalof::io
