// Memory that the processes of one machine share, for what all of them would otherwise compute and
// hold: the packed weights of a frozen model.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/process_group.h"

namespace qalof {

/// Parts with names, each made once by the first process that asks for it. Nothing is left of it
/// when the processes have ended, however they ended. Thread-safe.
class SharedMemory {
 public:
  /// Every process of the group calls this. Null where this machine has one of them alone, or does
  /// not let one process open another's memory.
  static std::shared_ptr<SharedMemory> connect(ProcessGroup& group);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  /// The part of that name, in whole pages; stays until this object ends. make returns its bytes,
  /// at least one. Error{kResource} where memory does not suffice.
  std::span<const std::byte> get(const std::string& name,
                                 const std::function<std::vector<std::byte>()>& make);

 private:
  explicit SharedMemory(int fd) : fd_(fd) {}
  struct Mapping {
    void* address;
    std::size_t size;
  };
  const std::byte* map(std::size_t offset, std::size_t size);

  int fd_;
  std::mutex mutex_;
  std::vector<Mapping> mappings_;
};

}  // namespace qalof
