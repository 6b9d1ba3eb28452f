// Time of one step's exchange between the processes that a launcher started, without the step:
// exchange_bench NUMBERS REPEATS IDLE_MS LATENCY_MS sums so many floats REPEATS times, with a pause
// before each. LATENCY_MS is what each message takes longer, slept where a network would take it.
// Process 0 prints a JSON line: the seconds of every exchange after a first one.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "core/error.h"
#include "train/connect.h"

namespace {

using Clock = std::chrono::steady_clock;

// A group whose messages arrive later. Those of one exchange are on the way together: a sum waits
// for the parts and then for the sums, gathered bytes come at once.
class DelayedGroup {
 public:
  DelayedGroup(qalof::ProcessGroup& group, double latency_ms)
      : group_(group), latency_(latency_ms) {}
  void sum(std::span<float> values) {
    group_.sum(values, group_.size());
    sleep(2);
  }
  void gather(std::span<const std::byte> own, std::span<std::byte> all) {
    group_.gather(own, all);
    sleep(1);
  }

 private:
  void sleep(int messages) const { std::this_thread::sleep_for(latency_ * messages); }

  qalof::ProcessGroup& group_;
  std::chrono::duration<double, std::milli> latency_;
};

int run(char** argv) {
  const std::size_t count = std::strtoul(argv[1], nullptr, 10);
  const int repeats = std::atoi(argv[2]);
  const std::chrono::milliseconds idle(std::atoi(argv[3]));
  const qalof::Launch launch = qalof::launch_of_environment();
  const auto group = qalof::train::connect(launch, std::chrono::minutes(1));
  DelayedGroup delayed(*group, std::atof(argv[4]));
  std::vector<float> values(count, 1.0F);
  std::vector<double> numbers(64), all(64 * launch.size), seconds;
  for (int i = 0; i <= repeats; ++i) {
    std::this_thread::sleep_for(idle);
    group->wait_for_all();
    const Clock::time_point start = Clock::now();
    delayed.sum(values);
    delayed.gather(std::as_bytes(std::span(numbers)), std::as_writable_bytes(std::span(all)));
    if (i > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    for (float& value : values) value = 1.0F;
  }
  if (launch.rank != 0) return 0;
  std::printf("{\"seconds\": [");
  for (std::size_t i = 0; i < seconds.size(); ++i)
    std::printf("%s%.6f", i > 0 ? ", " : "", seconds[i]);
  std::printf("]}\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: exchange_bench NUMBERS REPEATS IDLE_MS LATENCY_MS\n");
    return 2;
  }
  try {
    return run(argv);
  } catch (const qalof::Error& error) {
    std::fprintf(stderr, "exchange_bench: %s\n", error.what());
    return 1;
  }
}
