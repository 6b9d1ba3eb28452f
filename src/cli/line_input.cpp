// Lines of standard input, plain or through libedit. See line_input.h.
#include "cli/line_input.h"

#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>

#ifdef QALOF_HAS_LIBEDIT
#include <histedit.h>
#endif

#include "cli/signals.h"

namespace qalof::cli {

namespace line_input_file {

class PlainInput final : public LineInput {
 public:
  explicit PlainInput(std::string prompt) : prompt_(std::move(prompt)) {}

  std::optional<std::string> next() override {
    if (!prompt_.empty()) {
      std::fputs(prompt_.c_str(), stdout);
      std::fflush(stdout);
    }
    // read(2), so that nothing waits for a full buffer.
    for (;;) {
      const std::size_t end = buffer_.find('\n');
      if (end != buffer_.npos) return take(end, end + 1);
      char block[4096];
      if (!prompt_.empty() && !Interrupts::wait_for_input(STDIN_FILENO)) return "";
      const ssize_t count = ::read(STDIN_FILENO, block, sizeof block);
      if (count > 0) {
        buffer_.append(block, static_cast<std::size_t>(count));
      } else if (count == 0 || errno != EINTR) {
        if (buffer_.empty()) return std::nullopt;
        return take(buffer_.size(), buffer_.size());
      }
    }
  }

 private:
  std::string take(std::size_t end, std::size_t next) {
    std::string line = buffer_.substr(0, end);
    buffer_.erase(0, next);
    if (line.ends_with('\r')) line.pop_back();
    return line;
  }

  std::string prompt_, buffer_;
};

#ifdef QALOF_HAS_LIBEDIT
class EditedInput final : public LineInput {
 public:
  explicit EditedInput(std::string prompt) : prompt_(std::move(prompt)) {
    // Characters beyond ASCII need a locale that has them; numbers are not touched.
    if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1)
      std::setlocale(LC_CTYPE, "C.UTF-8");
    editor_ = el_init("qalof", stdin, stdout, stderr);
    history_ = history_init();
    HistEvent event;
    history(history_, &event, H_SETSIZE, 1000);
    el_set(editor_, EL_CLIENTDATA, this);
    el_set(editor_, EL_PROMPT, &prompt_of);
    el_set(editor_, EL_GETCFN, &read_character);
    // Ctrl-C throws nothing away that is on its way to the screen, be it while a line is edited
    // or while an answer is shown.
    for (const char* mode : {"-d", "-x"}) el_set(editor_, EL_SETTY, mode, "+noflsh", nullptr);
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_HIST, history, history_);
  }
  ~EditedInput() override {
    history_end(history_);
    el_end(editor_);
  }
  EditedInput(const EditedInput&) = delete;
  EditedInput& operator=(const EditedInput&) = delete;

  std::optional<std::string> next() override {
    int count = 0;
    errno = 0;
    const char* text = el_gets(editor_, &count);
    if (text == nullptr || count <= 0) {
      if (errno != EINTR) return std::nullopt;
      ::tcflush(STDIN_FILENO, TCIFLUSH);  // the rest of the line
      std::fputs("^C\n", stdout);
      std::fflush(stdout);
      return "";
    }
    std::string line(text, static_cast<std::size_t>(count));
    while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
    HistEvent event;
    if (!line.empty()) history(history_, &event, H_ENTER, line.c_str());
    return line;
  }

 private:
  static char* prompt_of(EditLine* editor) {
    EditedInput* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return self->prompt_.data();
  }
  // As libedit's own, to which however a signal is lost that comes between two reads.
  static int read_character(EditLine*, wchar_t* character) {
    std::mbstate_t state = {};
    for (;;) {
      if (!Interrupts::wait_for_input(STDIN_FILENO)) {
        errno = EINTR;
        return -1;
      }
      char byte = 0;
      const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
      if (count <= 0) return static_cast<int>(count);
      const std::size_t used = std::mbrtowc(character, &byte, 1, &state);
      if (used <= 1) return 1;
      if (used == static_cast<std::size_t>(-1)) state = {};  // no character: the next may be one
    }
  }

  std::string prompt_;
  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
};
#endif

}  // namespace line_input_file

std::unique_ptr<LineInput> make_line_input(const std::string& prompt) {
  const bool is_terminal = ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0;
#ifdef QALOF_HAS_LIBEDIT
  if (is_terminal) return std::make_unique<line_input_file::EditedInput>(prompt);
#endif
  return std::make_unique<line_input_file::PlainInput>(is_terminal ? prompt : "");
}

std::string read_standard_input() {
  constexpr std::size_t kPart = std::size_t{1} << 16;
  std::string text;
  for (std::size_t got = kPart; got == kPart;) {
    const std::size_t before = text.size();
    text.resize(before + kPart);
    got = std::fread(text.data() + before, 1, kPart, stdin);
    text.resize(before + got);
  }
  return text;
}

}  // namespace qalof::cli
