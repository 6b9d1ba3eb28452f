// The entries of the fuzzers without a fuzzer: seeds, committed findings, and some thousand
// mutations that are the same every time.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "core/file.h"
#include "core/random.h"
#include "fuzz/fuzz_formats.h"

namespace qalof::fuzz {
namespace fuzz_test {

namespace fs = std::filesystem;

// Of all formats together, in a few seconds.
constexpr std::uint64_t kMutations = 1200;

std::string source(const std::string& path) {
  return read_file(std::string(QALOF_SOURCE_DIR) + "/" + path, std::size_t{8} << 20);
}

bool read(const Format& format, const std::string& input) {
  return format.read(std::as_bytes(std::span(input.data(), input.size())));
}

// A few changes of a sound file, as fuzzers make them. A large input keeps to its head, where the
// structure is, three times of four.
std::string mutated(const std::string& seed, const RandomStream& stream, std::uint64_t number) {
  std::string input = seed;
  std::uint64_t draw = 0;
  auto below = [&](std::size_t bound) {
    return static_cast<std::size_t>(stream.below(std::max<std::size_t>(bound, 1), number, draw++));
  };
  for (std::size_t changes = 1 + below(4); changes > 0 && !input.empty(); --changes) {
    const std::size_t range =
        below(4) > 0 ? std::min<std::size_t>(input.size(), 4096) : input.size();
    const std::size_t at = below(range);
    switch (below(6)) {
      case 0:
        input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
        break;
      case 1:
        input[at] = static_cast<char>(below(256));
        break;
      case 2: {  // a number of 8 bytes at the ends of its range
        const std::uint64_t values[] = {0, ~std::uint64_t{0}, std::uint64_t{1} << 63, 0x7fffffff};
        const std::uint64_t value = values[below(4)];
        const std::size_t count = std::min<std::size_t>(8, input.size() - at);
        std::copy_n(reinterpret_cast<const char*>(&value), count, input.data() + at);
        break;
      }
      case 3:
        input.erase(at, 1 + below(16));
        break;
      case 4: {
        const std::string copy = input.substr(below(range), 1 + below(32));
        input.insert(at, copy);
        break;
      }
      default:
        input.resize(at);
    }
  }
  return input;
}

class FuzzFormats : public ::testing::TestWithParam<std::size_t> {
 protected:
  const Format& format() const { return formats()[GetParam()]; }
};
INSTANTIATE_TEST_SUITE_P(, FuzzFormats, ::testing::Range(std::size_t{0}, formats().size()),
                         [](const auto& test) { return formats()[test.param].name; });

TEST_P(FuzzFormats, SeedsAreAccepted) {
  ASSERT_FALSE(format().seeds.empty());
  for (const std::string& seed : format().seeds) EXPECT_TRUE(read(format(), source(seed))) << seed;
}

TEST_P(FuzzFormats, FindingsOfTheFuzzersStayFixed) {
  const fs::path corpus = fs::path(QALOF_SOURCE_DIR) / "tests/fuzz/corpus" / format().name;
  if (!fs::exists(corpus)) return;
  for (const auto& entry : fs::directory_iterator(corpus)) {
    SCOPED_TRACE(entry.path().string());
    EXPECT_NO_THROW(read(format(), read_file(entry.path().string(), std::size_t{8} << 20)));
  }
}

TEST_P(FuzzFormats, MutationsAreReadOrRefused) {
  const RandomStream stream(1, "fuzz." + format().name);
  std::uint64_t refused = 0;
  for (std::uint64_t number = 0; number < kMutations; ++number) {
    const std::string& seed = format().seeds[number % format().seeds.size()];
    static std::string loaded, contents;
    if (loaded != seed) contents = source(loaded = seed);
    const std::string input = mutated(contents, stream, number);
    ASSERT_NO_THROW(refused += read(format(), input) ? 0 : 1) << "mutation " << number;
  }
  EXPECT_GT(refused, kMutations / 4);
}

}  // namespace fuzz_test
}  // namespace qalof::fuzz
