// Event files against bytes worked out by hand and against a file that TensorBoard's own reader
// has accepted (tools/interop/check_tfevents.py).
#include "io/tfevents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "core/crc32c.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace tfevents_test {

using testing::TempDir;

std::uint32_t word_at(const std::string& bytes, std::size_t offset) {
  std::uint32_t word = 0;
  std::memcpy(&word, bytes.data() + offset, sizeof word);
  return word;
}

// Payloads of a file's records; the lengths and checksums are checked.
std::vector<std::string> payloads(const std::string& bytes) {
  std::vector<std::string> result;
  std::size_t at = 0;
  while (at < bytes.size()) {
    const std::size_t size = word_at(bytes, at);
    EXPECT_EQ(word_at(bytes, at + 4), 0U);
    result.push_back(bytes.substr(at + 12, size));
    EXPECT_EQ(tf_record(result.back()), bytes.substr(at, size + 16));
    at += size + 16;
  }
  EXPECT_EQ(at, bytes.size());
  return result;
}

TEST(TfRecord, MasksTheChecksumOfThePayload) {
  const std::string record = tf_record("123456789");
  ASSERT_EQ(record.size(), 8U + 4 + 9 + 4);
  EXPECT_EQ(word_at(record, 0), 9U);
  EXPECT_EQ(record.substr(12, 9), "123456789");
  EXPECT_EQ(word_at(record, 21), 0xc78ab0e5U);  // of CRC-32C's check value 0xe3069283
}

TEST(EventFile, HoldsVersionRestartAndScalars) {
  const TempDir dir;
  std::string bytes;
  {
    EventFile events(dir.file("runs"), 301);
    events.scalar("train/loss", 300, 1.5, 2.0);
    bytes = read_file(events.path(), 10'000);
    EXPECT_THAT(events.path(), ::testing::HasSubstr("/runs/events.out.tfevents."));
  }
  const std::vector<std::string> events = payloads(bytes);
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].substr(9), std::string("\x1a\x0d") + "brain.Event:2");
  EXPECT_EQ(events[1].substr(9), std::string("\x10\xad\x02\x3a\x02\x08\x01", 7));
  const std::string time = std::string("\x09\0\0\0\0\0\0\0\x40", 9);
  const std::string value =
      std::string("\x0a\x0a") + "train/loss" + "\x15" + std::string("\0\0\xc0\x3f", 4);
  EXPECT_EQ(events[2], time + std::string("\x10\xac\x02\x2a\x13\x0a\x11", 7) + value);
}

TEST(EventFile, TwoOfOneProcessHaveTwoNames) {
  const TempDir dir;
  const EventFile a(dir.path(), std::nullopt), b(dir.path(), std::nullopt);
  EXPECT_NE(a.path(), b.path());
  EXPECT_EQ(payloads(read_file(a.path(), 1'000)).size(), 1U);
}

TEST(EventFile, ADirectoryThatCannotBeMadeIsAResourceError) {
  EXPECT_EQ(testing::error_of([] { EventFile("/proc/none/runs", std::nullopt); }).kind,
            ErrorKind::kResource);
}

}  // namespace tfevents_test
}  // namespace qalof::io
