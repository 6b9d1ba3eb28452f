// The tensors of a packed file; each is checked against its checksum when it is first read.
//
// Thread-safe after opening. Internal to packed files (packed_file.h).
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/threads.h"
#include "io/safetensors.h"
#include "weights/base_model.h"

namespace qalof::weights {

/// The open file.
class CheckedFile {
 public:
  /// Reads the header and no tensors. Errors as open_packed_file.
  explicit CheckedFile(const std::string& path);

  const Json& header() const { return header_; }
  int version() const { return version_; }
  const std::string& path() const { return path_; }
  bool contains(const std::string& name) const { return file_.tensors().contains(name); }
  const std::map<std::string, io::TensorView>& tensors() const { return file_.tensors(); }

  /// The tensor with its dtype and shape checked (empty: any shape) and its bytes verified.
  const io::TensorView& read(const std::string& name, io::DType dtype,
                             const std::vector<std::size_t>& shape, ParallelFor& parallel) const;
  /// Floats of an F32 or BF16 tensor; Error{kBadInput} where one is not finite.
  std::vector<float> read_floats(const std::string& name, io::DType dtype,
                                 const std::vector<std::size_t>& shape,
                                 ParallelFor& parallel) const;
  /// Integers of an I32 or I16 tensor.
  std::vector<std::int32_t> read_integers(const std::string& name, io::DType dtype,
                                          const std::vector<std::size_t>& shape,
                                          ParallelFor& parallel) const;
  /// The head of a name, or nothing where the file holds none. outputs: the expected number; 0
  /// accepts any.
  std::optional<Head> read_head(const std::string& name, std::size_t outputs,
                                std::size_t hidden) const;

 private:
  std::string path_;
  io::SafetensorsFile file_;
  Json header_;
  int version_ = 0;
  mutable std::mutex mutex_;
  mutable std::set<std::string> verified_;
};

}  // namespace qalof::weights
