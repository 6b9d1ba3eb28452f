// Encodes TensorBoard events as protocol buffers in TFRecord frames, without TensorFlow.
#include "io/tfevents.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>

#include "core/crc32c.h"

namespace qalof::io {

namespace {

// Field numbers in TensorFlow's event.proto and summary.proto.
constexpr std::uint32_t kEventWallTime = 1, kEventStep = 2, kEventFileVersion = 3,
                        kEventSummary = 5, kEventSessionLog = 7;
constexpr std::uint32_t kSummaryValue = 1, kValueTag = 1, kValueSimpleValue = 2;
constexpr std::uint32_t kSessionStatus = 1, kSessionStart = 1;
// Wire types of protocol buffers.
constexpr std::uint32_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

template <typename Unsigned>
void put_little_endian(std::string& out, Unsigned value) {
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) {
    out += static_cast<char>(value >> (8 * i) & 0xffU);
  }
}

void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>((value & 0x7fU) | 0x80U);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

void put_key(std::string& out, std::uint32_t field, std::uint32_t wire_type) {
  put_varint(out, field << 3 | wire_type);
}

void put_bytes(std::string& out, std::uint32_t field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event_at(double wall_time) {
  std::string event;
  put_key(event, kEventWallTime, kFixed64);
  put_little_endian(event, std::bit_cast<std::uint64_t>(wall_time));
  return event;
}

void put_step(std::string& event, std::int64_t step) {
  put_key(event, kEventStep, kVarint);
  put_varint(event, static_cast<std::uint64_t>(step));
}

std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return std::rotr(crc, 15) + 0xa282ead8U;
}

std::string event_path(const std::string& directory, double now) {
  static std::atomic<unsigned> counter{0};
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host = {"localhost"};
  return fmt::format("{}/events.out.tfevents.{}.{}.{}.{}", directory,
                     static_cast<std::int64_t>(now), host.data(), ::getpid(), counter.fetch_add(1));
}

}  // namespace

std::string tf_record(std::string_view payload) {
  std::string record;
  put_little_endian(record, static_cast<std::uint64_t>(payload.size()));
  put_little_endian(record, masked_crc(record));
  record += payload;
  put_little_endian(record, masked_crc(payload));
  return record;
}

EventFile::EventFile(const std::string& directory, std::optional<std::int64_t> first_step) {
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  make_directories(directory);
  path_ = event_path(directory, now);
  file_ = std::make_unique<AppendFile>(path_);
  std::string first = event_at(now);
  put_bytes(first, kEventFileVersion, "brain.Event:2");
  file_->append(tf_record(first));
  if (!first_step) return;
  std::string session;
  put_key(session, kSessionStatus, kVarint);
  put_varint(session, kSessionStart);
  std::string restart = event_at(now);
  put_step(restart, *first_step);
  put_bytes(restart, kEventSessionLog, session);
  file_->append(tf_record(restart));
}

void EventFile::scalar(std::string_view tag, std::int64_t step, double value, double wall_time) {
  std::string entry;
  put_bytes(entry, kValueTag, tag);
  put_key(entry, kValueSimpleValue, kFixed32);
  put_little_endian(entry, std::bit_cast<std::uint32_t>(static_cast<float>(value)));
  std::string summary;
  put_bytes(summary, kSummaryValue, entry);
  std::string event = event_at(wall_time);
  put_step(event, step);
  put_bytes(event, kEventSummary, summary);
  file_->append(tf_record(event));
}

}  // namespace qalof::io
