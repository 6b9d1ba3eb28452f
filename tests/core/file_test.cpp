// Files: bounded reading, mapping, atomic writing under failures, directory locks, and sha256.
#include "core/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>

#include "core/error.h"
#include "core/hash.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof {
namespace file_test {

using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

void put(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::size_t num_entries(const std::string& directory) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(directory), {}));
}

TEST(ReadFile, GivesAllBytesUpToTheLimit) {
  const TempDir dir;
  const std::string text("a\0b\n", 4);
  put(dir.file("x"), text);
  EXPECT_EQ(read_file(dir.file("x"), 4), text);
  const auto error = error_of([&] { read_file(dir.file("x"), 3); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("has 4 bytes, at most 3 are read"));
}

TEST(ReadFile, RefusesWhatIsMissingOrNoRegularFile) {
  const TempDir dir;
  EXPECT_EQ(error_of([&] { read_file(dir.file("none"), 10); }).kind, ErrorKind::kNotFound);
  EXPECT_EQ(error_of([&] { read_file(dir.path(), 10); }).kind, ErrorKind::kBadInput);
  ASSERT_EQ(::mkfifo(dir.file("pipe").c_str(), 0600), 0);  // must not wait for a writer either
  EXPECT_THAT(error_of([&] { read_file(dir.file("pipe"), 10); }).message,
              HasSubstr("is not a regular file"));
  EXPECT_EQ(error_of([&] { MappedFile::open(dir.file("pipe")); }).kind, ErrorKind::kBadInput);
  EXPECT_EQ(error_of([&] { MappedFile::open("/dev/zero"); }).kind, ErrorKind::kBadInput);
}

TEST(ReadFile, GitLfsPointersAreNotTheFilesTheyStandFor) {
  const TempDir dir;
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 44376\n";
  std::ofstream(dir.file("model.safetensors")) << pointer;
  for (const auto& read : std::initializer_list<std::function<void()>>{
           [&] { read_file(dir.file("model.safetensors"), 1000); },
           [&] { MappedFile::open(dir.file("model.safetensors")); }}) {
    const auto error = error_of(read);
    EXPECT_EQ(error.kind, ErrorKind::kBadInput);
    EXPECT_NE(error.message.find("run git lfs pull"), std::string::npos) << error.message;
  }
  // A text that quotes one is a text.
  std::ofstream(dir.file("long.txt")) << pointer << std::string(1000, 'x');
  EXPECT_NO_THROW(read_file(dir.file("long.txt"), 2000));
}

TEST(MappedFile, ViewsTheFileAndOutlivesAMove) {
  const TempDir dir;
  put(dir.file("x"), "hello");
  MappedFile file = MappedFile::open(dir.file("x"));
  const auto bytes = file.bytes();
  const MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes().data(), bytes.data());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), "hello");
  EXPECT_EQ(moved.path(), dir.file("x"));
  put(dir.file("empty"), "");
  EXPECT_TRUE(MappedFile::open(dir.file("empty")).bytes().empty());
}

TEST(AtomicFile, AppearsOnlyOnCommit) {
  const TempDir dir;
  put(dir.file("x"), "old");
  {
    AtomicFile file(dir.file("x"));
    file.write(std::string(3'000'000, 'n'));
    EXPECT_EQ(read_file(dir.file("x"), 100), "old");
  }
  EXPECT_EQ(read_file(dir.file("x"), 100), "old");
  EXPECT_EQ(num_entries(dir.path()), 1U) << "the temporary file must be gone";
  AtomicFile file(dir.file("x"));
  for (int i = 0; i < 3'000; ++i) file.write(std::string(1'000, static_cast<char>('a' + i % 26)));
  file.commit();
  const std::string text = read_file(dir.file("x"), 3'000'000);
  ASSERT_EQ(text.size(), 3'000'000U);
  for (std::size_t i = 0; i < 3'000; ++i)
    ASSERT_EQ(text[1'000 * i + 999], static_cast<char>('a' + i % 26));
  EXPECT_EQ(num_entries(dir.path()), 1U);
}

// What a killed process of the same number left: in containers every run may have that number.
TEST(AtomicFile, PassesOverNamesThatAreTaken) {
  const TempDir dir;
  std::string first;
  {
    const AtomicFile file(dir.file("x"));
    for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
      first = entry.path().string();
  }
  const std::size_t number = first.rfind('-') + 1;
  ASSERT_NE(number, 0U) << first;
  const int next = std::stoi(first.substr(number)) + 1;
  for (int i = 0; i < 3; ++i) put(first.substr(0, number) + std::to_string(next + i), "left");
  write_file_atomic(dir.file("x"), "new");
  SpoolFile spool(dir.file("y"));
  EXPECT_EQ(read_file(dir.file("x"), 100), "new");
  EXPECT_EQ(read_file(first.substr(0, number) + std::to_string(next), 100), "left");
  EXPECT_EQ(num_entries(dir.path()), 4U);
}

TEST(AtomicFile, NamesPathAndReasonWhereItCannotWrite) {
  const TempDir dir;
  const auto error = error_of([&] { AtomicFile file(dir.file("none/x")); });
  EXPECT_EQ(error.kind, ErrorKind::kResource);
  EXPECT_THAT(error.message, HasSubstr(dir.file("none/x")));
  EXPECT_THAT(error.message, HasSubstr("No such file or directory"));
  std::filesystem::create_directory(dir.file("taken"));
  EXPECT_EQ(error_of([&] { write_file_atomic(dir.file("taken"), "x"); }).kind,
            ErrorKind::kResource);
  EXPECT_EQ(num_entries(dir.path()), 1U);
}

std::string whole(const std::string& path) { return read_file(path, 1'000'000); }

mode_t mode_of(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 ? status.st_mode : 0;
}

TEST(AtomicFile, FollowsSymbolicLinksAndLeavesThem) {
  const TempDir dir;
  std::filesystem::create_directories(dir.file("store/deep"));
  put(dir.file("store/real"), "old");
  std::filesystem::create_symlink("store/real", dir.file("link"));
  std::filesystem::create_symlink("../../link", dir.file("store/deep/chain"));
  std::filesystem::create_symlink(dir.file("store/made"), dir.file("dangling"));
  write_file_atomic(dir.file("link"), "new");
  EXPECT_EQ(whole(dir.file("store/real")), "new");
  write_file_atomic(dir.file("store/deep/chain"), "newer");
  EXPECT_EQ(whole(dir.file("store/real")), "newer");
  write_file_atomic(dir.file("dangling"), "made");
  EXPECT_EQ(whole(dir.file("store/made")), "made");
  for (const char* link : {"link", "store/deep/chain", "dangling"})
    EXPECT_TRUE(S_ISLNK(mode_of(dir.file(link)))) << link;
  { AtomicFile uncommitted(dir.file("link")); }
  EXPECT_EQ(num_entries(dir.file("store")), 3U) << "no temporary file may stay";
  EXPECT_EQ(num_entries(dir.path()), 3U);
  std::filesystem::create_symlink("round", dir.file("round"));
  EXPECT_THAT(error_of([&] { write_file_atomic(dir.file("round"), "x"); }).message,
              HasSubstr("Too many levels of symbolic links"));
  std::filesystem::create_symlink("none/x", dir.file("nowhere"));
  EXPECT_THAT(error_of([&] { write_file_atomic(dir.file("nowhere"), "x"); }).message,
              HasSubstr("No such file or directory"));
}

TEST(AtomicFile, WritesPipesAndDevicesInPlace) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo(dir.file("pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("pipe", dir.file("link"));
  for (const char* name : {"pipe", "link"}) {
    const int reader = ::open(dir.file("pipe").c_str(), O_RDONLY | O_NONBLOCK);
    ASSERT_GE(reader, 0);
    write_file_atomic(dir.file(name), "text");
    char text[8] = {};
    EXPECT_EQ(::read(reader, text, sizeof text), 4);
    EXPECT_STREQ(text, "text");
    ::close(reader);
  }
  EXPECT_TRUE(S_ISFIFO(mode_of(dir.file("pipe"))));
  EXPECT_EQ(num_entries(dir.path()), 2U);
  write_file_atomic("/dev/null", std::string(3'000'000, 'x'));
  EXPECT_TRUE(S_ISCHR(mode_of("/dev/null")));
  const auto full = error_of([&] { write_file_atomic("/dev/full", "x"); });
  EXPECT_EQ(full.kind, ErrorKind::kResource);
  EXPECT_THAT(full.message, HasSubstr("/dev/full: cannot be written"));
  EXPECT_THAT(full.message, ::testing::Not(HasSubstr("unchanged")));
  SpoolFile spool("/dev/null");  // beside it there is no room for files
  spool.append(std::as_bytes(std::span("abc", 3)));
  EXPECT_EQ(spool.map().bytes().size(), 3U);
}

// What the shell redirected is written as the shell opened it, here to append.
TEST(AtomicFile, WritesOpenDescriptorsInPlace) {
  const TempDir dir;
  put(dir.file("log"), "one ");
  const int fd = ::open(dir.file("log").c_str(), O_WRONLY | O_APPEND);
  ASSERT_GE(fd, 0);
  for (const char* directory : {"/dev/fd", "/proc/self/fd"})
    write_file_atomic(fmt::format("{}/{}", directory, fd), "two ");
  EXPECT_EQ(::write(fd, "three", 5), 5);
  ::close(fd);
  EXPECT_EQ(whole(dir.file("log")), "one two two three");
  EXPECT_EQ(num_entries(dir.path()), 1U);
  EXPECT_EQ(error_of([&] { write_file_atomic(fmt::format("/dev/fd/{}", fd), "x"); }).kind,
            ErrorKind::kResource);
}

TEST(AtomicFile, RefusesWhatHoldsNoFile) {
  const TempDir dir;
  std::filesystem::create_directory(dir.file("taken"));
  std::filesystem::create_directory_symlink("taken", dir.file("link"));
  put(dir.file("file"), "old");
  for (const char* name : {"taken", "taken/", "link", "link/"}) {
    EXPECT_THAT(error_of([&] { write_file_atomic(dir.file(name), "x"); }).message,
                HasSubstr("is a directory, expected a file"))
        << name;
  }
  for (const char* name : {"new/", "file/", "file/x"}) {
    EXPECT_EQ(error_of([&] { write_file_atomic(dir.file(name), "x"); }).kind, ErrorKind::kResource);
  }
  EXPECT_EQ(whole(dir.file("file")), "old");
  EXPECT_EQ(error_of([&] { write_file_atomic("", "x"); }).kind, ErrorKind::kUsage);
}

TEST(AtomicFile, KeepsTheModeOfWhatItReplacesAndElseHonoursTheMask) {
  const TempDir dir;
  const mode_t mask = ::umask(0027);
  write_file_atomic(dir.file("new"), "x");
  EXPECT_EQ(mode_of(dir.file("new")) & 07777, 0640U);
  for (const mode_t mode : {0600U, 0664U, 0755U}) {
    ASSERT_EQ(::chmod(dir.file("new").c_str(), mode), 0);
    {
      AtomicFile file(dir.file("new"));
      file.write("y");
      for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
        EXPECT_EQ(mode_of(entry.path()) & 07777, mode) << entry.path();
      file.commit();
    }
    EXPECT_EQ(mode_of(dir.file("new")) & 07777, mode);
  }
  ::umask(mask);
  if (::geteuid() == 0) return;  // whom no mode holds back
  ASSERT_EQ(::chmod(dir.file("new").c_str(), 0400), 0);
  EXPECT_THAT(error_of([&] { write_file_atomic(dir.file("new"), "z"); }).message,
              HasSubstr("Permission denied"));
}

TEST(AtomicFile, TakesNamesAsLongAsTheSystemDoes) {
  const TempDir dir;
  const std::string name(255, 'n');
  write_file_atomic(dir.file(name), "x");
  EXPECT_EQ(whole(dir.file(name)), "x");
}

TEST(IsSameFile, SeesThroughNames) {
  const TempDir dir;
  put(dir.file("a"), "");
  put(dir.file("b"), "");
  std::filesystem::create_symlink("a", dir.file("link"));
  std::filesystem::create_hard_link(dir.file("a"), dir.file("hard"));
  EXPECT_TRUE(is_same_file(dir.file("a"), dir.file("link")));
  EXPECT_TRUE(is_same_file(dir.file("a"), dir.file("hard")));
  EXPECT_TRUE(is_same_file(dir.path(), dir.path() + "/."));
  EXPECT_FALSE(is_same_file(dir.file("a"), dir.file("b")));
  EXPECT_FALSE(is_same_file(dir.file("none"), dir.file("none")));
}

TEST(SpoolFile, GivesBackWhatWasAppendedAndLeavesNothing) {
  const TempDir dir;
  {
    SpoolFile spool(dir.file("x"));
    EXPECT_EQ(num_entries(dir.path()), 0U);
    EXPECT_TRUE(spool.map().bytes().empty());
    const std::string part(100'000, 'p');
    for (int i = 0; i < 5; ++i) spool.append(std::as_bytes(std::span(part)));
    ASSERT_EQ(spool.size(), 500'000U);
    const MappedFile mapped = spool.map();
    ASSERT_EQ(mapped.bytes().size(), 500'000U);
    // What was released is there again where it is read.
    for (int round = 0; round < 2; ++round) {
      for (const std::byte byte : mapped.bytes()) ASSERT_EQ(byte, std::byte{'p'});
      mapped.release(mapped.bytes().subspan(1'000, 300'000));
      mapped.release(mapped.bytes().last(10));
    }
  }
  EXPECT_EQ(num_entries(dir.path()), 0U);
  EXPECT_EQ(error_of([&] { SpoolFile spool(dir.file("none/x")); }).kind, ErrorKind::kResource);
}

// A process of its own, because the limit on file sizes is the process's.
TEST(AtomicFile, KeepsTheOldFileWhereTheDiskRefuses) {
  const TempDir dir;
  put(dir.file("x"), "old");
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1'000'000, 1'000'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_atomic(dir.file("x"), std::string(5'000'000, 'n'));
    } catch (const Error& error) {
      ::_exit(error.kind() == ErrorKind::kResource ? 0 : 2);
    }
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_file(dir.file("x"), 100), "old");
  EXPECT_EQ(num_entries(dir.path()), 1U);
}

TEST(AtomicFile, IsOldOrNewAfterAKill) {
  const TempDir dir;
  const std::string old_text(200'000, 'o'), new_text(200'000, 'n');
  write_file_atomic(dir.file("x"), old_text);
  for (int round = 0; round < 20; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (int i = 0;; ++i) write_file_atomic(dir.file("x"), i % 2 == 0 ? new_text : old_text);
    }
    ::usleep(static_cast<useconds_t>(500 + 731 * round));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const std::string text = read_file(dir.file("x"), 1'000'000);
    ASSERT_TRUE(text == old_text || text == new_text);
  }
}

TEST(AppendFile, WritesBehindWhatIsThereAndTellsOfFailure) {
  const TempDir dir;
  {
    AppendFile file(dir.file("log"));
    file.append("one\n");
    EXPECT_EQ(read_file(dir.file("log"), 100), "one\n") << "at once, not at the end";
    file.append("");
    file.sync();
  }
  AppendFile(dir.file("log")).append("two\n");
  EXPECT_EQ(read_file(dir.file("log"), 100), "one\ntwo\n");
  const auto error = error_of([&] { AppendFile file(dir.file("none/log")); });
  EXPECT_EQ(error.kind, ErrorKind::kResource);
  EXPECT_THAT(error.message, HasSubstr("none/log"));
  AppendFile full("/dev/full");
  EXPECT_EQ(error_of([&] { full.append("x"); }).kind, ErrorKind::kResource);
}

TEST(MakeDirectories, MakesParentsAndRefusesAFileInTheWay) {
  const TempDir dir;
  make_directories(dir.file("a/b/c"));
  make_directories(dir.file("a/b/c"));
  EXPECT_TRUE(is_directory(dir.file("a/b/c")));
  put(dir.file("file"), "");
  EXPECT_FALSE(is_directory(dir.file("file")));
  EXPECT_TRUE(path_exists(dir.file("file")));
  EXPECT_FALSE(path_exists(dir.file(std::string(5000, 'x'))));
  EXPECT_EQ(error_of([&] { make_directories(dir.file("file/a")); }).kind, ErrorKind::kResource);
  EXPECT_EQ(error_of([&] { make_directories(dir.file("file")); }).kind, ErrorKind::kResource);
}

TEST(NewDirectory, IsGoneAgainWhereNothingIsInIt) {
  const TempDir dir;
  for (const char* path : {"a", "a/b/c", "a/b/c/", "./a//b/../c"}) {
    {
      const NewDirectory made(dir.file(path));
      EXPECT_TRUE(is_directory(dir.file(path)));
    }
    EXPECT_FALSE(path_exists(dir.file("a"))) << path;
  }
  make_directories(dir.file("own"));
  { const NewDirectory made(dir.file("own/a/b")); }
  EXPECT_TRUE(is_directory(dir.file("own")));
  EXPECT_FALSE(path_exists(dir.file("own/a")));
  { const NewDirectory made(dir.file("own")); }
  EXPECT_TRUE(is_directory(dir.file("own"))) << "it was there before";
  {
    const NewDirectory made(dir.file("own/a/b"));
    put(dir.file("own/a/file"), "");
  }
  EXPECT_TRUE(path_exists(dir.file("own/a/file")));
  EXPECT_FALSE(path_exists(dir.file("own/a/b")));
  put(dir.file("file"), "");
  EXPECT_EQ(error_of([&] { NewDirectory made(dir.file("file/a")); }).kind, ErrorKind::kResource);
  EXPECT_TRUE(path_exists(dir.file("file")));
}

TEST(DirectoryLock, LeavesNoFile) {
  const TempDir dir;
  {
    const NewDirectory made(dir.file("new"));
    const DirectoryLock lock(dir.file("new"));
    EXPECT_TRUE(path_exists(dir.file("new/.lock")));
  }
  EXPECT_FALSE(path_exists(dir.file("new")));
}

TEST(DirectoryLock, IsHeldByOneAndFreedAtTheEnd) {
  const TempDir dir;
  {
    const DirectoryLock lock(dir.path());
    const auto error = error_of([&] { DirectoryLock second(dir.path()); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    EXPECT_THAT(error.message, HasSubstr("another run writes there"));
  }
  const DirectoryLock again(dir.path());
  EXPECT_EQ(error_of([&] { DirectoryLock lock(dir.file("none")); }).kind, ErrorKind::kResource);
}

TEST(Sha256, GivesThePublishedKnownAnswers) {
  const auto hash_of = [](std::string_view text) {
    return sha256_hex(std::as_bytes(std::span(text.data(), text.size())));
  };
  EXPECT_EQ(hash_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 hash;
  const std::string part(1000, 'a');
  for (int i = 0; i < 1000; ++i) hash.update(std::as_bytes(std::span(part.data(), part.size())));
  EXPECT_EQ(hash.finish(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace file_test
}  // namespace qalof
