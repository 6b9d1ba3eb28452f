// `qalof chat` in a pipe and in a pseudo terminal: answers are those of `generate` on the same
// tokens, commands change what they say, and Ctrl-C stops an answer, not the program.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <pty.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <csignal>

#include "cli/program.h"
#include "text/unicode.h"

namespace qalof::cli {
namespace chat_cli_test {

using ::testing::HasSubstr;

class ChatCli : public CliTest {
 protected:
  std::string model_ = dir_.file("model");
  std::vector<Json> chat(const std::string& flags, const std::string& input) {
    const ProgramRun run =
        this->run("chat --chat_template plain --json --max_new_tokens 6 --quiet " + flags +
                      " --model_name_or_path " + model_,
                  input);
    EXPECT_EQ(run.code, 0) << run.err;
    std::vector<Json> lines;
    std::istringstream out(run.out);
    for (std::string line; std::getline(out, line);) lines.push_back(Json::parse(line));
    return lines;
  }
  // The tokens that generate makes of messages written by the plain template.
  Json ids_of(const std::string& messages, const std::string& precision) {
    const ProgramRun run =
        this->run("generate --json --quiet --parse_special --max_new_tokens 6 --precision " +
                      precision + " --prompt - --model_name_or_path " + model_,
                  messages + "### assistant:\n\n");  // one line end goes
    EXPECT_EQ(run.code, 0) << run.err;
    return Json::parse(run.out)["ids"];
  }
};

TEST_F(ChatCli, AnswersAreThoseOfGenerateAlsoAfterASwitch) {
  model_ = QALOF_SOURCE_DIR "/assets/nano/model";
  const std::vector<Json> lines =
      chat("--precision 8 --system Brief.", "Hello\nAgain\n/precision 4\nMore\n");
  ASSERT_EQ(lines.size(), 3U);
  const auto text = [&](std::size_t i) { return lines[i]["text"].get<std::string>(); };
  const std::string first = "### system:\nBrief.\n### user:\nHello\n";
  const std::string second =
      first + "### assistant:\n" + text(0) + "<|endoftext|>\n### user:\nAgain\n";
  const std::string third =
      second + "### assistant:\n" + text(1) + "<|endoftext|>\n### user:\nMore\n";
  EXPECT_EQ(lines[0]["ids"], ids_of(first, "8"));
  EXPECT_EQ(lines[1]["ids"], ids_of(second, "8"));
  EXPECT_EQ(lines[2]["ids"], ids_of(third, "4"));
  EXPECT_EQ(lines[0]["kept_tokens"], 0);
  EXPECT_GE(lines[1]["kept_tokens"], lines[0]["prompt_tokens"]);
  EXPECT_EQ(lines[2]["kept_tokens"], 0);
  EXPECT_NE(lines[0]["precision"], lines[2]["precision"]);
}

TEST_F(ChatCli, SavesWhatTrainingReadsAndBeginsAnew) {
  write_tiny_model();
  const std::string file = dir_.file("saved.jsonl");
  chat("", "//slash\n/save " + file + "\n/system Be kind.\nHi\n/save " + file + "2\n");
  const Json saved = Json::parse(slurp(file));
  EXPECT_EQ(saved["messages"][0], Json({{"role", "user"}, {"content", "/slash"}}));
  EXPECT_EQ(saved["messages"][1]["role"], "assistant");
  const Json anew = Json::parse(slurp(file + "2"));
  EXPECT_EQ(anew["messages"][0], Json({{"role", "system"}, {"content", "Be kind."}}));
  EXPECT_EQ(anew["messages"].size(), 3U);
}

TEST_F(ChatCli, WhatAMessageDoesWrongEndsNoConversation) {
  write_tiny_model();
  const std::string flags =
      "chat --chat_template plain --quiet --max_new_tokens 4 --model_name_or_path ";
  const ProgramRun run = this->run(flags + dir_.file("model"),
                                   "/nope\n/precision 99\n\xff\xfe\n/stats\n/exit\nnot read\n");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("/nope: no such command; /help lists them"));
  EXPECT_THAT(run.err, HasSubstr("99"));
  EXPECT_THAT(run.err, HasSubstr("the message"));
  EXPECT_THAT(run.out, HasSubstr("K and V"));
  const ProgramRun without = this->run("chat --model_name_or_path " + dir_.file("model"), "Hi\n");
  EXPECT_EQ(without.code, 3);
  EXPECT_THAT(without.err, HasSubstr("holds no chat template"));
}

// A program in a pseudo terminal.
class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& command) {
    pid_ = ::forkpty(&fd_, nullptr, nullptr, nullptr);
    if (pid_ != 0) return;
    ::setenv("TERM", "dumb", 1);
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  ~Terminal() {
    if (!reaped_) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(fd_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& text) {
    ASSERT_EQ(::write(fd_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // What is shown up to the first place, after what was returned before, that holds wanted.
  std::string wait_for(const std::string& wanted, int seconds = 60) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    for (;;) {
      if (const std::size_t found = shown_.find(wanted, seen_); found != shown_.npos) {
        const std::string text = shown_.substr(seen_, found + wanted.size() - seen_);
        seen_ = found + wanted.size();
        return text;
      }
      pollfd poll{fd_, POLLIN, 0};
      char block[4096];
      if (std::chrono::steady_clock::now() > end) break;
      if (::poll(&poll, 1, 200) <= 0) continue;
      const ssize_t count = ::read(fd_, block, sizeof block);
      if (count <= 0) break;
      shown_.append(block, static_cast<std::size_t>(count));
    }
    ADD_FAILURE() << "never shown: " << wanted << " after " << shown_.substr(seen_);
    return "";
  }
  // What is shown up to the next prompt, once keys are the program's: until then the terminal
  // itself shows what is typed, and libedit shows it again.
  std::string wait_for_prompt(const std::string& prompt = "> ") {
    std::string text = wait_for(prompt);
    termios modes = {};
    for (int i = 0; i < 6000 && ::tcgetattr(fd_, &modes) == 0 && (modes.c_lflag & ICANON) != 0; ++i)
      ::usleep(10'000);
    EXPECT_EQ(modes.c_lflag & ICANON, 0U) << "no line is read after " << text;
    return text;
  }
  int code() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    reaped_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  const std::string& shown() const { return shown_; }

 private:
  int fd_ = -1;
  ::pid_t pid_ = -1;
  bool reaped_ = false;
  std::string shown_;
  std::size_t seen_ = 0;
};

TEST_F(ChatCli, CtrlCStopsTheAnswerAndNotTheProgram) {
  Terminal terminal({std::string(QALOF_BINARY_DIR) + "/qalof", "chat", "--model_name_or_path",
                     QALOF_SOURCE_DIR "/assets/nano/model", "--chat_template", "plain",
                     "--max_new_tokens", "100000", "--temperature", "1", "--seed", "3", "--threads",
                     "1"});
  terminal.wait_for_prompt();
  terminal.type("Tell me about Hugo.\n");
  terminal.wait_for("Hugo.\r\n");
  // The answer streams: something of it is there long before its end.
  terminal.wait_for(" ");
  terminal.type("\x03");
  terminal.wait_for_prompt();
  terminal.type("/stats\n");
  terminal.wait_for("last answer: ");
  terminal.wait_for(" tokens/s");
  terminal.wait_for_prompt();
  terminal.type("/precision 4\n");
  terminal.wait_for("w4a4kv4");
  terminal.wait_for_prompt();
  terminal.type("/exit\n");
  EXPECT_EQ(terminal.code(), 0);
  EXPECT_EQ(text::find_invalid_utf8(terminal.shown()), std::string::npos);
}

TEST_F(ChatCli, CtrlCDropsALineThatWasBegun) {
  write_tiny_model();
  Terminal terminal({std::string(QALOF_BINARY_DIR) + "/qalof", "chat", "--model_name_or_path",
                     model_, "--chat_template", "plain", "--max_new_tokens", "2", "--quiet"});
  terminal.wait_for_prompt();
  for (int round = 0; round < 30; ++round) {
    terminal.type("Tell \xc3\xa4");
    // The signal comes while the program waits for a key, or while it shows one.
    if (round % 2 == 0) terminal.wait_for("Tell \xc3\xa4");
    terminal.type("\x03");
    ASSERT_THAT(terminal.wait_for_prompt(), HasSubstr("^C"));
    // With the begun line before it, this would be a message.
    terminal.type("/nope\n");
    terminal.wait_for("no such command");
    terminal.wait_for_prompt();
  }
  terminal.type("\x04");
  EXPECT_EQ(terminal.code(), 0);
}

TEST_F(ChatCli, ATerminalShowsTheAnswersOfGenerateAlsoAfterASwitch) {
  model_ = QALOF_SOURCE_DIR "/assets/nano/model";
  Terminal terminal({std::string(QALOF_BINARY_DIR) + "/qalof", "chat", "--model_name_or_path",
                     model_, "--chat_template", "plain", "--max_new_tokens", "6", "--precision",
                     "8", "--threads", "1", "--quiet"});
  // What stands between the echo of a message and the next prompt; a terminal ends lines so.
  const auto answer_to = [&](const std::string& message) {
    terminal.type(message + "\n");
    terminal.wait_for(message + "\r\n");
    std::string shown = terminal.wait_for_prompt("\r\n> ");
    shown.resize(shown.size() - 4);
    for (std::size_t at = 0; (at = shown.find("\r\n", at)) != shown.npos;) shown.erase(at, 1);
    return shown;
  };
  const auto generated = [&](const std::string& messages, const std::string& precision) {
    const ProgramRun run =
        this->run("generate --json --quiet --parse_special --max_new_tokens 6 --precision " +
                      precision + " --prompt - --model_name_or_path " + model_,
                  messages + "### assistant:\n\n");
    EXPECT_EQ(run.code, 0) << run.err;
    return Json::parse(run.out)["text"].get<std::string>();
  };
  terminal.wait_for_prompt();
  std::string so_far = "### user:\nHello\n";
  const std::string first = answer_to("Hello");
  EXPECT_EQ(first, generated(so_far, "8"));
  EXPECT_THAT(answer_to("/precision 4"), HasSubstr("w4a4kv4"));
  so_far += "### assistant:\n" + first + "<|endoftext|>\n### user:\nMore\n";
  EXPECT_EQ(answer_to("More"), generated(so_far, "4"));
  // Lines between two fences are one message.
  for (const char* line : {"\"\"\"\n", "One\n", "two\n"}) {
    terminal.type(line);
    terminal.wait_for_prompt();
  }
  answer_to("\"\"\"");
  const std::string file = dir_.file("saved.jsonl");
  terminal.type("/save " + file + "\n");
  terminal.wait_for("saved.jsonl\r\n");
  terminal.wait_for_prompt();
  EXPECT_EQ(Json::parse(slurp(file))["messages"][4]["content"], "One\ntwo");
  terminal.type("/exit\n");
  EXPECT_EQ(terminal.code(), 0);
}

TEST_F(ChatCli, TheLossOfTrainingIsThatOfTheAnswers) {
#ifndef QALOF_HAS_TRAIN
  GTEST_SKIP() << "built without qalof-train";
#endif
  const std::string data = QALOF_SOURCE_DIR "/assets/nano/data/chat_validation.jsonl";
  const std::string model = " --model_name_or_path " QALOF_SOURCE_DIR "/assets/nano/model";
  for (const char* train_on : {"assistant", "last"}) {
    const std::string task =
        std::string(" --task chat --chat_template plain --quiet --train_on ") + train_on;
    // One step over 24 conversations whose update is not looked at: fresh adapters change nothing.
    const std::string out = dir_.file(std::string("out_") + train_on);
    const ProgramRun trained =
        run("train --method lora --precision 32 --max_steps 1 --warmup_steps 0 "
            "--per_device_train_batch_size 24 --max_train_samples 24 --max_seq_length 256 "
            "--logging_steps 1 --threads 2 --train_file " +
            data + model + task + " --output_dir " + out);
    ASSERT_EQ(trained.code, 0) << trained.err;
    const ProgramRun scored =
        run("eval --precision 32 --max_eval_samples 24 --json --threads 2 "
            "--validation_file " +
            data + model + task);
    ASSERT_EQ(scored.code, 0) << scored.err;
    const Json state = Json::parse(slurp(out + "/trainer_state.json"));
    EXPECT_NEAR(state["log_history"][0]["loss"].get<double>(),
                Json::parse(scored.out)["eval_loss"].get<double>(), 1e-5)
        << train_on;
  }
}

TEST_F(ChatCli, ASuiteScoresEveryDataSetAtEveryPrecision) {
  write_tiny_model();
  std::ofstream(dir_.file("chats.jsonl")) << R"({"prompt": "a", "completion": "b c"})"
                                             "\n";
  std::ofstream(dir_.file("suite.toml"))
      << "model_name_or_path = '" << dir_.file("model")
      << "'\nprecisions = ['8', '4']\nmax_seq_length = 32\n[[data]]\nname = 'chats'\ntask = "
         "'chat'\n"
         "chat_template = 'plain'\nvalidation_file = '"
      << dir_.file("chats.jsonl") << "'\n[[data]]\nname = 'text'\ntask = 'lm'\nvalidation_file = '"
      << dir_.file("chats.jsonl") << "'\n";
  const ProgramRun run = this->run("eval --suite " + dir_.file("suite.toml") +
                                   " --json --output_dir " + dir_.file("suite_out"));
  ASSERT_EQ(run.code, 0) << run.err;
  const Json rows = Json::parse(run.out)["rows"];
  ASSERT_EQ(rows.size(), 4U);
  EXPECT_EQ(rows[1]["name"], "chats");
  EXPECT_EQ(rows[2]["name"], "text");
  EXPECT_NE(rows[0]["eval_loss"], rows[1]["eval_loss"]);
  EXPECT_EQ(Json::parse(slurp(dir_.file("suite_out/results.json")))["rows"], rows);
  EXPECT_TRUE(std::filesystem::exists(dir_.file("suite_out/chats_4/eval_results.json")));
  std::ofstream(dir_.file("bad.toml")) << "task = 'lm'\n";
  EXPECT_THAT(this->run("eval --suite " + dir_.file("bad.toml")).err,
              HasSubstr("expected at least one [[data]]"));
}

}  // namespace chat_cli_test
}  // namespace qalof::cli
