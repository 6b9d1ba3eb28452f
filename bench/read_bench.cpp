// How fast this machine reads memory: read_bench [THREADS] sums a gibibyte, best and median of
// nine.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kWords = std::size_t{1} << 27;
constexpr std::size_t kAheadWords = 512, kLineWords = 8;

std::uint64_t sum(const std::uint64_t* words, std::size_t count) {
  std::uint64_t sums[kLineWords] = {};
  for (std::size_t i = 0; i < count; i += kLineWords) {
    __builtin_prefetch(words + i + kAheadWords);
    for (std::size_t j = 0; j < kLineWords; ++j) sums[j] += words[i + j];
  }
  std::uint64_t all = 0;
  for (const std::uint64_t part : sums) all += part;
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t threads = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1;
  if (threads < 1 || threads > 1024) {
    std::fprintf(stderr, "read_bench: expected 1..1024 threads\n");
    return 2;
  }
  const std::size_t part = kWords / threads / kLineWords * kLineWords;
  const std::vector<std::uint64_t> words(kWords + kAheadWords, 1);
  std::vector<std::uint64_t> sums(threads);
  std::vector<double> seconds;
  for (int round = 0; round < 9; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<std::thread> running;
    for (std::size_t i = 0; i < threads; ++i)
      running.emplace_back([&, i] { sums[i] = sum(words.data() + part * i, part); });
    for (std::thread& thread : running) thread.join();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    seconds.push_back(taken.count());
  }
  std::sort(seconds.begin(), seconds.end());
  for (const std::uint64_t found : sums) {
    if (found != part) return 1;
  }
  const double bytes = static_cast<double>(part * threads * 8);
  std::printf("%zu threads read at best %.1f, in the median %.1f GB/s\n", threads,
              bytes / seconds.front() * 1e-9, bytes / seconds[4] * 1e-9);
}
