// One run in several processes, started as a launcher starts them: the same bytes as in one, and
// one sentence where something goes wrong.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "program.h"

namespace qalof::cli {
namespace processes_cli_test {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

// A port that was free a moment ago; the listener holds it while it lives.
class Port {
 public:
  Port() : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(fd_, 1), 0);
    EXPECT_EQ(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    number_ = ntohs(address.sin_port);
  }
  ~Port() { ::close(fd_); }
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;
  int number() const { return number_; }

 private:
  int fd_, number_ = 0;
};
int free_port() { return Port().number(); }

class ProcessesCliTest : public CliTest {
 protected:
  ProcessesCliTest() { write_tiny_model(); }
  void SetUp() override {
#ifndef QALOF_HAS_TRAIN
    GTEST_SKIP() << "built without training";
#endif
    if (slurp(QALOF_BINARY_DIR "/CMakeCache.txt").find("QALOF_HAS_GLOO:BOOL=ON") ==
        std::string::npos) {
      GTEST_SKIP() << "built without Gloo";
    }
  }

  // Ten windows in micro-batches of one, four a step: the last step of an epoch has two.
  std::string train(const std::string& output, const std::string& more) const {
    return "--threads 1 --model_name_or_path " + dir_.file("model") +
           " --max_seq_length 48 --per_device_train_batch_size 1 --lora_r 2 --warmup_steps 2 "
           "--logging_steps 1 --ddp_timeout 20 --output_dir " +
           dir_.file(output) + " " + more;
  }
  static std::string questions() {
    return " --train_file " QALOF_SOURCE_DIR
           "/assets/nano/data/train.json --max_train_samples 10 --doc_stride 16 ";
  }

  // The process of a rank, of `size`; arguments are those of train.
  pid_t start(int rank, int size, int port, const std::string& arguments) {
    const std::string log = dir_.file("rank" + std::to_string(rank));
    const std::string command =
        "exec env RANK=" + std::to_string(rank) + " LOCAL_RANK=" + std::to_string(rank) +
        " WORLD_SIZE=" + std::to_string(size) + " LOCAL_WORLD_SIZE=" + std::to_string(size) +
        " MASTER_ADDR=127.0.0.1 MASTER_PORT=" + std::to_string(port) + " " +
        QALOF_BINARY_DIR "/qalof-train train " + arguments + " </dev/null >" + log + ".out 2>" +
        log + ".err";
    std::string sh = "/bin/sh", option = "-c", text = command;
    char* const argv[] = {sh.data(), option.data(), text.data(), nullptr};
    pid_t pid = -1;
    EXPECT_EQ(::posix_spawn(&pid, "/bin/sh", nullptr, nullptr, argv, environ), 0);
    return pid;
  }
  // Exit codes, 128 + signal, and what each process said.
  std::vector<ProgramRun> finish(const std::vector<pid_t>& processes) {
    std::vector<ProgramRun> runs;
    for (std::size_t rank = 0; rank < processes.size(); ++rank) {
      int status = 0;
      ::waitpid(processes[rank], &status, 0);
      const std::string log = dir_.file("rank" + std::to_string(rank));
      runs.push_back({WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
                      slurp(log + ".out"), slurp(log + ".err")});
    }
    return runs;
  }
  // arguments[rank], or arguments[0] for every rank.
  std::vector<ProgramRun> run_ranks(int size, const std::vector<std::string>& arguments) {
    const int port = free_port();
    std::vector<pid_t> processes;
    for (int rank = 0; rank < size; ++rank) {
      const bool own = static_cast<std::size_t>(rank) < arguments.size();
      processes.push_back(
          start(rank, size, port, own ? arguments[static_cast<std::size_t>(rank)] : arguments[0]));
    }
    return finish(processes);
  }
  void run_well(int size, const std::string& arguments) {
    const std::string each = " --gradient_accumulation_steps " + std::to_string(4 / size);
    for (const ProgramRun& rank : run_ranks(size, {arguments + each}))
      ASSERT_EQ(rank.code, 0) << rank.err;
  }

  // Every weight and record that a run leaves, by name. Times are not among them.
  std::map<std::string, std::string> results(const std::string& output) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(dir_.file(output))) {
      const std::string name = fs::relative(entry.path(), dir_.file(output)).string();
      if (entry.is_regular_file() && (name.ends_with("model.safetensors") ||
                                      name == "metrics.jsonl" || name == "self_text.jsonl"))
        files[name] = slurp(entry.path());
    }
    return files;
  }

  static std::string messages(const std::vector<ProgramRun>& ranks) {
    std::string text;
    for (const ProgramRun& rank : ranks) {
      for (std::size_t at = rank.err.find("qalof: "); at != std::string::npos;
           at = rank.err.find("qalof: ", at + 1))
        text += rank.err.substr(at, rank.err.find('\n', at) - at) + "\n";
    }
    return text;
  }
};

struct Method {
  const char* name;
  const char* flags;
};
class AnyNumberOfProcesses : public ProcessesCliTest,
                             public ::testing::WithParamInterface<Method> {};

TEST_P(AnyNumberOfProcesses, GivesTheSameBytes) {
  const std::string flags = GetParam().flags;
  const bool needs_teacher = flags.find("TEACHER") != std::string::npos;
  if (needs_teacher) {
    const ProgramRun teacher =
        run("train " + train("teacher", "--method full --max_steps 2" + questions()));
    ASSERT_EQ(teacher.code, 0) << teacher.err;
  }
  std::string arguments = flags.find("--train_file") == std::string::npos ? questions() : " ";
  arguments += flags;
  if (needs_teacher) arguments.replace(arguments.find("TEACHER"), 7, dir_.file("teacher"));
  for (const int size : {1, 2, 4}) run_well(size, train("ranks" + std::to_string(size), arguments));
  const auto alone = results("ranks1");
  ASSERT_GE(alone.size(), 2U);
  EXPECT_TRUE(alone == results("ranks2"));
  EXPECT_TRUE(alone == results("ranks4"));
}

INSTANTIATE_TEST_SUITE_P(
    Methods, AnyNumberOfProcesses,
    ::testing::Values(
        Method{"Full", "--method full --max_steps 4"},
        Method{"Switch", "--method switch --bit_widths 8 4 --max_steps 4"},
        Method{"Joint", "--method joint --bit_widths 8 4 --max_steps 4"},
        Method{"Cascaded",
               "--method joint --bit_widths 8 4 --adapter_form cascaded --lora_r 3 --max_steps 4"},
        Method{"Cyclic",
               "--method cpt --min_bits 4 --max_bits 8 --num_cyclic_period 1 "
               "--max_steps 10"},
        Method{"Random", "--method random --bit_widths 8 6 4 --random_widths both --max_steps 4"},
        Method{"Curriculum", "--method curriculum --bit_widths 8 4 --max_steps 6"},
        Method{"Adversarial",
               "--method switch --bit_widths 8 --adversarial_steps 2 --adversarial_epsilon 0.1 "
               "--max_steps 4"},
        Method{"GradientsOfEightBits",
               "--method switch --bit_widths 4 --gradient_bits 8 --max_steps 4"},
        Method{"Teacher", "--method switch --bit_widths 4 --teacher TEACHER --max_steps 4"},
        Method{"Scored",
               "--method switch --bit_widths 8 4 --max_steps 4 --eval_steps 2 "
               "--max_eval_samples 40 --validation_file " QALOF_SOURCE_DIR
               "/assets/nano/data/validation.json"},
        Method{"ScoredText",
               "--task lm --method switch --bit_widths 8 --max_steps 4 --eval_steps 2 "
               "--train_file " QALOF_SOURCE_DIR "/assets/nano/data/text.txt "
               "--max_train_samples 10 --validation_file " QALOF_SOURCE_DIR
               "/assets/nano/data/text.txt"},
        Method{"SelfText",
               "--task lm --train_file self --self_tokens 300 --method switch "
               "--bit_widths 8 --max_steps 4"}),
    [](const auto& test) { return test.param.name; });

TEST_F(ProcessesCliTest, RunsResumeOnAnotherNumberOfThem) {
  const std::string flags = questions() +
                            "--method switch --bit_widths 8 4 --max_steps 4 "
                            "--save_steps 3 ";
  run_well(4, train("four", flags));
  run_well(1, train("one", flags + "--resume_from_checkpoint " + dir_.file("four/checkpoint-3")));
  run_well(2, train("two", flags + "--resume_from_checkpoint " + dir_.file("one/checkpoint-6")));
  const auto expected = results("four");
  for (const char* width : {"w8", "w4"}) {
    const std::string name = std::string(width) + "/adapter_model.safetensors";
    EXPECT_TRUE(expected.at(name) == results("one").at(name)) << name;
    EXPECT_TRUE(expected.at(name) == results("two").at(name)) << name;
  }
}

TEST_F(ProcessesCliTest, OneSaysWhereinARankDiffers) {
  const std::string flags = questions() + "--method switch --bit_widths 8 --max_steps 4 ";
  const auto ranks = run_ranks(
      3, {train("run", flags), train("run", flags + "--learning_rate 0.5"), train("run", flags)});
  for (const ProgramRun& rank : ranks) EXPECT_NE(rank.code, 0);
  EXPECT_EQ(ranks[1].code, 2);
  EXPECT_EQ(messages(ranks),
            "qalof: rank 1: this process was started for another run than rank 0: "
            "--learning_rate was 0.001 and is now 0.5\n");
  EXPECT_FALSE(fs::exists(dir_.file("run")));
}

TEST_F(ProcessesCliTest, AnErrorOfTheRunIsToldOnce) {
  const std::string flags = questions() +
                            "--method switch --bit_widths 8 --max_steps 40 "
                            "--learning_rate 1e30 --max_grad_norm 0 ";
  const auto ranks = run_ranks(3, {train("wild", flags)});
  for (const ProgramRun& rank : ranks) EXPECT_EQ(rank.code, 4) << rank.err;
  const std::string said = messages(ranks);
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_THAT(said, HasSubstr("not finite"));
}

TEST_F(ProcessesCliTest, WhatALauncherGetsWrongIsRefused) {
  const std::string arguments = train("run", questions() + "--ddp_timeout 1 ");
  const auto alone = finish({start(0, 2, free_port(), arguments)});
  EXPECT_EQ(alone[0].code, 6) << alone[0].err;
  EXPECT_THAT(alone[0].err, HasSubstr("rank 0 of 2: not all processes arrived within 1 s"));
  const Port taken;
  const auto late = finish({start(0, 2, taken.number(), arguments)});
  EXPECT_EQ(late[0].code, 2) << late[0].err;
  EXPECT_THAT(late[0].err, HasSubstr("MASTER_PORT chooses another"));
  const ProgramRun no_size = run_behind("RANK=0 ", "train " + arguments);
  EXPECT_EQ(no_size.code, 2);
  EXPECT_THAT(no_size.err, HasSubstr("WORLD_SIZE: is not set, but others of its launcher are"));
  const ProgramRun no_rank =
      run_behind("RANK=2 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2 ", "train " + arguments);
  EXPECT_EQ(no_rank.code, 2);
  EXPECT_THAT(no_rank.err, HasSubstr("RANK: found 2, expected at most 1"));
  const auto three = run_ranks(2, {train("run", questions() + "--gradient_accumulation_steps 3 ")});
  EXPECT_EQ(three[0].code, 2);
  EXPECT_THAT(messages(three), HasSubstr("--gradient_accumulation_steps: found 3, expected a "
                                         "power of two"));
  EXPECT_FALSE(fs::exists(dir_.file("run")));
}

TEST_F(ProcessesCliTest, AKilledProcessEndsAllAndTheRunGoesOn) {
  const std::string flags = questions() +
                            "--method switch --bit_widths 8 --max_steps 160 "
                            "--save_steps 40 --gradient_accumulation_steps 2";
  for (const ProgramRun& rank : run_ranks(2, {train("whole", flags)}))
    ASSERT_EQ(rank.code, 0) << rank.err;
  for (const std::size_t victim : {0U, 1U}) {
    const std::string name = "killed" + std::to_string(victim);
    const int port = free_port();
    const std::vector<pid_t> processes = {start(0, 2, port, train(name, flags)),
                                          start(1, 2, port, train(name, flags))};
    for (int i = 0; i < 600 && !fs::exists(dir_.file(name + "/checkpoint-40")); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ::kill(processes[victim], SIGKILL);
    const auto killed = std::chrono::steady_clock::now();
    const auto ranks = finish(processes);
    EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(25));
    EXPECT_EQ(ranks[victim].code, 128 + SIGKILL);
    EXPECT_EQ(ranks[1 - victim].code, 6) << ranks[1 - victim].err;
    EXPECT_THAT(messages(ranks), HasSubstr("another process has ended"));
    for (const ProgramRun& rank : run_ranks(2, {train(name, flags)}))
      ASSERT_EQ(rank.code, 0) << rank.err;
    EXPECT_TRUE(results("whole").at("w8/adapter_model.safetensors") ==
                results(name).at("w8/adapter_model.safetensors"));
  }
}

}  // namespace processes_cli_test
}  // namespace qalof::cli
