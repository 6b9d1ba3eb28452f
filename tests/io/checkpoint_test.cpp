// Checkpoint directories: whole or not there, verified before use, whatever the disk does.
#include "io/checkpoint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/random.h"
#include "support/error_of.h"
#include "support/io_faults.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace checkpoint_test {

using testing::error_of;
using ::testing::HasSubstr;
using testing::IoFaults;
using testing::SystemCall;
using testing::TempDir;

namespace fs = std::filesystem;

// Collects warnings.
class Warnings : public Observer {
 public:
  void warn(std::string_view line) override { lines.emplace_back(line); }
  std::vector<std::string> lines;
};

std::string contents(std::int64_t step, std::size_t size) {
  std::string text(size, '\0');
  const RandomStream stream(7, "contents");
  for (std::size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>(stream.words(static_cast<std::uint64_t>(step), i)[0]);
  }
  return text;
}

// A checkpoint of three files, one in a directory, one empty.
void write_checkpoint(const std::string& output_dir, std::int64_t step) {
  CheckpointWriter writer(output_dir, step);
  make_directories(writer.directory() + "/w8");
  write_file_atomic(writer.directory() + "/w8/adapter.bin", contents(step, 700));
  write_file_atomic(writer.directory() + "/state.bin", contents(step, 1'500));
  std::ofstream(writer.directory() + "/empty");
  writer.commit();
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::int64_t newest_step(const std::string& output_dir) {
  Warnings warnings;
  const auto newest = newest_checkpoint(output_dir, warnings);
  EXPECT_TRUE(newest && warnings.lines.empty());
  return newest ? newest->step : -1;
}

TEST(Checkpoint, NewestOfSeveralThatVerifies) {
  const TempDir dir;
  Warnings warnings;
  EXPECT_FALSE(newest_checkpoint(dir.path(), warnings));
  EXPECT_FALSE(newest_checkpoint(dir.file("none"), warnings));
  for (const std::int64_t step : {9, 100, 20}) write_checkpoint(dir.path(), step);
  fs::create_directory(dir.file("checkpoint-0300"));
  fs::create_directory(dir.file("checkpoint-x"));
  std::ofstream(dir.file("checkpoint-400")) << "a file";
  EXPECT_TRUE(warnings.lines.empty());
  EXPECT_EQ(newest_step(dir.path()), 100);
  EXPECT_EQ(verify_checkpoint(dir.file("checkpoint-20")), 20);
  const auto all = list_checkpoints(dir.path());
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[2].path, dir.path() + "/checkpoint-9");
}

TEST(Checkpoint, WithoutManifestOrUnderAnotherNameItIsPassedOverWithAWarning) {
  const TempDir dir;
  write_checkpoint(dir.path(), 1);
  write_checkpoint(dir.path(), 2);
  fs::copy(dir.file("checkpoint-1"), dir.file("checkpoint-4"), fs::copy_options::recursive);
  fs::remove(dir.file("checkpoint-2/manifest.json"));
  Warnings warnings;
  EXPECT_EQ(newest_checkpoint(dir.path(), warnings)->step, 1);
  ASSERT_EQ(warnings.lines.size(), 2U);
  EXPECT_THAT(warnings.lines[0], HasSubstr("that of step 1"));
  EXPECT_THAT(warnings.lines[1], HasSubstr("manifest.json: is missing"));
  EXPECT_EQ(error_of([&] { verify_checkpoint(dir.file("checkpoint-3")); }).kind,
            ErrorKind::kNotFound);
}

TEST(Checkpoint, EveryBitFlipIsFound) {
  const TempDir dir;
  write_checkpoint(dir.path(), 5);
  const std::string root = dir.file("checkpoint-5");
  std::size_t flips = 0;
  for (const std::string name : {"manifest.json", "state.bin", "w8/adapter.bin"}) {
    const std::string path = root + "/" + name;
    const std::string good = read_file(path, 10'000);
    // The manifest bit by bit: any of them may hide another.
    for (std::size_t bit = 0; bit < 8 * good.size(); bit += name[0] == 'm' ? 1 : 11) {
      std::string bad = good;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
      std::ofstream(path, std::ios::binary | std::ios::trunc) << bad;
      ASSERT_EQ(error_of([&] { verify_checkpoint(root); }).kind, ErrorKind::kCorruptFile)
          << name << " bit " << bit;
      ++flips;
    }
    std::ofstream(path, std::ios::binary | std::ios::trunc) << good;
  }
  EXPECT_GT(flips, 3'000U);
  EXPECT_EQ(verify_checkpoint(root), 5);
}

TEST(Checkpoint, TruncatedGrownAndMissingFilesAreFound) {
  const TempDir dir;
  write_checkpoint(dir.path(), 5);
  const std::string root = dir.file("checkpoint-5");
  for (const std::string name : {"manifest.json", "state.bin", "empty"}) {
    const std::string path = root + "/" + name, good = read_file(path, 10'000);
    for (const std::string& bad : {good + "x", good.substr(0, good.size() / 2), std::string()}) {
      if (bad == good) continue;
      std::ofstream(path, std::ios::binary | std::ios::trunc) << bad;
      EXPECT_EQ(error_of([&] { verify_checkpoint(root); }).kind, ErrorKind::kCorruptFile) << name;
    }
    fs::remove(path);
    const auto error = error_of([&] { verify_checkpoint(root); });
    EXPECT_EQ(error.kind, ErrorKind::kCorruptFile);
    EXPECT_THAT(error.message, HasSubstr(name + ": is missing"));
    std::ofstream(path, std::ios::binary | std::ios::trunc) << good;
  }
  EXPECT_EQ(verify_checkpoint(root), 5);
}

// A checksum finds damage; a manifest made by hand has a right one and must still not lead outside.
TEST(Checkpoint, AManifestThatLeadsOutIsRefused) {
  const TempDir dir;
  std::ofstream(dir.file("secret")) << "x";
  for (const std::string name : {"../secret", "/etc/hostname", "w8/../../secret", ""}) {
    CheckpointWriter writer(dir.path(), 3);
    writer.commit();
    const std::string path = dir.file("checkpoint-3/manifest.json");
    std::string body =
        R"({"files":{")" + name + R"(":{"size":1,"sha256":"00"}},"format_version":1,"step":3)";
    const std::string sum = sha256_hex(std::as_bytes(std::span(body.data(), body.size())));
    std::ofstream(path) << body << R"(,"sha256":")" << sum << "\"}\n";
    const auto error = error_of([&] { verify_checkpoint(dir.file("checkpoint-3")); });
    EXPECT_EQ(error.kind, ErrorKind::kCorruptFile);
    EXPECT_THAT(error.message, HasSubstr("leads out")) << name;
  }
}

TEST(Checkpoint, WhateverCallFailsTheOldOneLoadsAndNothingHalfIsLeft) {
  for (const SystemCall call : {SystemCall::kOpen, SystemCall::kWrite, SystemCall::kFsync,
                                SystemCall::kRename, SystemCall::kMkdir}) {
    for (const bool lasting : {false, true}) {
      int k = 0;
      for (bool failed = true; failed; ++k) {
        const TempDir dir;
        write_checkpoint(dir.path(), 1);
        ErrorKind kind{};
        failed = false;
        {
          const IoFaults faults(call, k, call == SystemCall::kRename ? EROFS : ENOSPC, dir.path(),
                                lasting);
          try {
            write_checkpoint(dir.path(), 2);
          } catch (const Error& error) {
            failed = true;
            kind = error.kind();
          }
          ASSERT_EQ(failed, faults.calls() > k) << k << ": a failure must not pass unseen";
        }
        if (failed) {
          ASSERT_EQ(kind, ErrorKind::kResource);
        }
        // Only the flush of the parent comes after the rename: then the new one is whole.
        const std::int64_t newest = newest_step(dir.path());
        ASSERT_TRUE(newest == 2 || (failed && newest == 1));
        remove_unfinished_checkpoints(dir.path());
        ASSERT_EQ(names_in(dir.path()).size(), newest == 2 ? 2U : 1U);
      }
      EXPECT_GT(k, call == SystemCall::kMkdir ? 1 : 3);
    }
  }
}

TEST(Checkpoint, ReplacingOneOfTheSameStepKeepsTheOldWhereTheRenameFails) {
  for (int k = 0;; ++k) {
    const TempDir dir;
    write_checkpoint(dir.path(), 1);
    bool failed = false;
    {
      const IoFaults faults(SystemCall::kRename, k, EIO, dir.path());
      try {
        write_checkpoint(dir.path(), 1);
      } catch (const Error&) {
        failed = true;
      }
    }
    EXPECT_EQ(newest_step(dir.path()), 1);
    if (!failed) {
      EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"checkpoint-1"});
      EXPECT_GE(k, 4);
      break;
    }
  }
}

TEST(Checkpoint, KilledAtAnyTimeLeavesTheOldOrTheNew) {
  const TempDir dir;
  write_checkpoint(dir.path(), 1);
  const RandomStream stream(11, "kills");
  std::int64_t newest = 1;
  // On a busy machine a child may not get far; most of the kills must have met one at work.
  int at_work = 0;
  for (std::uint64_t round = 0; round < 300 && at_work < 20; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (std::int64_t step = newest + 1;; ++step) {
        write_checkpoint(dir.path(), step);
        limit_checkpoints(dir.path(), 1);
      }
    }
    const std::uint64_t longest = 20'000 * (1 + round / 50);
    ::usleep(static_cast<useconds_t>(500 + stream.below(longest, round, 0)));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const std::int64_t now = newest_step(dir.path());
    ASSERT_GE(now, newest);
    at_work += now > newest ? 1 : 0;
    newest = now;
    remove_unfinished_checkpoints(dir.path());
    for (const std::string& name : names_in(dir.path())) EXPECT_THAT(name, Not(HasSubstr("tmp")));
  }
  EXPECT_EQ(at_work, 20);
}

// In containers every run may have the same process number.
TEST(Checkpoint, WhatAKilledProcessOfTheSameNumberLeftIsNotInTheWay) {
  const TempDir dir;
  for (const std::int64_t step : {1, 2}) write_checkpoint(dir.path(), step);
  for (const char* name : {"checkpoint-1.tmp-{}-removed", "checkpoint-2.tmp-{}-replaced"}) {
    const std::string left = dir.file(fmt::format(fmt::runtime(name), ::getpid()));
    make_directories(left);
    write_file_atomic(left + "/left", "x");
  }
  write_checkpoint(dir.path(), 2);
  limit_checkpoints(dir.path(), 1);
  EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"checkpoint-2"});
}

TEST(Checkpoint, LimitsAndDiscardsByStep) {
  const TempDir dir;
  for (const std::int64_t step : {1, 2, 3, 10}) write_checkpoint(dir.path(), step);
  limit_checkpoints(dir.path(), 0);
  EXPECT_EQ(list_checkpoints(dir.path()).size(), 4U);
  limit_checkpoints(dir.path(), 3);
  EXPECT_EQ(list_checkpoints(dir.path()).back().step, 2);
  remove_checkpoints_after(dir.path(), 2);
  EXPECT_EQ(newest_step(dir.path()), 2);
  remove_checkpoints_after(dir.path(), -1);
  EXPECT_TRUE(names_in(dir.path()).empty());
}

}  // namespace checkpoint_test
}  // namespace qalof::io
