// The processes that share one run: which of them this one is, and what they exchange. Started by
// torchrun, Slurm or Open MPI (docs/scaling.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace qalof {

/// The place of this process among those that a launcher started.
struct Launch {
  std::size_t rank = 0, size = 1;
  std::size_t local_rank = 0, local_size = 1;  // among those of this machine
  std::string address = "127.0.0.1";           // of the store, through which they find each other
  std::uint16_t port = 29500;
  bool hosts_store = false;  // this process runs the store; torchrun brings its own
  std::string prefix;        // of keys in the store, which outlives a restart

  bool is_one_machine() const { return size == local_size; }
};

/// Reads torchrun's variables (RANK, WORLD_SIZE, ...), else those of a Slurm step, else Open MPI's;
/// without any the process is alone. Error{kUsage} names a variable that is missing or contradicts
/// another.
Launch launch_of_environment();

/// Calls that every process makes in the same order. Each throws Error{kNetwork} where another
/// process is gone or does not answer in time. Not thread-safe.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  virtual std::size_t rank() const = 0;
  virtual std::size_t size() const = 0;
  /// Its number among the processes of this machine, and that of its GPU.
  virtual std::size_t local_rank() const = 0;

  /// values becomes the sum over the first `contributors` processes, in the fixed binary tree of
  /// docs/numerics.md ("Sums over processes"): the same bits on every process.
  virtual void sum(std::span<float> values, std::size_t contributors) = 0;
  /// Whether device_sum works: the processes were connected for training on GPUs that can reach
  /// each other.
  virtual bool sums_on_devices() const { return false; }
  /// sum, of values in the memory of this process's GPU.
  virtual void device_sum(std::span<float> values, std::size_t contributors) {
    sum(values, contributors);
  }
  /// Every process gives equally many bytes; all [size, own.size()] end up in `all`, by rank.
  virtual void gather(std::span<const std::byte> own, std::span<std::byte> all) = 0;
  /// Process 0's text, on every process.
  virtual std::string broadcast(const std::string& text) = 0;
  /// Waits, however long it takes, until every process is here. Notices at once one that is gone.
  virtual void wait_for_all() = 0;
  /// Says why this process gives up. True where it is the first to say so, whose reason is shown.
  virtual bool report_failure(const std::string& reason) = 0;
};

/// Numbers, or structs of them, as a text for other processes of this program's build.
template <typename T>
std::string bytes_of(std::span<const T> values) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}
/// The values of such a text.
template <typename T>
std::vector<T> values_in(std::string_view bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

/// A text of every process, by rank; they may have any length. The group is as ProcessGroup's.
std::vector<std::string> gather_texts(ProcessGroup& group, const std::string& own);

/// The values of every process in one row, by rank; each may give any number of them.
template <typename T>
std::vector<T> join_values(ProcessGroup& group, std::span<const T> own) {
  std::string all;
  for (const std::string& text : gather_texts(group, bytes_of(own))) all += text;
  return values_in<T>(all);
}

/// What compute returns for items 0 .. count-1, on every process: item i is computed by process
/// i % size. A null group: this process computes all.
std::vector<std::string> share_items(ProcessGroup* group, std::size_t count,
                                     const std::function<std::string(std::size_t)>& compute);

}  // namespace qalof
