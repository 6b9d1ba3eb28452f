// Two processes add numbers over c10d's Gloo: shows at configure time that PyTorch's library and
// the headers of Gloo found here fit together. Exit status 0 where the sums are right.
#include <ATen/ATen.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace {

bool adds_rightly(const std::string& path, int rank) {
  const auto store = c10::make_intrusive<c10d::FileStore>(path, 2);
  const auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::seconds(20));
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  c10d::ProcessGroupGloo group(store, rank, 2, options);
  at::Tensor own = at::full({4}, rank + 1, at::kFloat), received = at::empty({4}, at::kFloat);
  std::vector<std::int64_t> equal;
  group.alltoall_base(received, own, equal, equal)->wait();
  at::Tensor sum = received.narrow(0, 0, 2) + received.narrow(0, 2, 2);
  group._allgather_base(own, sum)->wait();
  return own.eq(3).all().item<bool>();
}

}  // namespace

int main() {
  char path[] = "/tmp/qalof-gloo-probe-XXXXXX";
  const int fd = ::mkstemp(path);
  if (fd < 0) return 1;
  ::close(fd);
  const pid_t child = ::fork();
  if (child < 0) return 1;
  const bool right = adds_rightly(path, child == 0 ? 1 : 0);
  if (child == 0) std::_Exit(right ? 0 : 1);
  int status = 1;
  ::waitpid(child, &status, 0);
  ::unlink(path);
  return right && status == 0 ? 0 : 1;
}
