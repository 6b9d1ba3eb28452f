// Downloads from a fake hub on this machine: what reaches the cache, what is refused, who sees the
// token, and what a broken connection leaves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "core/file.h"
#include "io/hub/cache.h"
#include "io/hub/download.h"
#include "io/hub/http.h"
#include "support/error_of.h"
#include "support/fake_hub.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace hub_test {

namespace fs = std::filesystem;
using qalof::testing::error_of;
using qalof::testing::FakeHub;
using qalof::testing::HttpAsked;
using qalof::testing::HttpReply;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr const char* kCommit = FakeHub::kCommit;
constexpr const char* kToken = "hf_secretsecretsecret";

std::string noise(std::size_t size) {
  std::string bytes(size, '\0');
  std::uint32_t state = 12345;
  for (char& byte : bytes) {
    state = state * 1664525U + 1013904223U;
    byte = static_cast<char>(state >> 24U);
  }
  return bytes;
}

FakeHub::Files model_files(std::size_t weights = 300'000) {
  return {{"config.json", {R"({"model_type": "llama"})"}},
          {"generation_config.json", {"{}"}},
          {"tokenizer.json", {noise(5000)}},
          {"model.safetensors", {noise(weights), true}},
          {"pytorch_model.bin", {"pickle", true}},
          {"onnx/model.onnx", {"onnx", true}},
          {"README.md", {"# text"}}};
}

class Lines : public Observer {
 public:
  void info(std::string_view line) override { text += std::string(line) + "\n"; }
  void warn(std::string_view line) override { text += std::string(line) + "\n"; }
  void status(std::string_view line) override { text += std::string(line) + "\n"; }
  void progress(std::string_view what, std::uint64_t done, std::uint64_t total, std::string_view,
                std::string_view) override {
    EXPECT_LE(done, total);
    last_done = done;
    last_total = total;
    text += std::string(what) + "\n";
  }
  std::string text;
  std::uint64_t last_done = 0, last_total = 0;
};

class HubTest : public ::testing::Test {
 protected:
  void SetUp() override {
    bool can_download = false;
    const std::string library = http_library(&can_download);
    if (!can_download) GTEST_SKIP() << library;
  }
  HubSettings settings(const FakeHub& hub) const {
    HubSettings settings;
    settings.endpoint = hub.url();
    settings.cache = dir_.file("hub");
    settings.token = kToken;
    settings.connect_seconds = 2;
    settings.silence_seconds = 1;
    settings.retry_seconds = 0.01;
    return settings;
  }
  HubResult get(const FakeHub& hub, const std::string& name = "org/name",
                HubUse use = HubUse::kAny) {
    return download(*parse_hub_name(name), use, settings(hub), lines_, nullptr);
  }
  qalof::testing::ThrownError refusal(const FakeHub& hub, const std::string& name = "org/name",
                                      HubUse use = HubUse::kAny) {
    return error_of([&] { get(hub, name, use); });
  }
  std::string in_repository(const std::string& path) const {
    return dir_.file("hub/models--org--name/" + path);
  }
  std::string in_snapshot(const std::string& path) const {
    return in_repository("snapshots/" + std::string(kCommit) + "/" + path);
  }
  static std::string read(const std::string& path) { return read_file(path, std::size_t{1} << 26); }
  /// Every blob's name is its hash, and nothing else is there.
  void expect_sound_blobs() const {
    if (!fs::exists(in_repository("blobs"))) return;
    for (const auto& entry : fs::directory_iterator(in_repository("blobs"))) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".incomplete")) continue;
      EXPECT_EQ(FakeHub::hash_of({read(entry.path().string()), name.size() == 64}), name);
    }
  }
  std::string incomplete_blob() const {
    for (const auto& entry : fs::directory_iterator(in_repository("blobs"))) {
      if (entry.path().extension() == ".incomplete") return entry.path().string();
    }
    return "";
  }
  int stored_requests(const FakeHub& hub) const {
    return static_cast<int>(hub.storage().asked().size());
  }

  qalof::testing::TempDir dir_;
  Lines lines_;
};

TEST(HubName, IsARepositoryOrAFileOfIt) {
  const auto whole = parse_hub_name("HuggingFaceTB/SmolLM2-135M@refs/pr/7");
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->repository, "HuggingFaceTB/SmolLM2-135M");
  EXPECT_EQ(whole->revision, "refs/pr/7");
  EXPECT_EQ(to_string(*whole), "HuggingFaceTB/SmolLM2-135M@refs/pr/7");
  const auto file = parse_hub_name("a/b.c/q4/model-Q4_0.gguf");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->repository, "a/b.c");
  EXPECT_EQ(file->file, "q4/model-Q4_0.gguf");
  EXPECT_EQ(file->revision, "main");
}

TEST(HubName, PathsAndHostileNamesAreNone) {
  for (const char* text : {"gpt2",
                           "",
                           "/",
                           "a/",
                           "/b",
                           "./a",
                           "../a",
                           "/tmp/model",
                           "a//b",
                           "a/b/c",
                           "a/b/",
                           "a/..",
                           "a/.b",
                           "a/b-",
                           "a--b/c",
                           "a/b..c",
                           "a/b.git",
                           "~/model",
                           "a b/c",
                           "a/b@",
                           "a/b@../x",
                           "a/b@/x",
                           "a/b@-x",
                           "a/b@x y",
                           "a/b/../c.gguf",
                           "a/b//c.gguf",
                           "a/b/pytorch_model.bin",
                           "a/b\n",
                           "a/b\\c",
                           "caf\xc3\xa9/b"}) {
    EXPECT_FALSE(parse_hub_name(text)) << text;
  }
  EXPECT_FALSE(parse_hub_name(std::string(97, 'a') + "/b"));
  EXPECT_TRUE(parse_hub_name(std::string(96, 'a') + "/b"));
}

TEST(HubName, SafePathsStayBelowTheirDirectory) {
  for (const char* path : {"config.json", "w4/adapter_config.json", "a/b/c", ".gitattributes"})
    EXPECT_TRUE(is_safe_hub_path(path)) << path;
  for (const char* path : {"", "/etc/passwd", "..", "../x", "a/../x", "a/..", ".", "a/./b", "a//b",
                           "a/", "-x", "a\\b", "a\nb", "a\x7f", "caf\xc3\xa9"}) {
    EXPECT_FALSE(is_safe_hub_path(path)) << path;
  }
  EXPECT_FALSE(is_safe_hub_path(std::string_view("a\0b", 3)));
  EXPECT_FALSE(is_safe_hub_path(std::string(256, 'a')));
}

TEST(HubSettings, FollowTheVariablesOfPython) {
  const auto with = [](const std::map<std::string, std::string>& variables) {
    for (const char* name :
         {"HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME",
          "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE",
          "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_DOWNLOAD_TIMEOUT"}) {
      ::unsetenv(name);
    }
    ::setenv("HOME", "/home/none", 1);
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
    return hub_settings();
  };
  EXPECT_EQ(with({}).endpoint, "https://huggingface.co");
  EXPECT_EQ(with({}).cache, "/home/none/.cache/huggingface/hub");
  EXPECT_EQ(with({{"XDG_CACHE_HOME", "/x"}}).cache, "/x/huggingface/hub");
  EXPECT_EQ(with({{"XDG_CACHE_HOME", "/x"}, {"HF_HOME", "~/h"}}).cache, "/home/none/h/hub");
  EXPECT_EQ(with({{"HF_HOME", "/h"}, {"HF_HUB_CACHE", "/c"}}).cache, "/c");
  EXPECT_EQ(with({{"HF_ENDPOINT", "https://mirror.example/"}}).endpoint, "https://mirror.example");
  EXPECT_TRUE(with({{"HF_HUB_OFFLINE", "yes"}}).offline);
  EXPECT_TRUE(with({{"TRANSFORMERS_OFFLINE", "1"}}).offline);
  EXPECT_FALSE(with({{"HF_HUB_OFFLINE", "0"}, {"TRANSFORMERS_OFFLINE", "1"}}).offline);
  EXPECT_EQ(with({{"HF_TOKEN", " hf_a\n"}}).token, "hf_a");
  const qalof::testing::TempDir dir;
  std::ofstream(dir.file("token")) << "hf_file\n";
  EXPECT_EQ(with({{"HF_TOKEN_PATH", dir.file("token")}}).token, "hf_file");
  EXPECT_EQ(with({{"HF_HOME", dir.path()}}).token, "hf_file");
  EXPECT_EQ(with({{"HF_HOME", dir.path()}, {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}}).token, "");
  const auto error = error_of([&] { with({{"HF_TOKEN", "hf_a\r\nX-Other: 1"}}); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_THAT(error.message, Not(HasSubstr("hf_a")));
  EXPECT_EQ(error_of([&] { with({{"HF_ENDPOINT", "ftp://x"}}); }).kind, ErrorKind::kUsage);
  EXPECT_EQ(error_of([&] { with({{"HF_HUB_DOWNLOAD_TIMEOUT", "soon"}}); }).kind, ErrorKind::kUsage);
  with({});
}

TEST_F(HubTest, FillsPythonsCacheLayout) {
  const auto files = model_files();
  const FakeHub hub(files);
  const HubResult result = get(hub);
  EXPECT_EQ(result.path, in_repository("snapshots/" + std::string(kCommit)));
  EXPECT_EQ(result.commit, kCommit);
  EXPECT_THAT(result.files, ::testing::UnorderedElementsAre("config.json", "generation_config.json",
                                                            "tokenizer.json", "model.safetensors"));
  std::uint64_t bytes = 0;
  for (const std::string& name : result.files) {
    const FakeHub::File& file = files.at(name);
    bytes += file.bytes.size();
    EXPECT_EQ(fs::read_symlink(in_snapshot(name)), "../../blobs/" + FakeHub::hash_of(file));
    EXPECT_EQ(read(in_snapshot(name)), file.bytes);
    EXPECT_TRUE(
        fs::exists(dir_.file("hub/.locks/models--org--name/" + FakeHub::hash_of(file) + ".lock")));
  }
  EXPECT_EQ(result.bytes, bytes);
  EXPECT_EQ(result.downloaded, bytes);
  EXPECT_EQ(read(in_repository("refs/main")), kCommit);
  EXPECT_TRUE(fs::exists(in_repository(".no_exist/" + std::string(kCommit) + "/merges.txt")));
  EXPECT_FALSE(fs::exists(in_repository(".no_exist/" + std::string(kCommit) + "/config.json")));
  EXPECT_THAT(read(dir_.file("hub/CACHEDIR.TAG")),
              ::testing::StartsWith("Signature: 8a477f597d28d172789f06886806bc55\n"));
  EXPECT_EQ(lines_.last_done, lines_.last_total);
  expect_sound_blobs();
  // Nothing else is fetched, nor fetched twice.
  for (const HttpAsked& asked : hub.hub().asked()) {
    EXPECT_THAT(asked.path, Not(HasSubstr("pytorch_model")));
    EXPECT_THAT(asked.path, Not(HasSubstr("onnx/")));
  }
  EXPECT_EQ(get(hub).downloaded, 0U);
  EXPECT_EQ(stored_requests(hub), 1);
}

TEST_F(HubTest, WhatIsThereIsFoundWithoutAConnection) {
  const FakeHub hub(model_files());
  const HubName name = *parse_hub_name("org/name");
  std::string missing;
  EXPECT_EQ(find_in_cache(name, HubUse::kModel, settings(hub), true, &missing).path, "");
  EXPECT_THAT(missing, HasSubstr("revision main"));
  get(hub);
  const int before = hub.connections();
  for (const HubUse use : {HubUse::kAny, HubUse::kModel, HubUse::kTokenizer}) {
    const HubResult found = find_in_cache(name, use, settings(hub), true, &missing);
    EXPECT_EQ(found.path, in_repository("snapshots/" + std::string(kCommit))) << missing;
    EXPECT_EQ(found.downloaded, 0U);
  }
  EXPECT_EQ(find_in_cache(name, HubUse::kAdapter, settings(hub), true, &missing).path, "");
  EXPECT_THAT(missing, HasSubstr("adapter_config.json"));
  EXPECT_EQ(hub.connections(), before);
  fs::remove(in_snapshot("model.safetensors"));
  EXPECT_EQ(find_in_cache(name, HubUse::kModel, settings(hub), false, &missing).path, "");
  EXPECT_EQ(missing, "model.safetensors");
}

TEST_F(HubTest, ASnapshotOfPythonsIsEnoughOfflineAndCompletedOnline) {
  const FakeHub hub(model_files());
  get(hub);
  fs::remove_all(in_repository(".no_exist"));  // Python notes what it asked for alone
  const HubName name = *parse_hub_name("org/name");
  EXPECT_NE(find_in_cache(name, HubUse::kModel, settings(hub), false, nullptr).path, "");
  EXPECT_EQ(find_in_cache(name, HubUse::kModel, settings(hub), true, nullptr).path, "");
  EXPECT_EQ(get(hub).downloaded, 0U);
  EXPECT_NE(find_in_cache(name, HubUse::kModel, settings(hub), true, nullptr).path, "");
}

TEST_F(HubTest, TheTokenGoesToTheHubAndNowhereElse) {
  const FakeHub other(model_files());
  FakeHub hub(model_files());
  get(hub);
  ASSERT_FALSE(hub.hub().asked().empty());
  for (const HttpAsked& asked : hub.hub().asked())
    EXPECT_EQ(asked.header("authorization"), std::string("Bearer ") + kToken);
  ASSERT_FALSE(hub.storage().asked().empty());
  for (const HttpAsked& asked : hub.storage().asked()) {
    EXPECT_FALSE(asked.headers.contains("authorization"));
    for (const auto& [name, value] : asked.headers) EXPECT_THAT(value, Not(HasSubstr(kToken)));
  }
  // The same host at another port is another host.
  hub.instead = [&](const HttpAsked& asked) -> std::optional<HttpReply> {
    return HttpReply{307, {{"Location", other.url() + asked.path}}};
  };
  get(hub);
  ASSERT_FALSE(other.hub().asked().empty());
  for (const HttpAsked& asked : other.hub().asked())
    EXPECT_FALSE(asked.headers.contains("authorization"));
  EXPECT_THAT(lines_.text, Not(HasSubstr(kToken)));
  for (const auto& entry : fs::recursive_directory_iterator(dir_.path())) {
    if (entry.is_regular_file()) {
      EXPECT_EQ(read(entry.path().string()).find(kToken), std::string::npos);
    }
  }
}

TEST_F(HubTest, FollowsARenamedRepositoryOnTheHub) {
  FakeHub hub(model_files(), "new/place");
  hub.instead = [&](const HttpAsked& asked) -> std::optional<HttpReply> {
    const std::size_t at = asked.path.find("org/name");
    if (at == std::string::npos) return std::nullopt;
    std::string path = asked.path;
    return HttpReply{307, {{"Location", path.replace(at, 8, "new/place")}}, "moved"};
  };
  EXPECT_EQ(get(hub).files.size(), 4U);
  EXPECT_EQ(read(in_snapshot("model.safetensors")), model_files().at("model.safetensors").bytes);
}

TEST_F(HubTest, RedirectsAreFollowedToSafePlacesAlone) {
  FakeHub hub(model_files());
  std::string target;
  hub.instead = [&](const HttpAsked&) -> std::optional<HttpReply> {
    return HttpReply{302, {{"Location", target}}};
  };
  for (const char* place :
       {"http://192.0.2.1/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:1/x",
        "http://", "http://user@127.0.0.1/x", "http://127.0.0.1.example.com/x"}) {
    target = place;
    const auto error = refusal(hub);
    EXPECT_EQ(error.kind, ErrorKind::kNetwork) << place;
    EXPECT_THAT(error.message, HasSubstr("https address")) << place;
  }
  target = hub.url() + "/round";
  EXPECT_THAT(refusal(hub).message, HasSubstr("redirects more than"));
  EXPECT_FALSE(fs::exists(in_repository("blobs")));
}

TEST_F(HubTest, PlainHttpIsForThisMachine) {
  const FakeHub hub(model_files());
  HubSettings other = settings(hub);
  other.endpoint = "http://hub.example";
  const auto error = error_of(
      [&] { download(*parse_hub_name("org/name"), HubUse::kAny, other, lines_, nullptr); });
  EXPECT_EQ(error.kind, ErrorKind::kUsage);
  EXPECT_THAT(error.message, HasSubstr("https"));
  other.endpoint = "https://user:password@hub.example";
  const auto with_user = error_of(
      [&] { download(*parse_hub_name("org/name"), HubUse::kAny, other, lines_, nullptr); });
  EXPECT_EQ(with_user.kind, ErrorKind::kUsage);
  EXPECT_THAT(with_user.message, Not(HasSubstr("password")));
}

TEST_F(HubTest, ResumesWhereTheConnectionBreaks) {
  FakeHub hub(model_files());
  hub.spoil = [](const std::string& file, HttpReply& reply) {
    if (file == "model.safetensors" && reply.body.size() > 100'000) reply.cut_after = 70'001;
  };
  const HubResult result = get(hub);
  EXPECT_EQ(read(in_snapshot("model.safetensors")), model_files().at("model.safetensors").bytes);
  std::vector<std::string> ranges;
  for (const HttpAsked& asked : hub.storage().asked()) ranges.push_back(asked.header("range"));
  EXPECT_THAT(ranges, ElementsAre("", "bytes=70001-", "bytes=140002-", "bytes=210003-"));
  EXPECT_EQ(result.downloaded, result.bytes);
  EXPECT_EQ(lines_.last_done, lines_.last_total);
}

TEST_F(HubTest, ResumesWhatAnEarlierProcessLeft) {
  FakeHub hub(model_files());
  bool is_cut = true;
  hub.spoil = [&](const std::string& file, HttpReply& reply) {
    if (file == "model.safetensors" && is_cut && reply.status == 200) reply.cut_after = 120'000;
    if (file == "model.safetensors" && is_cut && reply.status == 206) reply.cut_after = 0;
  };
  EXPECT_EQ(refusal(hub).kind, ErrorKind::kNetwork);
  EXPECT_EQ(fs::file_size(incomplete_blob()), 120'000U);
  EXPECT_FALSE(fs::exists(in_snapshot("model.safetensors")));
  EXPECT_FALSE(fs::exists(in_repository("refs/main")));
  is_cut = false;
  const HubResult result = get(hub);
  EXPECT_EQ(result.downloaded, 180'000U);
  EXPECT_EQ(hub.storage().asked().back().header("range"), "bytes=120000-");
  EXPECT_EQ(incomplete_blob(), "");
  expect_sound_blobs();
}

TEST_F(HubTest, StartsAgainWhereTheServerKnowsNoRanges) {
  FakeHub hub(model_files());
  hub.knows_ranges = false;
  int cuts = 2;
  hub.spoil = [&](const std::string& file, HttpReply& reply) {
    if (file == "model.safetensors" && cuts-- > 0) reply.cut_after = 100'000;
  };
  EXPECT_EQ(get(hub).downloaded, 500'000U + 5000 + 23 + 2);
  EXPECT_EQ(lines_.last_done, lines_.last_total);
  expect_sound_blobs();
}

TEST_F(HubTest, ADamagedBeginningIsFetchedAgain) {
  FakeHub hub(model_files());
  bool is_cut = true;
  hub.spoil = [&](const std::string& file, HttpReply& reply) {
    if (file == "model.safetensors" && is_cut) reply.cut_after = reply.status == 200 ? 1000 : 0;
  };
  refusal(hub);
  is_cut = false;
  std::ofstream(incomplete_blob(), std::ios::binary) << std::string(100'000, 'x');
  get(hub);
  EXPECT_EQ(read(in_snapshot("model.safetensors")), model_files().at("model.safetensors").bytes);
  expect_sound_blobs();
  // One that is longer than the whole, too.
  fs::remove_all(in_repository("snapshots"));
  const std::string name = FakeHub::hash_of(model_files().at("model.safetensors"));
  fs::rename(in_repository("blobs/" + name), dir_.file("old"));
  is_cut = true;
  refusal(hub);
  is_cut = false;
  std::ofstream(incomplete_blob(), std::ios::binary) << std::string(400'000, 'x');
  get(hub);
  expect_sound_blobs();
}

TEST_F(HubTest, AWrongHashLeavesNothing) {
  for (const bool is_large : {true, false}) {
    fs::remove_all(dir_.file("hub"));
    auto files = model_files();
    const std::string name = is_large ? "model.safetensors" : "tokenizer.json";
    files[name].listed_hash = std::string(is_large ? 64 : 40, 'a');
    FakeHub hub(files);
    hub.instead_stored = [&](const HttpAsked&) -> std::optional<HttpReply> {
      return HttpReply{200, {}, files["model.safetensors"].bytes};
    };
    const auto error = refusal(hub);
    EXPECT_EQ(error.kind, ErrorKind::kNetwork);
    EXPECT_THAT(error.message, AllOf(HasSubstr(name), HasSubstr(is_large ? "sha256" : "git sha1"),
                                     HasSubstr("aaaa")));
    EXPECT_FALSE(fs::exists(in_snapshot(name)));
    EXPECT_EQ(incomplete_blob(), "");
    EXPECT_FALSE(fs::exists(in_repository("refs/main")));
    expect_sound_blobs();
  }
}

TEST_F(HubTest, AWrongLengthLeavesNothing) {
  for (const int difference : {-1, 1, -299'999}) {
    for (const bool tells : {true, false}) {
      fs::remove_all(dir_.file("hub"));
      FakeHub hub(model_files());
      hub.spoil = [&](const std::string& file, HttpReply& reply) {
        if (file != "model.safetensors" || reply.status != 200) return;
        reply.body.resize(
            static_cast<std::size_t>(static_cast<int>(reply.body.size()) + difference));
        reply.tells_length = tells;
      };
      hub.knows_ranges = tells;
      const auto error = refusal(hub);
      EXPECT_EQ(error.kind, ErrorKind::kNetwork) << difference << tells;
      EXPECT_THAT(error.message, AllOf(HasSubstr("model.safetensors"), HasSubstr("300000")))
          << difference << tells;
      EXPECT_FALSE(fs::exists(in_snapshot("model.safetensors")));
      expect_sound_blobs();
    }
  }
}

TEST_F(HubTest, ARangeOfOtherBytesIsRefused) {
  FakeHub hub(model_files());
  hub.spoil = [](const std::string& file, HttpReply& reply) {
    if (file != "model.safetensors") return;
    if (reply.status == 200) reply.cut_after = 1000;
    if (reply.status == 206) reply.headers = {{"Content-Range", "bytes 0-299999/300000"}};
  };
  EXPECT_EQ(refusal(hub).kind, ErrorKind::kNetwork);
  EXPECT_FALSE(fs::exists(in_snapshot("model.safetensors")));
  expect_sound_blobs();
}

TEST_F(HubTest, RefusalsOfTheHubSayWhatToDo) {
  FakeHub hub(model_files());
  struct Case {
    int status;
    const char* code;
    const char* message;
    const char* expected;
    ErrorKind kind;
  };
  for (const Case& one : std::initializer_list<Case>{
           {401, "RepoNotFound", "", "no such repository", ErrorKind::kNotFound},
           {401, "", "", "no such repository", ErrorKind::kNotFound},
           {404, "RepoNotFound", "", "no such repository", ErrorKind::kNotFound},
           {404, "RevisionNotFound", "", "no revision main", ErrorKind::kNotFound},
           {401, "GatedRepo", "", "accept its licence", ErrorKind::kNotFound},
           {403, "GatedRepo", "", "accept its licence", ErrorKind::kNotFound},
           {403, "", "", "accept its licence", ErrorKind::kNotFound},
           {401, "", "Invalid credentials in Authorization header", "does not accept the token",
            ErrorKind::kNotFound},
           {410, "", "This is gone", "410: This is gone", ErrorKind::kNetwork}}) {
    hub.instead = [&](const HttpAsked&) -> std::optional<HttpReply> {
      return HttpReply{
          one.status, {{"X-Error-Code", one.code}, {"X-Error-Message", one.message}}, "<html>"};
    };
    const std::size_t before = hub.hub().asked().size();
    const auto error = refusal(hub);
    EXPECT_EQ(error.kind, one.kind) << one.status << one.code;
    EXPECT_THAT(error.message, AllOf(HasSubstr("org/name"), HasSubstr(one.expected)));
    EXPECT_THAT(error.message, Not(HasSubstr(kToken)));
    EXPECT_EQ(hub.hub().asked().size(), before + 1) << "asked again in vain";
  }
}

TEST_F(HubTest, WithoutATokenTheAdviceIsToSetOne) {
  FakeHub hub(model_files());
  hub.instead = [&](const HttpAsked& asked) -> std::optional<HttpReply> {
    EXPECT_FALSE(asked.headers.contains("authorization"));
    return HttpReply{401, {{"X-Error-Code", "GatedRepo"}}};
  };
  HubSettings without = settings(hub);
  without.token.clear();
  const auto error = error_of(
      [&] { download(*parse_hub_name("org/name"), HubUse::kAny, without, lines_, nullptr); });
  EXPECT_THAT(error.message, HasSubstr("set HF_TOKEN"));
}

TEST_F(HubTest, PassingFailuresAreTriedAgain) {
  FakeHub hub(model_files());
  int failures = 0;
  for (const int status : {500, 502, 503, 429}) {
    failures = 2;
    hub.instead = [&](const HttpAsked&) -> std::optional<HttpReply> {
      if (failures-- <= 0) return std::nullopt;
      return HttpReply{status, {{"Retry-After", "0"}}};
    };
    EXPECT_EQ(get(hub).files.size(), 4U) << status;
  }
  hub.instead = nullptr;
  // The address of the storage is signed for a while: the hub is asked for a new one.
  fs::remove_all(dir_.file("hub"));
  failures = 2;
  hub.instead_stored = [&](const HttpAsked&) -> std::optional<HttpReply> {
    if (failures-- <= 0) return std::nullopt;
    return HttpReply{403};
  };
  EXPECT_EQ(get(hub).files.size(), 4U);
}

TEST_F(HubTest, LastingFailuresEnd) {
  FakeHub hub(model_files());
  hub.instead = [&](const HttpAsked&) -> std::optional<HttpReply> { return HttpReply{503}; };
  auto error = refusal(hub);
  EXPECT_EQ(error.kind, ErrorKind::kNetwork);
  EXPECT_THAT(error.message, HasSubstr("503"));
  EXPECT_EQ(hub.hub().asked().size(), 5U);
  hub.instead = [&](const HttpAsked&) -> std::optional<HttpReply> {
    return HttpReply{429, {{"Retry-After", "86400"}}};
  };
  error = refusal(hub);
  EXPECT_EQ(error.kind, ErrorKind::kNetwork);
  EXPECT_THAT(error.message, HasSubstr("86400 s"));
}

TEST_F(HubTest, ASilentServerIsGivenUpAndTriedAgain) {
  FakeHub hub(model_files());
  bool is_silent = true;
  hub.spoil = [&](const std::string& file, HttpReply& reply) {
    if (file != "model.safetensors" || !is_silent) return;
    is_silent = false;
    reply.piece = 200'000;
    reply.pause = std::chrono::seconds(30);
  };
  const auto begun = std::chrono::steady_clock::now();
  get(hub);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(10));
  EXPECT_EQ(stored_requests(hub), 2);
  expect_sound_blobs();
}

TEST_F(HubTest, OtherMachinesAreReachedThroughTheProxy) {
  const qalof::testing::LoopbackServer proxy("127.0.0.1",
                                             [](const HttpAsked&) { return HttpReply{502}; });
  const FakeHub hub(model_files());
  HubSettings far = settings(hub);
  far.endpoint = "https://hub.invalid";
  ::setenv("https_proxy", proxy.url().c_str(), 1);
  ::setenv("http_proxy", proxy.url().c_str(), 1);
  const auto error =
      error_of([&] { download(*parse_hub_name("org/name"), HubUse::kAny, far, lines_, nullptr); });
  EXPECT_EQ(error.kind, ErrorKind::kNetwork);
  ASSERT_FALSE(proxy.asked().empty());
  for (const HttpAsked& asked : proxy.asked()) {
    EXPECT_EQ(asked.path, "hub.invalid:443");
    EXPECT_FALSE(asked.headers.contains("authorization"));
  }
  const std::size_t before = proxy.asked().size();
  get(hub);  // on this machine
  EXPECT_EQ(proxy.asked().size(), before);
  ::unsetenv("https_proxy");
  ::unsetenv("http_proxy");
}

TEST_F(HubTest, AHostWithoutAnAddressIsAFailureOfTheNetwork) {
  HubSettings nowhere;
  nowhere.endpoint = "https://hub.invalid";
  nowhere.cache = dir_.file("hub");
  nowhere.connect_seconds = 2;
  nowhere.retry_seconds = 0.01;
  const auto error = error_of(
      [&] { download(*parse_hub_name("org/name"), HubUse::kAny, nowhere, lines_, nullptr); });
  EXPECT_EQ(error.kind, ErrorKind::kNetwork);
  EXPECT_THAT(error.message, HasSubstr("hub.invalid"));
}

TEST_F(HubTest, NobodyThereIsAFailureOfTheNetwork) {
  HubSettings settings;
  {
    const FakeHub hub(model_files());
    settings = this->settings(hub);
  }
  const auto error = error_of(
      [&] { download(*parse_hub_name("org/name"), HubUse::kAny, settings, lines_, nullptr); });
  EXPECT_EQ(error.kind, ErrorKind::kNetwork);
  EXPECT_THAT(error.message, AllOf(HasSubstr("org/name"), HasSubstr("--offline")));
}

TEST_F(HubTest, HostileNamesLeadNowhere) {
  const std::string shard = "model-00001-of-00001.safetensors";
  for (const char* name :
       {"../../../evil.safetensors", "/tmp/evil.safetensors", "..", "a/evil.safetensors",
        "-evil.safetensors", "evil\n.safetensors", "", "evil.bin", "evil\\..\\x.safetensors"}) {
    fs::remove_all(dir_.file("hub"));
    auto files = model_files();
    files.erase("model.safetensors");
    files[shard] = {noise(1000), true, "", name};
    files["model.safetensors.index.json"] = {Json({{"weight_map", {{"tensor", name}}}}).dump()};
    const FakeHub hub(files);
    EXPECT_EQ(refusal(hub).kind, ErrorKind::kCorruptFile) << name;
    EXPECT_EQ(stored_requests(hub), 0) << name;
  }
  for (const auto& entry : fs::recursive_directory_iterator(dir_.path()))
    EXPECT_THAT(entry.path().filename().string(), Not(HasSubstr("evil")));
}

TEST_F(HubTest, HostileListsAreRefused) {
  FakeHub hub(model_files());
  const auto answers = [&](const std::string& revision, const std::string& tree) {
    hub.instead = [=](const HttpAsked& asked) -> std::optional<HttpReply> {
      if (asked.path.find("/revision/") != std::string::npos && !revision.empty())
        return HttpReply{200, {}, revision};
      if (asked.path.find("/tree/") != std::string::npos && !tree.empty())
        return HttpReply{200, {}, tree};
      return std::nullopt;
    };
    return refusal(hub);
  };
  const std::string file = R"("type":"file","path":"config.json")";
  for (const char* revision :
       {"{}", "[]", "x", R"({"sha":1})", R"({"sha":"../../x"})", R"({"sha":"0123"})", "<html>",
        R"({"sha":"0123456789ABCDEF0123456789abcdef01234567"})"}) {
    EXPECT_EQ(answers(revision, "").kind, ErrorKind::kNetwork) << revision;
  }
  for (const std::string& tree :
       {std::string("{}"), std::string("[1]"), std::string("[{}]"), "[{" + file + "}]",
        "[{" + file + R"(,"size":-1,"oid":"0123456789012345678901234567890123456789"}])",
        "[{" + file + R"(,"size":1e30,"oid":"0123456789012345678901234567890123456789"}])",
        "[{" + file + R"(,"size":1,"oid":"../../../../../../../../../../../etc/passwd"}])",
        "[{" + file + R"(,"size":1,"oid":"0123"}])",
        "[{" + file + R"(,"size":1,"oid":"x","lfs":[]}])",
        "[{" + file + R"(,"size":1,"oid":"x","lfs":{"oid":"0123","size":1}}])"}) {
    const auto error = answers("", tree);
    EXPECT_TRUE(error.kind == ErrorKind::kCorruptFile || error.kind == ErrorKind::kBadInput)
        << tree;
  }
  EXPECT_FALSE(fs::exists(in_repository("blobs")));
}

TEST_F(HubTest, AListMayHavePagesButEnds) {
  FakeHub hub(model_files());
  hub.page_size = 2;
  EXPECT_EQ(get(hub).files.size(), 4U);
  const std::string self = hub.url() + "/api/models/org/name/tree/" + kCommit;
  hub.instead = [&](const HttpAsked& asked) -> std::optional<HttpReply> {
    if (asked.path.find("/tree/") == std::string::npos) return std::nullopt;
    return HttpReply{200, {{"Link", "<" + self + ">; rel=\"next\""}}, "[]"};
  };
  EXPECT_THAT(refusal(hub).message, HasSubstr("does not end"));
  hub.instead = [&](const HttpAsked& asked) -> std::optional<HttpReply> {
    if (asked.path.find("/tree/") == std::string::npos) return std::nullopt;
    return HttpReply{200, {{"Link", "<" + hub.storage().url() + "/x>; rel=\"next\""}}, "[]"};
  };
  EXPECT_EQ(refusal(hub).kind, ErrorKind::kNetwork);
  EXPECT_EQ(stored_requests(hub), 1);
}

TEST_F(HubTest, ShardsComeByTheirIndex) {
  auto files = model_files();
  files.erase("model.safetensors");
  const std::string first = "model-00001-of-00002.safetensors",
                    second = "model-00002-of-00002.safetensors";
  files[first] = {noise(50'000), true};
  files[second] = {noise(60'000), true};
  files["model-00003-of-00003.safetensors"] = {"another", true};
  files["model.safetensors.index.json"] = {
      Json({{"weight_map", {{"a", first}, {"b", second}, {"c", first}}}}).dump()};
  const FakeHub hub(files);
  const HubResult result = get(hub);
  EXPECT_EQ(read(in_snapshot(second)), files[second].bytes);
  EXPECT_FALSE(fs::exists(in_snapshot("model-00003-of-00003.safetensors")));
  const HubName name = *parse_hub_name("org/name");
  const HubResult found = find_in_cache(name, HubUse::kModel, settings(hub), true, nullptr);
  EXPECT_EQ(found.bytes, result.bytes);
  EXPECT_THAT(found.files, ::testing::UnorderedElementsAreArray(result.files));
  fs::remove(in_snapshot(second));
  std::string missing;
  EXPECT_EQ(find_in_cache(name, HubUse::kModel, settings(hub), false, &missing).path, "");
  EXPECT_EQ(missing, second);
}

TEST_F(HubTest, OneFileOfWeightsIsPreferredToShards) {
  auto files = model_files();
  files["model.safetensors.index.json"] = {R"({"weight_map": {"a": "x.safetensors"}})"};
  EXPECT_EQ(get(FakeHub(files)).files.size(), 4U);
}

TEST_F(HubTest, PicklesAreRefusedByName) {
  auto files = model_files();
  files.erase("model.safetensors");
  const FakeHub hub(files);
  const auto error = refusal(hub);
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("run code")));
  EXPECT_EQ(stored_requests(hub), 0);
  const FakeHub adapter({{"adapter_config.json", {"{}"}}, {"adapter_model.bin", {"p", true}}});
  EXPECT_THAT(refusal(adapter, "org/name", HubUse::kAdapter).message,
              HasSubstr("adapter_model.bin"));
}

TEST_F(HubTest, GgufFilesComeByName) {
  const std::string first = "q4/m-00001-of-00002.gguf", second = "q4/m-00002-of-00002.gguf";
  const FakeHub hub({{"m-q8_0.gguf", {noise(9000), true}},
                     {first, {noise(7000), true}},
                     {second, {noise(6000), true}},
                     {"README.md", {"#"}}});
  const HubResult one = get(hub, "org/name/m-q8_0.gguf@v1");
  EXPECT_EQ(one.path, in_snapshot("m-q8_0.gguf"));
  EXPECT_THAT(one.files, ElementsAre("m-q8_0.gguf"));
  EXPECT_EQ(read(in_repository("refs/v1")), kCommit);
  const HubResult parts = get(hub, "org/name/" + first);
  EXPECT_EQ(parts.path, in_snapshot(first));
  EXPECT_THAT(parts.files, ElementsAre(first, second));
  EXPECT_EQ(fs::read_symlink(in_snapshot(second)).string().substr(0, 15), "../../../blobs/");
  EXPECT_EQ(read(in_snapshot(second)), noise(6000));
  std::string missing;
  const HubName name = *parse_hub_name("org/name/" + first);
  EXPECT_EQ(find_in_cache(name, HubUse::kAny, settings(hub), true, &missing).path, parts.path);
  fs::remove(in_snapshot(second));
  EXPECT_EQ(find_in_cache(name, HubUse::kAny, settings(hub), true, &missing).path, "");
  EXPECT_EQ(missing, second);
  const auto whole = refusal(hub);
  EXPECT_EQ(whole.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(whole.message, HasSubstr("m-q8_0.gguf"));
  EXPECT_THAT(refusal(hub, "org/name/other.gguf").message, HasSubstr("m-q8_0.gguf"));
}

TEST_F(HubTest, AdaptersOfOneAndOfSeveralWidths) {
  const FakeHub plain({{"adapter_config.json", {"{}"}},
                       {"adapter_model.safetensors", {noise(900), true}},
                       {"tokenizer.json", {"{}"}},
                       {"optimizer.pt", {"p", true}}});
  EXPECT_THAT(get(plain, "org/name", HubUse::kAdapter).files,
              ElementsAre("adapter_config.json", "adapter_model.safetensors"));
  fs::remove_all(dir_.file("hub"));
  const FakeHub ours({{"qalof.json", {"{}"}},
                      {"w4/adapter_config.json", {"{}"}},
                      {"w4/adapter_model.safetensors", {noise(900), true}},
                      {"w4/quant.safetensors", {noise(90), true}},
                      {"w8/adapter_config.json", {"{ }"}},
                      {"w8/adapter_model.safetensors", {noise(800), true}},
                      {"checkpoint-10/w8/adapter_config.json", {"{}"}},
                      {"trainer_state.json", {"{}"}}});
  EXPECT_THAT(get(ours, "org/name", HubUse::kAdapter).files,
              ElementsAre("qalof.json", "w4/adapter_config.json", "w4/adapter_model.safetensors",
                          "w4/quant.safetensors", "w8/adapter_config.json",
                          "w8/adapter_model.safetensors"));
  for (const FakeHub* hub : {&plain, &ours}) {
    const auto error = refusal(*hub, "org/name", HubUse::kModel);
    EXPECT_EQ(error.kind, ErrorKind::kBadInput);
    EXPECT_THAT(error.message, HasSubstr("give it as --adapter"));
  }
  EXPECT_THAT(refusal(FakeHub(model_files()), "org/name", HubUse::kAdapter).message,
              HasSubstr("give it as --model_name_or_path"));
  EXPECT_THAT(
      refusal(FakeHub(FakeHub::Files{{"README.md", {"#"}}}), "org/name", HubUse::kModel).message,
      HasSubstr("no config.json"));
}

TEST_F(HubTest, TwoAtOnceFetchEachFileOnce) {
  FakeHub hub(model_files(2'000'000));
  hub.spoil = [](const std::string& file, HttpReply& reply) {
    if (file != "model.safetensors") return;
    reply.piece = 400'000;
    reply.pause = std::chrono::milliseconds(60);
  };
  std::vector<std::thread> threads;
  std::vector<std::string> paths(3);
  for (std::string& path : paths) {
    threads.emplace_back([&] {
      Observer silent;
      path =
          download(*parse_hub_name("org/name"), HubUse::kAny, settings(hub), silent, nullptr).path;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& path : paths) EXPECT_EQ(path, paths.front());
  EXPECT_EQ(stored_requests(hub), 1);
  EXPECT_EQ(read(in_snapshot("model.safetensors")), noise(2'000'000));
  expect_sound_blobs();
}

// Small files, so that several threads show the same file at the same time.
TEST_F(HubTest, SeveralAtOnceShowTheSameFiles) {
  FakeHub hub(model_files(1'000));
  for (const bool symlinks : {true, false}) {
    for (int round = 0; round < 20; ++round) {
      HubSettings use = settings(hub);
      use.symlinks = symlinks;
      fs::remove_all(use.cache);
      std::vector<std::thread> threads;
      std::vector<std::string> errors(4);
      for (std::string& error : errors) {
        threads.emplace_back([&] {
          Observer silent;
          try {
            download(*parse_hub_name("org/name"), HubUse::kAny, use, silent, nullptr);
          } catch (const Error& thrown) {
            error = thrown.what();
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      for (const std::string& error : errors) EXPECT_EQ(error, "");
      EXPECT_EQ(read(in_snapshot("model.safetensors")), noise(1'000));
    }
  }
}

TEST_F(HubTest, StopsWhenAskedAndKeepsWhatCame) {
  FakeHub hub(model_files());
  hub.spoil = [](const std::string& file, HttpReply& reply) {
    if (file != "model.safetensors" || reply.status != 200) return;
    reply.piece = 100'000;
    reply.pause = std::chrono::milliseconds(100);
  };
  HubSettings patient = settings(hub);
  patient.silence_seconds = 30;
  const auto error = error_of([&] {
    download(*parse_hub_name("org/name"), HubUse::kAny, patient, lines_, [&] {
      return fs::exists(in_repository("blobs")) && !incomplete_blob().empty() &&
             fs::file_size(incomplete_blob()) >= 100'000;
    });
  });
  EXPECT_EQ(error.kind, ErrorKind::kInterrupted);
  const std::uintmax_t kept = fs::file_size(incomplete_blob());
  EXPECT_GE(kept, 100'000U);
  EXPECT_EQ(get(hub).downloaded, 300'000U - kept);
  expect_sound_blobs();
}

TEST_F(HubTest, ABlobOfAnotherSizeIsReplaced) {
  const FakeHub hub(model_files());
  get(hub);
  const std::string blob =
      in_repository("blobs/" + FakeHub::hash_of(model_files().at("model.safetensors")));
  fs::resize_file(blob, 1000);
  EXPECT_EQ(get(hub).downloaded, 300'000U);
  EXPECT_EQ(read(in_snapshot("model.safetensors")), noise(300'000));
}

TEST_F(HubTest, WithoutLinksFilesStandInTheSnapshot) {
  const FakeHub hub(model_files());
  HubSettings plain = settings(hub);
  plain.symlinks = false;
  const HubName name = *parse_hub_name("org/name");
  download(name, HubUse::kAny, plain, lines_, nullptr);
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(in_snapshot("model.safetensors"))));
  EXPECT_EQ(read(in_snapshot("model.safetensors")), noise(300'000));
  EXPECT_EQ(download(name, HubUse::kAny, plain, lines_, nullptr).downloaded, 0U);
}

TEST_F(HubTest, WhatDoesNotFitOnTheDiskIsNotBegun) {
  auto files = model_files();
  files["model.safetensors"].listed_size = std::size_t{1} << 49;
  const FakeHub hub(files);
  const auto error = refusal(hub);
  EXPECT_EQ(error.kind, ErrorKind::kResource);
  EXPECT_THAT(error.message, AllOf(HasSubstr("562949953 MB"), HasSubstr("HF_HUB_CACHE")));
  EXPECT_EQ(stored_requests(hub), 0);
}

TEST_F(HubTest, ANewCommitReplacesTheOldOneWhenItIsWhole) {
  FakeHub hub(model_files());
  get(hub);
  const std::string newer(40, 'b');
  bool is_broken = true;
  hub.instead = [&](const HttpAsked& asked) -> std::optional<HttpReply> {
    if (asked.path.find("/revision/") != std::string::npos)
      return HttpReply{200, {}, Json({{"sha", newer}}).dump()};
    if (asked.path.find("/tree/") != std::string::npos) {
      Json page = Json::array();
      for (const auto& [path, text] :
           {std::pair{"config.json", "{}"}, {"model.safetensors", "w"}}) {
        page.push_back({{"type", "file"},
                        {"path", path},
                        {"size", std::string(text).size()},
                        {"oid", FakeHub::hash_of({text})}});
      }
      return HttpReply{200, {}, page.dump()};
    }
    if (asked.path.ends_with("model.safetensors") && is_broken) return HttpReply{500};
    return HttpReply{200, {}, asked.path.ends_with("config.json") ? "{}" : "w"};
  };
  EXPECT_EQ(refusal(hub).kind, ErrorKind::kNetwork);
  EXPECT_EQ(read(in_repository("refs/main")), kCommit);
  const HubName name = *parse_hub_name("org/name");
  EXPECT_EQ(find_in_cache(name, HubUse::kModel, settings(hub), true, nullptr).commit, kCommit);
  is_broken = false;
  get(hub);
  EXPECT_EQ(read(in_repository("refs/main")), newer);
  EXPECT_EQ(find_in_cache(name, HubUse::kModel, settings(hub), true, nullptr).commit, newer);
}

TEST_F(HubTest, TheRepositoryOfASnapshotIsKnown) {
  EXPECT_EQ(find_hub_repository(in_repository("snapshots/" + std::string(kCommit))), "org/name");
  for (const char* path :
       {"/a/models--org--name/snapshots/main", "/a/snapshots", "model", "",
        "/a/datasets--org--name/snapshots/0123456789abcdef0123456789abcdef01234567"}) {
    EXPECT_EQ(find_hub_repository(path), "") << path;
  }
}

}  // namespace hub_test
}  // namespace qalof::io
