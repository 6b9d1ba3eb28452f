// Parts of every process's values go to the process that adds them, and come back added. See
// nccl_sums.h.
#ifdef QALOF_HAS_GLOO
#include "train/torch/nccl_sums.h"

#include "core/error.h"
#include "train/torch/sum_tree.h"

#ifdef QALOF_HAS_NCCL
#include <ATen/cuda/CUDAContext.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <cstdlib>
#endif

namespace qalof::train {

#ifndef QALOF_HAS_NCCL

namespace {

[[noreturn]] void fail_without_nccl() { fail(ErrorKind::kInternal, "this build has no NCCL"); }

}  // namespace

bool has_nccl() { return false; }
std::string device_name(std::size_t /*device*/) { fail_without_nccl(); }
std::unique_ptr<NcclSums> connect_devices(const c10::intrusive_ptr<c10d::Store>& /*store*/,
                                          std::size_t /*rank*/, std::size_t /*size*/,
                                          std::chrono::milliseconds /*timeout*/) {
  fail_without_nccl();
}

#else

namespace {

class C10dSums final : public NcclSums {
 public:
  C10dSums(const c10::intrusive_ptr<c10d::Store>& store, std::size_t rank, std::size_t size,
           std::chrono::milliseconds timeout)
      : parts_(size) {
    // Errors and late answers are thrown where they are waited for, instead of ending the process.
    ::setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/1);
    const auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    group_ = c10::make_intrusive<c10d::ProcessGroupNCCL>(
        c10::make_intrusive<c10d::PrefixStore>("qalof/nccl", store), static_cast<int>(rank),
        static_cast<int>(size), options);
  }
  // Nothing is under way, or a process is gone, for which closing in order would wait.
  ~C10dSums() override { group_->abort(); }

  void sum(at::Tensor& values, std::size_t contributors) override {
    parts_.sum(
        values, contributors,
        [&](at::Tensor& received, at::Tensor& sent) {
          std::vector<std::int64_t> equal;
          group_->alltoall_base(received, sent, equal, equal)->wait();
        },
        [&](at::Tensor& received, at::Tensor& sent) {
          group_->_allgather_base(received, sent)->wait();
        });
  }

 private:
  c10::intrusive_ptr<c10d::Backend> group_;
  SumOfParts parts_;
};

}  // namespace

bool has_nccl() { return true; }

std::string device_name(std::size_t device) {
  const cudaUUID_t uuid =
      at::cuda::getDeviceProperties(static_cast<c10::DeviceIndex>(device))->uuid;
  std::string name = "GPU-";
  for (const char byte : uuid.bytes)
    name += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return name;
}

std::unique_ptr<NcclSums> connect_devices(const c10::intrusive_ptr<c10d::Store>& store,
                                          std::size_t rank, std::size_t size,
                                          std::chrono::milliseconds timeout) {
  return std::make_unique<C10dSums>(store, rank, size, timeout);
}

#endif

}  // namespace qalof::train

#endif
