// `qalof chat`: a conversation in the terminal, or in a pipe, one message per line.
#include <unistd.h>

#include <cstdio>

#include "app/chat.h"
#include "app/generate.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/line_input.h"
#include "cli/signals.h"
#include "core/error.h"
#include "core/file.h"
#include "text/unicode.h"

namespace qalof::cli {

namespace chat_file {

constexpr const char* kHelp =
    "/precision P   answer at another precision or plan, e.g. /precision 4\n"
    "/adapter PATH  answer with another adapter; none: without\n"
    "/system TEXT   begin anew with this system text; without TEXT, with none\n"
    "/clear         begin anew\n"
    "/save FILE     write the conversation as a line of JSON, as train --task chat reads it\n"
    "/stats         speed, K and V, bits of the last answer\n"
    "/help          this list\n"
    "/exit          end; so does the end of input\n"
    "Ctrl-C stops an answer. A message that begins with / is written with // .\n"
    "A message of several lines stands between two lines of \"\"\".\n";
constexpr const char* kFence = "\"\"\"";

void write(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Messages of an input: a line each, or the lines between two of kFence. Ctrl-C drops what was
// begun.
std::optional<std::string> next_message(LineInput& input) {
  Interrupts::forget();
  std::optional<std::string> line = input.next();
  if (!line || *line != kFence) return line;
  std::string message;
  while ((line = input.next()) && *line != kFence) {
    if (Interrupts::seen()) return "";
    message += (message.empty() ? "" : "\n") + *line;
  }
  return message.starts_with('/') ? "/" + message : message;
}

class Conversation {
 public:
  Conversation(app::ChatSession& session, Observer& observer, bool json)
      : session_(session), observer_(observer), json_(json) {}

  // False: the user wants to go.
  bool take(const std::string& line) {
    if (line.find_first_not_of(" \t") == line.npos) return true;
    try {
      text::check_utf8(line, "the message");
      if (line.starts_with("//")) {
        answer(line.substr(1));
      } else if (line.front() == '/') {
        return command(line);
      } else {
        answer(line);
      }
    } catch (const Error& error) {
      // What one message does wrong ends no conversation, unless a script reads the answers.
      if (json_ || error.kind() == ErrorKind::kInternal || error.kind() == ErrorKind::kResource)
        throw;
      observer_.status("");
      observer_.warn(error.what());
    }
    return true;
  }

 private:
  void answer(const std::string& message) {
    Interrupts::forget();
    const runtime::Generation made = session_.answer(message, [&](std::string_view piece) {
      if (!json_) write(piece);
      return !Interrupts::seen();
    });
    last_ = made;
    if (!json_) {
      write("\n");
      if (made.reason == runtime::StopReason::kPositions)
        observer_.warn("the model has no positions left: begin anew with /clear");
      return;
    }
    const Json json = {{"text", made.text},
                       {"ids", made.ids},
                       {"stop_reason", runtime::to_string(made.reason)},
                       {"precision", session_.precision()},
                       {"prompt_tokens", made.prompt_tokens},
                       {"kept_tokens", made.kept_tokens},
                       {"kv_bytes", made.kv_bytes},
                       {"tokens_per_second", made.tokens_per_second()}};
    write(json.dump() + "\n");
  }

  bool command(const std::string& line) {
    const std::size_t space = line.find(' ');
    const std::string name = line.substr(1, space == line.npos ? line.npos : space - 1);
    std::string rest = space == line.npos ? "" : line.substr(space + 1);
    while (rest.starts_with(' ')) rest.erase(0, 1);
    while (rest.ends_with(' ')) rest.pop_back();
    if (name == "exit" || name == "quit") return false;
    if (name == "help") {
      tell(kHelp);
    } else if (name == "precision") {
      if (!rest.empty()) session_.set_precision(rest);
      tell(session_.precision() + "\n");
    } else if (name == "adapter") {
      if (!rest.empty()) session_.set_adapter(rest);
      tell(fmt::format("adapter {}: {}\n", session_.adapter().empty() ? "none" : session_.adapter(),
                       session_.precision()));
    } else if (name == "system") {
      session_.set_system(rest);
      note("a new conversation");
    } else if (name == "clear") {
      session_.clear();
      note("a new conversation");
    } else if (name == "save") {
      QALOF_CHECK(!rest.empty(), ErrorKind::kUsage, "/save: expected a file");
      write_file_atomic(rest, session_.to_jsonl());
      note(fmt::format("{} messages in {}", session_.messages().size(), rest));
    } else if (name == "stats") {
      tell(stats());
    } else {
      fail(ErrorKind::kUsage, "/{}: no such command; /help lists them", name);
    }
    return true;
  }

  std::string stats() const {
    std::string text =
        fmt::format("{}; K and V {}", session_.precision(), bytes_text(session_.kv_bytes()));
    if (last_) {
      text += fmt::format(
          "; last answer: {} tokens, {:.1f} tokens/s; prompt {} tokens, {} of them kept",
          last_->ids.size(), last_->tokens_per_second(), last_->prompt_tokens, last_->kept_tokens);
    }
    return text + "\n";
  }

  // With --json standard output holds answers alone.
  void tell(const std::string& text) const {
    if (json_) {
      observer_.info(text.substr(0, text.size() - 1));
    } else {
      write(text);
    }
  }

  // That something was done, for who would wonder: not among the answers of a pipe.
  void note(const std::string& text) const { observer_.info(text); }

  app::ChatSession& session_;
  Observer& observer_;
  bool json_;
  std::optional<runtime::Generation> last_;
};

}  // namespace chat_file

void run_chat(std::vector<std::string> arguments) {
  app::ChatOptions options;
  options.generation.max_new_tokens = 1024;
  CommandLine line("chat", "A conversation with a model, in the terminal or a pipe.",
                   "  qalof chat --model_name_or_path model --precision 4\n"
                   "  echo 'Why is the sky blue?' | qalof chat --model_name_or_path model.qalof "
                   "--json\n",
                   std::move(arguments));
  app::list_model_options(line, options.model);
  app::list_run_options(line, options.model);
  app::list_text_options(line, options.model);
  line.group("conversation");
  line.option("--system", options.system, "what the model is told before the conversation");
  options.task.list_template(line);
  app::list_generation_options(line, options.generation);
  line.option("--seed", options.generation.sampling.seed, "of the choices");
  line.parse();
  ThreadPool pool(app::choose_threads(options.model.threads));
  app::ChatSession session(options, pool, line.observer());
  const Interrupts interrupts;
  const std::unique_ptr<LineInput> input = make_line_input("> ");
  chat_file::Conversation conversation(session, line.observer(), line.json());
  if (::isatty(STDIN_FILENO) != 0)
    line.observer().info("/help lists commands; Ctrl-C stops an answer, Ctrl-D ends");
  while (const std::optional<std::string> text = chat_file::next_message(*input)) {
    if (!conversation.take(*text)) break;
  }
}

}  // namespace qalof::cli
