// Uses c10d's NCCL as training does: shows at configure time that PyTorch's library holds it and
// that the headers of NCCL and CUDA found here fit. It is compiled and linked, not run: that needs
// GPUs.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>

#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

int main() {
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  const c10::intrusive_ptr<c10d::Backend> group = c10::make_intrusive<c10d::ProcessGroupNCCL>(
      c10::make_intrusive<c10d::HashStore>(), 0, 1, options);
  at::Tensor own = at::ones({4}, at::kCUDA), received = at::empty({4}, at::kCUDA);
  std::vector<std::int64_t> equal;
  group->alltoall_base(received, own, equal, equal)->wait();
  group->_allgather_base(own, received)->wait();
  group->abort();
  return at::cuda::getDeviceProperties(0)->uuid.bytes[0];
}
