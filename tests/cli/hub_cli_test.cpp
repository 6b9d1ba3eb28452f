// Names of a hub's repositories on the command line, beside a fake hub: what a script sees, that
// offline means no connection, and what kill -9 leaves.
#include <gmock/gmock.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "cli/program.h"
#include "support/fake_hub.h"

namespace qalof::cli {
namespace hub_cli_test {

namespace fs = std::filesystem;
using qalof::testing::FakeHub;
using qalof::testing::HttpAsked;
using qalof::testing::HttpReply;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kToken = "hf_secretsecretsecret";

class HubCliTest : public CliTest {
 protected:
  HubCliTest() {
    FakeHub::Files files;
    for (const auto& entry : fs::directory_iterator(QALOF_SOURCE_DIR "/assets/nano/model")) {
      const std::string name = entry.path().filename().string();
      files[name] = {slurp(entry.path().string()), name == "model.safetensors"};
    }
    weights_ = FakeHub::hash_of(files.at("model.safetensors"));
    hub_ = std::make_unique<FakeHub>(files);
  }
  void SetUp() override {
    if (run("doctor").out.find("rejected    downloads") != std::string::npos)
      GTEST_SKIP() << "no libcurl";
  }
  /// Variables of a user who has nothing but this hub and a token.
  std::string variables() const {
    return "env -u HF_HOME -u HF_HUB_OFFLINE -u TRANSFORMERS_OFFLINE -u http_proxy HF_ENDPOINT=" +
           hub_->url() + " HF_HUB_CACHE=" + dir_.file("hub") + " HF_TOKEN=" + kToken + " ";
  }
  ProgramRun run_here(const std::string& arguments, const std::string& more = "") {
    return run_behind("cd " + dir_.path() + " && " + variables() + more, arguments);
  }
  std::string in_repository(const std::string& path) const {
    return dir_.file("hub/models--org--name/" + path);
  }
  std::string snapshot() const { return in_repository("snapshots/") + FakeHub::kCommit; }
  void expect_sound_blobs() const {
    if (!fs::exists(in_repository("blobs"))) return;
    for (const auto& entry : fs::directory_iterator(in_repository("blobs"))) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".incomplete")) continue;
      EXPECT_EQ(FakeHub::hash_of({slurp(entry.path().string()), name.size() == 64}), name);
    }
  }
  /// Weights in small pieces with a pause after each.
  void slow_down(std::size_t piece, int milliseconds) const {
    hub_->spoil = [=](const std::string& file, HttpReply& reply) {
      if (file != "model.safetensors") return;
      reply.piece = piece;
      reply.pause = std::chrono::milliseconds(milliseconds);
    };
  }
  /// The program in a process of its own, its output in a file.
  pid_t start_download(const std::string& output) const {
    const pid_t child = ::fork();
    if (child != 0) return child;
    const std::string command =
        "exec " + variables() + QALOF_BINARY_DIR + "/qalof download org/name >" + output + " 2>&1";
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }

  std::unique_ptr<FakeHub> hub_;
  std::string weights_;  // name of the weights' blob
};

TEST_F(HubCliTest, DownloadPrintsWhereTheFilesAre) {
  const ProgramRun first = run_here("download org/name");
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(first.out, snapshot() + "\n");
  EXPECT_THAT(first.err, HasSubstr("4 files"));
  EXPECT_THAT(first.err, Not(HasSubstr(kToken)));
  const ProgramRun second = run_here("download org/name --json");
  const Json json = Json::parse(second.out);
  EXPECT_EQ(json["path"], snapshot());
  EXPECT_EQ(json["commit"], FakeHub::kCommit);
  EXPECT_EQ(json["files"].size(), 4U);
  EXPECT_GT(json["bytes"], 1'800'000);
  EXPECT_EQ(json["downloaded"], 0);
}

TEST_F(HubCliTest, CommandsTakeNamesInPlaceOfPaths) {
  const std::string prompt = "generate --quiet --prompt Hugo --max_new_tokens 8 --precision 8 ";
  const ProgramRun local =
      run_here(prompt + "--model_name_or_path " QALOF_SOURCE_DIR "/assets/nano/model");
  const ProgramRun named = run_here(prompt + "--model_name_or_path org/name");
  EXPECT_EQ(named.code, 0) << named.err;
  EXPECT_EQ(named.out, local.out);
  // From here on everything is there.
  const int connections = hub_->connections();
  for (const std::string arguments :
       {"tokenize --model_name_or_path org/name", "inspect org/name",
        "quantize --model_name_or_path org/name --bit_widths 4 --output packed",
        "init --config_name org/name --tokenizer_name org/name --output_dir made"}) {
    const ProgramRun found = run_here(arguments);
    EXPECT_EQ(found.code, 0) << arguments << found.err;
  }
  EXPECT_EQ(hub_->connections(), connections);
  // The packed file names the repository, not a place on this machine.
  EXPECT_NE(slurp(dir_.file("packed")).find("org/name"), std::string::npos);
  EXPECT_EQ(slurp(dir_.file("packed")).find("models--org--name"), std::string::npos);
}

TEST_F(HubCliTest, ALocalPathWins) {
  fs::create_directories(dir_.file("org/name"));
  const ProgramRun found = run_here("inspect org/name");
  EXPECT_EQ(found.code, 3);
  EXPECT_EQ(hub_->connections(), 0);
}

TEST_F(HubCliTest, APathThatIsMistypedIsNotAskedFor) {
  fs::create_directories(dir_.file("org"));
  for (const char* model : {"org/nmae", "./org/name", "a/b/c", "/tmp/none/x", "gpt2"}) {
    const ProgramRun found =
        run_here(std::string("generate --prompt x --model_name_or_path ") + model);
    EXPECT_EQ(found.code, 3) << model << found.err;
    EXPECT_THAT(found.err, HasSubstr(model));
    EXPECT_THAT(found.err, HasSubstr("hub"));
  }
  EXPECT_EQ(hub_->connections(), 0);
}

TEST_F(HubCliTest, OfflineMakesNoConnection) {
  for (const char* variable : {"HF_HUB_OFFLINE=1 ", "TRANSFORMERS_OFFLINE=TRUE "}) {
    for (const char* arguments :
         {"download org/name", "tokenize --model_name_or_path org/name",
          "generate --prompt x --model_name_or_path org/name", "inspect org/name"}) {
      const ProgramRun found = run_here(arguments, variable);
      EXPECT_EQ(found.code, 6) << arguments << found.err;
      EXPECT_THAT(found.err, HasSubstr("offline"));
    }
  }
  EXPECT_EQ(run_here("download org/name --offline").code, 6);
  EXPECT_EQ(hub_->connections(), 0);
  ASSERT_EQ(run_here("download org/name").code, 0);
  const int connections = hub_->connections();
  EXPECT_EQ(run_here("download org/name --offline").out, snapshot() + "\n");
  EXPECT_EQ(run_here("generate --prompt Hugo --max_new_tokens 1 --model_name_or_path org/name",
                     "HF_HUB_OFFLINE=1 ")
                .code,
            0);
  EXPECT_EQ(hub_->connections(), connections);
}

// In a process that dies of its first connect(2).
TEST_F(HubCliTest, OfflineDoesNotEvenTryToConnect) {
  ASSERT_EQ(run_here("download org/name").code, 0);
  for (const char* arguments :
       {"download org/name --offline", "download org/name",
        "generate --prompt Hugo --max_new_tokens 1 --model_name_or_path org/name"}) {
    const bool is_offline = std::string(arguments) != "download org/name";
    const std::string command = "exec " + variables() + (is_offline ? "HF_HUB_OFFLINE=1 " : "") +
                                QALOF_BINARY_DIR + "/qalof " + arguments + " >" + dir_.file("log") +
                                " 2>&1";
    const pid_t child = ::fork();
    if (child == 0) {
      sock_filter steps[] = {
          BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_connect, 0, 1),
          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      };
      const sock_fprog program{4, steps};
      if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
          ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        ::_exit(99);
      }
      ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      ::_exit(98);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 99) GTEST_SKIP() << "no seccomp here";
    // The filter does see a program that connects.
    EXPECT_EQ(WIFSIGNALED(status), !is_offline) << arguments << slurp(dir_.file("log"));
    if (!is_offline) continue;
    EXPECT_EQ(status, 0) << arguments << slurp(dir_.file("log"));
  }
}

#ifdef QALOF_HAS_TRAIN
TEST_F(HubCliTest, AdaptersNameTheirBaseAndAreServedByName) {
  std::ofstream(dir_.file("text.txt")) << "Hugo lives in Selby. Nora has lost a wool scarf.\n";
  const std::string flags = " --task lm --max_seq_length 16 --model_name_or_path org/name ";
  const ProgramRun trained = run_here(
      "train --method lora --train_file text.txt --max_steps 1 --bit_widths 8 "
      "--output_dir trained" +
      flags);
  ASSERT_EQ(trained.code, 0) << trained.err;
  const Json config = Json::parse(slurp(dir_.file("trained/w32/adapter_config.json")));
  EXPECT_EQ(config["base_model_name_or_path"], "org/name");
  // The output, uploaded as it is, is another repository.
  FakeHub::Files files;
  for (const auto& entry : fs::recursive_directory_iterator(dir_.file("trained"))) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().lexically_relative(dir_.file("trained")).string();
    files[name] = {slurp(entry.path().string()), name.ends_with(".safetensors")};
  }
  const FakeHub adapters(files, "org/adapter");
  const std::string eval = "eval --json --validation_file text.txt" + flags + "--adapter ";
  const ProgramRun named = run_here(eval + "org/adapter", "HF_ENDPOINT=" + adapters.url() + " ");
  EXPECT_EQ(named.code, 0) << named.err;
  const ProgramRun local = run_here(eval + "trained");
  EXPECT_EQ(Json::parse(named.out)["eval_loss"], Json::parse(local.out)["eval_loss"]);
}
#endif

TEST_F(HubCliTest, RefusalsHaveTheirExitCodes) {
  struct Case {
    const char* arguments;
    int code;
    const char* named;
  };
  for (const Case& one :
       std::initializer_list<Case>{{"download gpt2", 2, "org/name"},
                                   {"download", 2, "name"},
                                   {"download ../../etc/passwd", 2, "org/name"},
                                   {"download org/name/pytorch_model.bin", 3, "run code"},
                                   {"download org/other", 3, "no such repository"},
                                   {"download org/name/none.gguf", 3, "none.gguf"},
                                   {"generate --prompt x --model_name_or_path org/other", 3,
                                    "no file or directory org/other"}}) {
    const ProgramRun found = run_here(one.arguments);
    EXPECT_EQ(found.code, one.code) << one.arguments << found.err;
    EXPECT_THAT(found.err, HasSubstr(one.named));
    EXPECT_THAT(found.err, Not(HasSubstr(kToken)));
    EXPECT_EQ(found.out, "");
  }
  const ProgramRun dead =
      run_here("download org/name", "HF_ENDPOINT=http://127.0.0.1:1 HF_HUB_ETAG_TIMEOUT=1 ");
  EXPECT_EQ(dead.code, 6) << dead.err;
  EXPECT_EQ(run_here("download org/name", "HF_ENDPOINT=http://example.com ").code, 2);
}

TEST_F(HubCliTest, WhatTheCacheHoldsIsUsedWhereTheHubFails) {
  ASSERT_EQ(run_here("download org/name").code, 0);
  fs::remove_all(in_repository(".no_exist"));  // as after Python: the hub would be asked
  hub_->instead = [](const HttpAsked&) -> std::optional<HttpReply> {
    return HttpReply{500, {{"Retry-After", "0"}}};
  };
  const ProgramRun found =
      run_here("generate --prompt Hugo --max_new_tokens 1 --model_name_or_path org/name");
  EXPECT_EQ(found.code, 0) << found.err;
  EXPECT_THAT(found.err, HasSubstr("using what the cache holds"));
  EXPECT_EQ(run_here("download org/name").code, 6);
}

TEST_F(HubCliTest, KilledAtAnyTimeLeavesNoBadBlobAndResumes) {
  slow_down(100'000, 20);
  for (int kill = 0; kill < 8; ++kill) {
    const pid_t child = start_download(dir_.file("log"));
    std::this_thread::sleep_for(std::chrono::milliseconds(40 + 47 * kill % 300));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    expect_sound_blobs();
  }
  const ProgramRun last = run_here("download org/name");
  EXPECT_EQ(last.code, 0) << last.err;
  EXPECT_EQ(slurp(snapshot() + "/model.safetensors"),
            slurp(QALOF_SOURCE_DIR "/assets/nano/model/model.safetensors"));
  bool was_resumed = false;
  for (const HttpAsked& asked : hub_->storage().asked())
    was_resumed = was_resumed || asked.headers.contains("range");
  EXPECT_TRUE(was_resumed);
  for (const auto& entry : fs::directory_iterator(in_repository("blobs")))
    EXPECT_NE(entry.path().extension(), ".incomplete");
  expect_sound_blobs();
}

TEST_F(HubCliTest, ProcessesAtOnceShareOneDownload) {
  slow_down(400'000, 50);
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i)
    children.push_back(start_download(dir_.file("log" + std::to_string(i))));
  for (std::size_t i = 0; i < children.size(); ++i) {
    int status = 0;
    ::waitpid(children[i], &status, 0);
    EXPECT_EQ(status, 0) << slurp(dir_.file("log" + std::to_string(i)));
    EXPECT_THAT(slurp(dir_.file("log" + std::to_string(i))), HasSubstr(snapshot() + "\n"));
  }
  EXPECT_EQ(hub_->storage().asked().size(), 1U);
  expect_sound_blobs();
}

TEST_F(HubCliTest, AnInterruptSaysHowToResume) {
  slow_down(100'000, 100);
  const pid_t child = start_download(dir_.file("log"));
  const std::string storage = in_repository("blobs");
  while (hub_->storage().asked().empty()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  ::kill(child, SIGINT);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_THAT(slurp(dir_.file("log")), HasSubstr("the same command resumes"));
  slow_down(1 << 20, 0);
  EXPECT_EQ(run_here("download org/name").code, 0);
  EXPECT_TRUE(hub_->storage().asked().back().headers.contains("range"));
  expect_sound_blobs();
}

TEST_F(HubCliTest, TheProgramStartsWithoutTheLibraryOfDownloads) {
  const std::string command = "LD_DEBUG=files " QALOF_BINARY_DIR
                              "/qalof --version 2>&1 | grep -c libcurl >" +
                              dir_.file("count");
  EXPECT_NE(std::system(command.c_str()), 0);
  EXPECT_EQ(slurp(dir_.file("count")), "0\n");
}

}  // namespace hub_cli_test
}  // namespace qalof::cli
