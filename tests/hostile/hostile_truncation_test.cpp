// Files of every kind cut at every byte, and with one bit turned over.
#include <filesystem>

#include "hostile/hostile_kinds.h"

namespace qalof::testing {
namespace hostile_truncation_test {

class EveryKind : public ::testing::TestWithParam<HostileKind> {};

TEST_P(EveryKind, CutAtEveryByteIsRefused) {
  const HostileSample sample(GetParam());
  const std::string& sound = sample.sound();
  const bool is_text = GetParam().format == Format::kText;
  // Bytes whose loss changes nothing: the line end behind the last line.
  const std::size_t last = sound.find_last_not_of('\n') + 1;
  for (std::size_t size = 0;
       size < (GetParam().format == Format::kSafetensors ? sound.size() : last); ++size) {
    sample.put(sound.substr(0, size));
    const Outcome outcome = sample.load();
    ASSERT_TRUE(outcome.refused) << size;
    ASSERT_NE(outcome.message.find(sample.path()), std::string::npos) << outcome.message;
    if (!is_text && std::string(GetParam().name) != "PackedFile") {
      ASSERT_EQ(outcome.kind, ErrorKind::kCorruptFile) << size << ": " << outcome.message;
    }
    if (HasFailure()) FAIL() << "cut at " << size;
  }
}

TEST_P(EveryKind, TurnedBitsKeepThePromise) {
  const HostileSample sample(GetParam());
  const std::string& sound = sample.sound();
  std::size_t refused = 0, tried = 0;
  for (std::size_t bit = 0; bit < 8 * sound.size(); bit += 3) {
    std::string damaged = sound;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    sample.put(damaged);
    refused += sample.load().refused ? 1 : 0;
    ++tried;
    if (HasFailure()) FAIL() << "bit " << bit;
  }
  EXPECT_GT(refused, 0U);
  EXPECT_LE(refused, tried);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryKind, ::testing::ValuesIn(hostile_kinds()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace hostile_truncation_test
}  // namespace qalof::testing
