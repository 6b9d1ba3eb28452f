// The entries of the fuzzers without a fuzzer: seeds, committed findings, and some thousand
// mutations that are the same every time.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/file.h"
#include "core/random.h"
#include "fuzz/fuzz_formats.h"
#include "support/mutated.h"

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
    const std::string input = qalof::testing::mutated(contents, stream, number);
    ASSERT_NO_THROW(refused += read(format(), input) ? 0 : 1) << "mutation " << number;
  }
  EXPECT_GT(refused, kMutations / 4);
}

}  // namespace fuzz_test
}  // namespace qalof::fuzz
