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
#include <regex>
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
    return "train --threads 1 --model_name_or_path " + dir_.file("model") +
           " --max_seq_length 48 --per_device_train_batch_size 1 --lora_r 2 --warmup_steps 2 "
           "--logging_steps 1 --ddp_timeout 20 --output_dir " +
           dir_.file(output) + " " + more;
  }
  static std::string questions() {
    return " --train_file " QALOF_SOURCE_DIR
           "/assets/nano/data/train.json --max_train_samples 10 --doc_stride 16 ";
  }

  // The process of a rank, of `size`.
  pid_t start(int rank, int size, int port, const std::string& command_line) {
    const std::string log = dir_.file("rank" + std::to_string(rank));
    const std::string command =
        "exec env RANK=" + std::to_string(rank) + " LOCAL_RANK=" + std::to_string(rank) +
        " WORLD_SIZE=" + std::to_string(size) + " LOCAL_WORLD_SIZE=" + std::to_string(size) +
        " MASTER_ADDR=127.0.0.1 MASTER_PORT=" + std::to_string(port) + " " +
        QALOF_BINARY_DIR "/qalof " + command_line + " </dev/null >" + log + ".out 2>" + log +
        ".err";
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

  // Files of a directory, by name, without what tells how fast they were made.
  std::map<std::string, std::string> files(const std::string& directory) const {
    static const std::regex speeds(R"re("(tokens_per_second|seconds_per_sample)": ?[^,}]*)re");
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(dir_.file(directory))) {
      if (!entry.is_regular_file()) continue;
      found[fs::relative(entry.path(), dir_.file(directory)).string()] =
          std::regex_replace(slurp(entry.path()), speeds, "");
    }
    return found;
  }
  // A command that writes to a directory named after the number of processes that share it.
  // Returns what one process alone writes.
  std::map<std::string, std::string> expect_same_files(const std::string& command) {
    std::map<std::string, std::string> alone;
    for (const int size : {1, 2, 3}) {
      const std::string output = "out" + std::to_string(size);
      const auto ranks = run_ranks(
          size,
          {command + " --threads 1 --ddp_timeout 20 --json --output_dir " + dir_.file(output)});
      for (const ProgramRun& rank : ranks) EXPECT_EQ(rank.code, 0) << rank.err;
      EXPECT_NE(ranks[0].out, "");
      for (std::size_t i = 1; i < ranks.size(); ++i) EXPECT_EQ(ranks[i].out + ranks[i].err, "");
      if (size == 1) alone = files(output);
      EXPECT_TRUE(alone == files(output)) << command << ": " << size;
      for (const auto& [name, text] : files(output)) EXPECT_EQ(text, alone[name]) << name;
      fs::remove_all(dir_.file(output));
    }
    EXPECT_GE(alone.size(), 1U);
    return alone;
  }
  std::string scored() const {
    return " --model_name_or_path " + dir_.file("model") + " --adapter " + dir_.file("adapter") +
           " --max_seq_length 48 --doc_stride 16 --max_eval_samples 90 "
           "--validation_file " QALOF_SOURCE_DIR "/assets/nano/data/validation.json ";
  }
  void write_adapter() {
    const ProgramRun trained =
        run(train("adapter", "--method joint --bit_widths 8 4 --max_steps 3" + questions()));
    ASSERT_EQ(trained.code, 0) << trained.err;
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
    const ProgramRun teacher = run(train("teacher", "--method full --max_steps 2" + questions()));
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

TEST_F(ProcessesCliTest, AMissingGpuIsToldOnce) {
  if (fs::exists("/dev/nvidia0")) GTEST_SKIP() << "this machine has a GPU";
  const auto ranks = run_ranks(2, {train("run", questions() + "--device cuda ")});
  for (const ProgramRun& rank : ranks) EXPECT_EQ(rank.code, 3) << rank.err;
  const std::string said = messages(ranks);
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_THAT(said, HasSubstr("--device cuda: this PyTorch "));
}

TEST_F(ProcessesCliTest, GradientsAreSummedBetweenGpus) {
  if (!fs::exists("/dev/nvidia1")) GTEST_SKIP() << "needs two GPUs";
  run_well(2, train("gpus", questions() + "--method switch --bit_widths 8 4 --max_steps 4 "
                                          "--device cuda "));
  EXPECT_GE(results("gpus").size(), 2U);
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
  const ProgramRun no_size = run_behind("RANK=0 ", arguments);
  EXPECT_EQ(no_size.code, 2);
  EXPECT_THAT(no_size.err, HasSubstr("WORLD_SIZE: is not set, but others of its launcher are"));
  const ProgramRun no_rank =
      run_behind("RANK=2 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2 ", arguments);
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

TEST_F(ProcessesCliTest, TheProcessesThatAreLeftContinueWithTheMicroBatchesOfAll) {
  const std::string flags = questions() +
                            "--method switch --bit_widths 8 --max_steps 8 "
                            "--gradient_accumulation_steps 2 ";
  for (const ProgramRun& rank : run_ranks(2, {train("whole", flags)}))
    ASSERT_EQ(rank.code, 0) << rank.err;
  for (const ProgramRun& rank : run_ranks(2, {train("lost", flags + "--save_steps 3")}))
    ASSERT_EQ(rank.code, 0) << rank.err;
  for (const char* file : {"checkpoint-6", "all_results.json"})
    fs::remove_all(dir_.file("lost/") + file);
  const ProgramRun left = run(train("lost", flags + "--save_steps 3"));
  ASSERT_EQ(left.code, 0) << left.err;
  EXPECT_THAT(left.err, HasSubstr("4 micro-batches a step, as this run began: 4 in each of 1"));
  EXPECT_THAT(left.err, HasSubstr("after step 3"));
  EXPECT_TRUE(results("whole").at("w8/adapter_model.safetensors") ==
              results("lost").at("w8/adapter_model.safetensors"));
  const ProgramRun other =
      run(train("lost", questions() + "--method switch --bit_widths 8 --max_steps 8 "
                                      "--gradient_accumulation_steps 1"));
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err, HasSubstr("--gradient_accumulation_steps was 4 and is now 1"));
}

TEST_F(ProcessesCliTest, ScoresAreSharedToTheSameBytes) {
  write_adapter();
  expect_same_files("eval --precision 4" + scored());
  expect_same_files("eval --precision random:4,5,8 --seed 3" + scored());
  expect_same_files(
      "eval --task lm --max_seq_length 32 --model_name_or_path " + dir_.file("model") +
      " --validation_file " QALOF_SOURCE_DIR "/assets/nano/data/text.txt --max_eval_samples 4000");
  const auto ranks =
      run_ranks(2, {"eval --precision 4" + scored(), "eval --precision 8" + scored()});
  EXPECT_THAT(messages(ranks), HasSubstr("rank 1: this process was started for another run"));
}

TEST_F(ProcessesCliTest, SensitivityIsSharedToTheSameBytes) {
  write_adapter();
  expect_same_files(
      "sensitivity --low 4 3 --split --early_stop --target_bits 5 6 --refine 2 "
      "--compare uniform random" +
      scored());
  expect_same_files("sensitivity --by fisher" + scored());
  expect_same_files("sensitivity --by hessian --hessian_vectors 2" + scored());
}

TEST_F(ProcessesCliTest, ASharedAnalysisContinuesWhereItWasStopped) {
  write_adapter();
  const std::string command = "sensitivity --granularity kind --kv --threads 1 --ddp_timeout 20" +
                              scored() + " --output_dir ";
  ASSERT_EQ(run(command + dir_.file("whole")).code, 0);
  fs::create_directory(dir_.file("part"));
  const std::string state = "/sensitivity_state.jsonl", text = slurp(dir_.file("whole" + state));
  const std::string half = text.substr(0, text.size() / 2);
  std::ofstream(dir_.file("part" + state)) << half.substr(0, half.rfind('\n') + 1);
  for (const ProgramRun& rank : run_ranks(2, {command + dir_.file("part")}))
    ASSERT_EQ(rank.code, 0) << rank.err;
  EXPECT_TRUE(files("whole") == files("part"));
}

TEST_F(ProcessesCliTest, AttacksAreSharedToTheSameBytes) {
  fs::copy(dir_.file("model"), dir_.file("lm"));
  std::string tsv = "sentence\tlabel\n";
  for (const char* subject : {"the film", "this play", "a song", "her book", "one more story"})
    tsv += std::string(subject) + " is bad\t0\n" + subject + " is good\t1\n";
  std::ofstream(dir_.file("data.tsv")) << tsv;
  const ProgramRun trained =
      run(train("adapter",
                "--task classification --method joint --bit_widths 8 4 --max_steps 40 "
                "--learning_rate 1e-2 --train_file " +
                    dir_.file("data.tsv")));
  ASSERT_EQ(trained.code, 0) << trained.err;
  auto found = expect_same_files(
      "attack --precision 8 --precisions 8,4 --iterations 12 --gumbel_samples 3 "
      "--queries 30 --batch_size 2 --model_name_or_path " +
      dir_.file("model") + " --adapter " + dir_.file("adapter") + " --reference_model " +
      dir_.file("lm") + " --validation_file " + dir_.file("data.tsv"));
  EXPECT_THAT(found["attack.jsonl"], HasSubstr("\"attacked\":true"));
}

TEST_F(ProcessesCliTest, CalibrationIsSharedToTheSameBytes) {
  const std::string data =
      " --model_name_or_path " + dir_.file("model") +
      " --max_seq_length 48 --doc_stride 16 --calibration_samples 150 "
      "--threads 1 --ddp_timeout 20 --json --calibration_file " QALOF_SOURCE_DIR
      "/assets/nano/data/validation.json --output ";
  for (const char* method : {"gptq --scheme g32-asym", "gptq --scheme rot", "smoothquant"}) {
    std::string alone, said;
    for (const int size : {1, 2, 3}) {
      SCOPED_TRACE(::testing::Message() << method << " " << size);
      const std::string file = dir_.file("m.qalof");
      const auto ranks = run_ranks(size, {"quantize --ptq " + std::string(method) + data + file});
      for (const ProgramRun& rank : ranks) ASSERT_EQ(rank.code, 0) << rank.err;
      for (std::size_t i = 1; i < ranks.size(); ++i) EXPECT_EQ(ranks[i].out + ranks[i].err, "");
      if (size == 1) alone = slurp(file), said = ranks[0].out;
      EXPECT_GT(alone.size(), 1000U);
      EXPECT_TRUE(alone == slurp(file));
      EXPECT_EQ(said, ranks[0].out);  // errors of the linears, too
      fs::remove(file);
    }
  }
  const auto ranks = run_ranks(2, {"quantize --ptq gptq --bit_widths 4" + data + "a",
                                   "quantize --ptq gptq --bit_widths 3" + data + "a"});
  EXPECT_THAT(messages(ranks), HasSubstr("rank 1: this process was started for another run"));
}

TEST_F(ProcessesCliTest, WhatIsNotSharedIsRefusedWhereItWrites) {
  const auto ranks = run_ranks(2, {"quantize --bit_widths 8 --model_name_or_path " +
                                   dir_.file("model") + " --output " + dir_.file("m.qalof")});
  for (const ProgramRun& rank : ranks) EXPECT_EQ(rank.code, 2);
  EXPECT_THAT(messages(ranks),
              HasSubstr("quantize: runs in one process, and the launcher started 2"));
  EXPECT_FALSE(fs::exists(dir_.file("m.qalof")));
}

}  // namespace processes_cli_test
}  // namespace qalof::cli
