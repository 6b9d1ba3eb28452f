// Shared by the tests of kernels: every available instruction set in turn, threads, random rows,
// comparisons.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <exception>
#include <istream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/threads.h"
#include "kernels/isa.h"
#include "kernels/panel.h"

namespace qalof::kernels {

inline constexpr std::size_t kSizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33};

/// Runs even tasks on one thread and odd ones on another, each from the last to the first.
class TwoThreads final : public ParallelFor {
 public:
  int num_threads() const override { return 2; }
  void run(std::size_t num_tasks, const std::function<void(std::size_t)>& task) override {
    std::thread odd([&] { run_every_second(num_tasks, 1, task); });
    run_every_second(num_tasks, 0, task);
    odd.join();
  }

 private:
  static void run_every_second(std::size_t num_tasks, std::size_t rest,
                               const std::function<void(std::size_t)>& task) {
    for (std::size_t i = num_tasks; i-- > 0;) {
      if (i % 2 == rest) task(i);
    }
  }
};

/// A test run once per instruction set of this CPU.
class IsaTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    before_ = active_isa();
    force_isa(GetParam());
    RecordProperty("isa", std::string(to_string(GetParam())));
  }
  void TearDown() override { force_isa(before_); }

  SerialFor serial_;
  TwoThreads two_threads_;
  std::mt19937 random_{7};

 private:
  Isa before_ = Isa::kPortable;
};

inline std::string isa_name(const testing::TestParamInfo<Isa>& info) {
  return std::string(to_string(info.param));
}

inline std::vector<float> random_floats(std::size_t count, std::mt19937& random,
                                        float std_dev = 1.0F) {
  std::normal_distribution<float> normal(0.0F, std_dev);
  std::vector<float> result(count);
  for (float& value : result) value = normal(random);
  return result;
}

/// Floats of a file of vectors: the bits of each in hexadecimal.
inline std::vector<float> read_floats(std::istream& file, std::size_t count) {
  std::vector<float> result(count);
  for (float& value : result) {
    std::uint32_t bits = 0;
    file >> std::hex >> bits >> std::dec;
    value = std::bit_cast<float>(bits);
  }
  return result;
}

inline constexpr WeightFormat kIntegerFormats[] = {WeightFormat::kInt8, WeightFormat::kInt4,
                                                   WeightFormat::kInt3, WeightFormat::kInt2};
/// The ends of the codes of an integer format.
constexpr int lowest_code(WeightFormat format) {
  return format == WeightFormat::kInt8 ? -127 : -code_layout(format).offset;
}
constexpr int highest_code(WeightFormat format) {
  return format == WeightFormat::kInt8 ? 127 : code_layout(format).offset - 1;
}

inline std::vector<std::int8_t> random_codes(std::size_t count, int low, int high,
                                             std::mt19937& random) {
  std::uniform_int_distribution<int> uniform(low, high);
  std::vector<std::int8_t> result(count);
  for (std::int8_t& code : result) code = static_cast<std::int8_t>(uniform(random));
  return result;
}

inline std::vector<std::int8_t> random_codes(std::size_t count, WeightFormat format,
                                             std::mt19937& random) {
  return random_codes(count, lowest_code(format), highest_code(format), random);
}

/// NaN fails.
inline void expect_close(const std::vector<float>& found, const std::vector<double>& expected,
                         double absolute, double relative, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_LE(std::fabs(found[i] - expected[i]), absolute + relative * std::fabs(expected[i]))
        << what << " element " << i << ": " << found[i] << ", expected " << expected[i];
  }
}

}  // namespace qalof::kernels
