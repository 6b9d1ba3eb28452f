// Sums of gradients over processes that have a GPU each, by PyTorch's c10d over NCCL. Bytes travel
// between the GPUs; the order of adding is ours.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <memory>
#include <string>

namespace qalof::train {

/// A connection between GPUs. Calls are made by every process in the same order.
class NcclSums {
 public:
  virtual ~NcclSums() = default;
  /// values, on this process's GPU, become the sum over the first `contributors` processes, in the
  /// tree of docs/numerics.md ("Sums over processes"). What NCCL throws is passed on.
  virtual void sum(at::Tensor& values, std::size_t contributors) = 0;
};

/// Whether this build has NCCL.
bool has_nccl();
/// A name that no other GPU has. Needs NCCL.
std::string device_name(std::size_t device);
/// Connects the GPUs through a store that all processes share. Needs NCCL.
std::unique_ptr<NcclSums> connect_devices(const c10::intrusive_ptr<c10d::Store>& store,
                                          std::size_t rank, std::size_t size,
                                          std::chrono::milliseconds timeout);

}  // namespace qalof::train
