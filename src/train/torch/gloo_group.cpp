// A process group over PyTorch's c10d: Gloo for collectives, TCPStore to find each other.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/util/Logging.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <thread>

#include "core/error.h"
#include "train/connect.h"
#include "train/devices.h"
#include "train/torch/sum_tree.h"

#ifdef QALOF_HAS_GLOO
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "train/torch/nccl_sums.h"
#endif

namespace qalof::train {

#ifndef QALOF_HAS_GLOO

std::unique_ptr<ProcessGroup> connect(const Launch& launch, std::chrono::milliseconds /*timeout*/,
                                      Device /*device*/) {
  fail(ErrorKind::kUnsupported,
       "{} processes were started together, but this build has no Gloo; install libgloo-dev and "
       "build again, or start one process",
       launch.size);
}

#else

namespace {

constexpr const char* kFailureKey = "qalof/failure";
constexpr std::chrono::hours kVeryLong{24 * 30};

// A file descriptor that is closed where it was not handed over.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// c10d's store listens on every interface; with all processes on one machine, ours hears that
// machine alone.
int listen_on_loopback(std::uint16_t port) {
  Socket listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  QALOF_CHECK(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
                  ::listen(listener.get(), SOMAXCONN) == 0,
              ErrorKind::kUsage, "port {}: {}; MASTER_PORT chooses another", port,
              std::strerror(errno));
  return listener.release();
}

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

AddressList addresses_of(const std::string& host, std::uint16_t port, int kind) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = kind;
  QALOF_CHECK(::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) == 0,
              ErrorKind::kUsage, "MASTER_ADDR: {} is not the name of a machine", host);
  return {found, ::freeaddrinfo};
}

// The address of this machine from which `host` is reached, as text.
std::string own_address(const std::string& host, std::uint16_t port) {
  const AddressList found = addresses_of(host, port, SOCK_DGRAM);
  const Socket probe(::socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage own{};
  socklen_t size = sizeof(own);
  char text[NI_MAXHOST] = {};
  const bool known = ::connect(probe.get(), found->ai_addr, found->ai_addrlen) == 0 &&
                     ::getsockname(probe.get(), reinterpret_cast<sockaddr*>(&own), &size) == 0 &&
                     ::getnameinfo(reinterpret_cast<sockaddr*>(&own), size, text, sizeof(text),
                                   nullptr, 0, NI_NUMERICHOST) == 0;
  QALOF_CHECK(known, ErrorKind::kNetwork, "MASTER_ADDR: {} is not reached: {}", host,
              std::strerror(errno));
  return text;
}

// True once something listens there. c10d's own client tries for more than twice the time it is
// given.
bool answers(const Launch& launch, std::chrono::milliseconds timeout) {
  const AddressList addresses = addresses_of(launch.address, launch.port, SOCK_STREAM);
  const auto end = std::chrono::steady_clock::now() + timeout;
  do {
    for (const addrinfo* one = addresses.get(); one != nullptr; one = one->ai_next) {
      const Socket probe(::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const timeval one_second{1, 0};  // where nothing says no either
      ::setsockopt(probe.get(), SOL_SOCKET, SO_SNDTIMEO, &one_second, sizeof(one_second));
      if (::connect(probe.get(), one->ai_addr, one->ai_addrlen) == 0) return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

c10::intrusive_ptr<c10d::Store> open_store(const Launch& launch,
                                           std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = launch.port;
  options.isServer = launch.hosts_store;
  options.numWorkers = launch.size;
  options.waitWorkers = false;
  options.timeout = timeout;
  if (launch.hosts_store && launch.is_one_machine())
    options.masterListenFd = listen_on_loopback(launch.port);
  const auto no_answer = [&] {
    fail(ErrorKind::kNetwork, "rank {} of {}: no store answers at {}:{} within {} s", launch.rank,
         launch.size, launch.address, launch.port, timeout.count() / 1000);
  };
  if (!launch.hosts_store && !answers(launch, timeout)) no_answer();
  c10::intrusive_ptr<c10d::Store> store;
  try {
    store = c10::make_intrusive<c10d::TCPStore>(launch.address, options);
  } catch (const std::exception& error) {
    const bool taken = std::string_view(error.what()).find("EADDRINUSE") != std::string_view::npos;
    QALOF_CHECK(!taken, ErrorKind::kUsage, "port {}: is in use; MASTER_PORT chooses another",
                launch.port);
    no_answer();
  }
  if (launch.prefix.empty()) return store;
  return c10::make_intrusive<c10d::PrefixStore>(launch.prefix, store);
}

class GlooGroup final : public ProcessGroup {
 public:
  GlooGroup(const Launch& launch, std::chrono::milliseconds timeout)
      : launch_(launch), timeout_(timeout), connected_by_(Clock::now() + timeout) {
    store_ = open_store(launch, timeout);
    wait_for_arrival();
    const auto options = c10d::ProcessGroupGloo::Options::create(left_to_connect());
    options->devices.push_back(device());
    // Work is never side by side.
    options->threads = 1;
    exchange("connecting", [&] {
      group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store_, static_cast<int>(launch.rank),
                                                           static_cast<int>(launch.size), options);
      group_->setTimeout(timeout);
    });
  }

  std::size_t rank() const override { return launch_.rank; }
  std::size_t size() const override { return launch_.size; }
  std::size_t local_rank() const override { return launch_.local_rank; }

  // Of `count` GPUs of this machine.
  void use_devices(std::size_t count) {
    const std::size_t device = device_of(launch_, count);
    if (!has_nccl()) return;
    check_own_devices(gather_texts(*this, device_name(device)));
    exchange("connecting GPUs", [&] {
      nccl_ = connect_devices(store_, launch_.rank, launch_.size, timeout_);
      device_ = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device));
    });
  }
  bool sums_on_devices() const override { return nccl_ != nullptr; }

  void device_sum(std::span<float> values, std::size_t contributors) override {
    // Over sockets, which notice at once that a process is gone; NCCL may wait for it.
    const std::byte here{1};
    std::vector<std::byte> all(launch_.size);
    gather(std::span(&here, 1), all);
    at::Tensor tensor = at::from_blob(values.data(), {static_cast<std::int64_t>(values.size())},
                                      at::device(device_).dtype(at::kFloat));
    exchange("a sum on GPUs", [&] { nccl_->sum(tensor, contributors); });
  }

  // Each process sums a part of the values over all, then all get every part: twice the bytes of
  // the values, whatever the number of processes, and an order that is ours.
  void sum(std::span<float> values, std::size_t contributors) override {
    const auto ranks = static_cast<std::int64_t>(launch_.size);
    const auto own = static_cast<std::int64_t>(launch_.rank);
    const auto count = static_cast<std::int64_t>(values.size());
    const std::int64_t part = (count + ranks - 1) / ranks;
    if (!mine_.defined() || mine_.size(1) != part) {
      mine_ = at::zeros({ranks, part}, at::kFloat);
      parts_ = at::empty({ranks, part}, at::kFloat);
    }
    std::memcpy(mine_.mutable_data_ptr<float>(), values.data(), values.size_bytes());
    exchange("a sum", [&] {
      // The sums come back into what they were made of: whoever sends one has read all of it.
      Messages parts(*this), sums(*this);
      for (const std::int64_t other : others()) parts.receive(parts_[other], other);
      for (const std::int64_t other : others()) sums.receive(mine_[other], other);
      for (const std::int64_t other : others()) parts.send(mine_[other], other);
      parts_[own].copy_(mine_[own]);
      parts.wait();
      std::vector<at::Tensor> terms;
      for (std::size_t i = 0; i < contributors; ++i)
        terms.push_back(parts_[static_cast<std::int64_t>(i)]);
      sum_of(terms);
      mine_[own].copy_(terms.front());
      for (const std::int64_t other : others()) sums.send(mine_[own], other);
      sums.wait();
    });
    std::memcpy(values.data(), mine_.const_data_ptr<float>(), values.size_bytes());
  }

  void gather(std::span<const std::byte> own, std::span<std::byte> all) override {
    const auto ranks = static_cast<std::int64_t>(launch_.size);
    const auto rank = static_cast<std::int64_t>(launch_.rank);
    if (own.empty()) return;
    at::Tensor gathered = at::empty({ranks, static_cast<std::int64_t>(own.size())}, at::kByte);
    std::memcpy(gathered[rank].mutable_data_ptr(), own.data(), own.size());
    exchange("results", [&] {
      Messages messages(*this);
      for (const std::int64_t other : others()) messages.receive(gathered[other], other);
      for (const std::int64_t other : others()) messages.send(gathered[rank], other);
      messages.wait();
    });
    std::memcpy(all.data(), gathered.const_data_ptr(), all.size());
  }

  std::string broadcast(const std::string& text) override {
    std::vector<at::Tensor> size = {
        at::full({1}, static_cast<std::int64_t>(text.size()), at::kLong)};
    exchange("the text of rank 0", [&] { group_->broadcast(size)->wait(); });
    std::vector<at::Tensor> bytes = {at::empty({size[0].item<std::int64_t>()}, at::kByte)};
    if (bytes[0].numel() == 0) return "";
    if (rank() == 0) std::memcpy(bytes[0].mutable_data_ptr(), text.data(), text.size());
    exchange("the text of rank 0", [&] { group_->broadcast(bytes)->wait(); });
    return {static_cast<const char*>(bytes[0].const_data_ptr()),
            static_cast<std::size_t>(bytes[0].numel())};
  }

  void wait_for_all() override {
    c10d::BarrierOptions options;
    options.timeout = kVeryLong;
    exchange("the others", [&] { group_->barrier(options)->wait(kVeryLong); });
  }

  bool report_failure(const std::string& reason) override {
    const std::string own = std::to_string(launch_.rank) + " " + reason;
    try {
      store_->setTimeout(std::chrono::seconds(1));
      return store_->compareSet(kFailureKey, "", own) == own;
    } catch (const std::exception&) {
      // The store is gone, and with it rank 0, which ran it, or torchrun, which tells by itself.
      return launch_.rank <= 1 && launch_.prefix.empty();
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  // Messages between this process and each other, one either way. All that is received is announced
  // before anything is sent: Gloo's announcement travels on the connection that carries the data,
  // and after data it would keep the other direction waiting.
  class Messages {
   public:
    explicit Messages(GlooGroup& group) : group_(group), tag_(group.next_tag_++) {}
    void receive(at::Tensor into, std::int64_t from) {
      std::vector<at::Tensor> tensors = {std::move(into)};
      works_.push_back(group_.group_->recv(tensors, static_cast<int>(from), tag_));
    }
    void send(at::Tensor values, std::int64_t to) {
      std::vector<at::Tensor> tensors = {std::move(values)};
      works_.push_back(group_.group_->send(tensors, static_cast<int>(to), tag_));
    }
    void wait() {
      for (const auto& work : works_) {
        if (!work->wait(group_.timeout_)) throw std::runtime_error("aborted");
      }
    }

   private:
    GlooGroup& group_;
    int tag_;
    std::vector<c10::intrusive_ptr<c10d::Work> > works_;
  };

  // Beginning with the next, so that not all send to the same.
  std::vector<std::int64_t> others() const {
    std::vector<std::int64_t> ranks;
    for (std::size_t i = 1; i < launch_.size; ++i)
      ranks.push_back(static_cast<std::int64_t>((launch_.rank + i) % launch_.size));
    return ranks;
  }

  // Connecting has several parts, which together may take as long as one exchange.
  std::chrono::milliseconds left_to_connect() const {
    constexpr std::chrono::milliseconds kLeast{1000};
    return std::max(kLeast, std::chrono::duration_cast<std::chrono::milliseconds>(connected_by_ -
                                                                                  Clock::now()));
  }

  // Says who is missing instead of what of the store timed out.
  void wait_for_arrival() {
    const auto key = [](std::size_t rank) { return "qalof/arrived/" + std::to_string(rank); };
    try {
      store_->set(key(launch_.rank), std::vector<std::uint8_t>{1});
      std::vector<std::string> keys;
      for (std::size_t i = 0; i < launch_.size; ++i) keys.push_back(key(i));
      store_->wait(keys, left_to_connect());
    } catch (const std::exception&) {
      fail(ErrorKind::kNetwork, "rank {} of {}: not all processes arrived within {} s",
           launch_.rank, launch_.size, timeout_.count() / 1000);
    }
  }

  std::shared_ptr<gloo::transport::Device> device() const {
    if (const char* name = std::getenv("GLOO_SOCKET_IFNAME"); name != nullptr && *name != '\0')
      return c10d::ProcessGroupGloo::createDeviceForInterface(name);
    if (launch_.is_one_machine())
      return c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
    return c10d::ProcessGroupGloo::createDeviceForHostname(
        own_address(launch_.address, launch_.port));
  }

  template <typename Work>
  void exchange(const char* what, const Work& work) {
    try {
      work();
    } catch (const std::exception& error) {
      const std::string_view text = error.what();
      const bool late = text.find("imed out") != std::string_view::npos ||
                        text.find("imeout") != std::string_view::npos;
      if (late) {
        fail(ErrorKind::kNetwork, "waiting for {}: another process did not answer within {} s",
             what, timeout_.count() / 1000);
      }
      fail(ErrorKind::kNetwork, "waiting for {}: another process has ended", what);
    }
  }

  Launch launch_;
  std::chrono::milliseconds timeout_;
  Clock::time_point connected_by_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  std::unique_ptr<NcclSums> nccl_;  // null: sums are in the host's memory
  at::Device device_ = at::kCPU;    // of NCCL's sums
  at::Tensor mine_, parts_;         // of sum, [ranks, part]
  int next_tag_ = 0;
};

}  // namespace

std::unique_ptr<ProcessGroup> connect(const Launch& launch, std::chrono::milliseconds timeout,
                                      Device device) {
  // A process that ends must not take others with it in the middle of a word: writing to it fails,
  // and that is told.
  ::signal(SIGPIPE, SIG_IGN);
  // PyTorch prints stacks of its own where a connection ends; what ended it is told in words.
  ::setenv("TORCH_CPP_LOG_LEVEL", "FATAL", /*overwrite=*/0);
  c10::initLogging();
  auto group = std::make_unique<GlooGroup>(launch, timeout);
  // Without a GPU training says so itself.
  if (device == Device::kCuda && at::hasCUDA()) {
    if (const int count = at::detail::getCUDAHooks().deviceCount(); count > 0)
      group->use_devices(static_cast<std::size_t>(count));
  }
  return group;
}

#endif

}  // namespace qalof::train
