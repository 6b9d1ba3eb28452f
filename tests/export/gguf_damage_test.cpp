// Damaged GGUF files of every architecture, whole and in parts: each is refused in one sentence or
// imported, in little time and memory.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "app/gguf/tokenizer_in.h"
#include "app/import/import.h"
#include "core/error.h"
#include "core/file.h"
#include "io/gguf.h"
#include "support/error_of.h"
#include "support/gguf_bytes.h"
#include "support/mutated.h"
#include "support/temp_dir.h"
#include "support/thread_seconds.h"

namespace qalof::app {
namespace gguf_damage_test {

namespace fs = std::filesystem;
using qalof::testing::GgufBytes;
using qalof::testing::TempDir;

const std::string kSeeds = QALOF_SOURCE_DIR "/tests/fuzz/corpus/gguf/";

std::string file_text(const std::string& path) { return read_file(path, std::size_t{1} << 20); }

class GgufDamageTest : public ::testing::Test {
 protected:
  static void put(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }
  // Imports; true where the file is refused.
  bool refused(const std::string& path) {
    ImportOptions options;
    options.source = path;
    options.output_dir = dir_.file("model");
    options.overwrite = true;
    Observer observer;
    const double start = qalof::testing::thread_seconds();
    bool is_refused = false;
    try {
      run_import(options, observer);
    } catch (const Error& error) {
      is_refused = true;
      EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
    EXPECT_LE(qalof::testing::thread_seconds_since(start), 5.0);
    return is_refused;
  }
  std::string part(int number) const {
    return dir_.file("m-0000" + std::to_string(number) + "-of-00003.gguf");
  }

  TempDir dir_;
};

// The parts of a file: metadata alone, then half of the tensors each, as llama.cpp splits.
std::array<std::string, 3> split(const std::string& path) {
  const std::string whole = file_text(path);
  const io::GgufFile file = io::GgufFile::open(path);
  std::uint64_t entries = 0;
  constexpr std::size_t kHeader = 24;  // magic, version and two counts
  std::memcpy(&entries, whole.data() + kHeader - 8, 8);
  std::size_t first_tensor = whole.size();
  for (const auto& [name, tensor] : file.tensors())
    first_tensor = std::min(
        first_tensor,
        whole.find(GgufBytes::text(name) +
                   GgufBytes::raw<std::uint32_t>(static_cast<std::uint32_t>(tensor.shape.size()))));
  std::array<std::string, 3> parts;
  std::size_t done = 0;
  for (std::uint16_t index = 0; index < 3; ++index) {
    GgufBytes bytes;
    bytes.entry("split.no", 2, GgufBytes::raw(index));
    bytes.entry("split.count", 2, GgufBytes::raw<std::uint16_t>(3));
    bytes.entry("split.tensors.count", 5,
                GgufBytes::raw(static_cast<std::int32_t>(file.tensors().size())));
    if (index == 0) bytes.entries(whole.substr(kHeader, first_tensor - kHeader), entries);
    const std::size_t end = index == 0 ? 0 : file.tensors().size() * index / 2;
    std::size_t position = 0;
    for (const auto& [name, tensor] : file.tensors()) {
      if (position++ < done || position > end) continue;
      bytes.tensor(name, {tensor.shape.rbegin(), tensor.shape.rend()},
                   static_cast<std::uint32_t>(tensor.type), bytes.data.size());
      bytes.data.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
      bytes.data.resize((bytes.data.size() + 31) / 32 * 32);
    }
    done = end;
    parts[index] = bytes.bytes();
  }
  return parts;
}

TEST_F(GgufDamageTest, ChangedFilesOfEveryArchitectureAreRefusedOrHarmless) {
  constexpr std::uint64_t kEach = 40;
  std::size_t files = 0, num_refused = 0;
  for (const auto& entry : fs::directory_iterator(kSeeds)) {
    const std::string name = entry.path().filename();
    SCOPED_TRACE(name);
    const std::string sound = file_text(entry.path());
    EXPECT_FALSE(refused(entry.path()));
    const RandomStream stream(1, name);
    for (std::uint64_t number = 0; number < kEach; ++number) {
      SCOPED_TRACE(number);
      put(dir_.file("damaged.gguf"), qalof::testing::mutated(sound, stream, number));
      num_refused += refused(dir_.file("damaged.gguf")) ? 1 : 0;
    }
    ++files;
  }
  EXPECT_GE(files, 9U);
  EXPECT_GE(num_refused, 200U);
}

TEST_F(GgufDamageTest, ChangedPartsAreRefusedOrHarmless) {
  constexpr std::uint64_t kEach = 40;
  std::size_t num_refused = 0;
  for (const char* name : {"llama_sentencepiece.gguf", "gemma3.gguf", "smollm3.gguf"}) {
    SCOPED_TRACE(name);
    const std::array<std::string, 3> parts = split(kSeeds + name);
    for (int number = 1; number <= 3; ++number) put(part(number), parts[number - 1]);
    for (int number = 1; number <= 3; ++number) EXPECT_FALSE(refused(part(number)));
    const RandomStream stream(2, name);
    for (std::uint64_t number = 0; number < kEach; ++number) {
      SCOPED_TRACE(number);
      const std::size_t changed = number % 3;
      put(part(static_cast<int>(changed) + 1),
          qalof::testing::mutated(parts[changed], stream, number));
      num_refused += refused(part(1 + static_cast<int>(number) / 3 % 3)) ? 1 : 0;
      put(part(static_cast<int>(changed) + 1), parts[changed]);
    }
  }
  EXPECT_GE(num_refused, 60U);
}

// All splits of a token are tried, which takes the square of its length.
TEST_F(GgufDamageTest, AVocabularyOfLongTokensIsRefused) {
  constexpr std::size_t kTokens = 40, kBytes = 4000;
  GgufBytes file;
  file.entry("tokenizer.ggml.model", 8, GgufBytes::text("llama"));
  std::string tokens, types, scores;
  for (std::size_t id = 0; id < kTokens; ++id) {
    tokens += GgufBytes::text(std::string(kBytes, static_cast<char>('A' + id)));
    types += GgufBytes::raw<std::int32_t>(1);
    scores += GgufBytes::raw(-static_cast<float>(id));
  }
  file.list("tokenizer.ggml.tokens", 8, kTokens, tokens);
  file.list("tokenizer.ggml.token_type", 5, kTokens, types);
  file.list("tokenizer.ggml.scores", 6, kTokens, scores);
  put(dir_.file("long.gguf"), file.bytes());
  const io::GgufFile opened = io::GgufFile::open(dir_.file("long.gguf"));
  const double start = qalof::testing::thread_seconds();
  const auto error = qalof::testing::error_of([&] { tokenizer_files(opened, kTokens); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_NE(error.message.find("tokens are too long"), std::string::npos) << error.message;
  EXPECT_LE(qalof::testing::thread_seconds_since(start), 1.0);
}

}  // namespace gguf_damage_test
}  // namespace qalof::app
