// Conversations as windows to train on. See chat.h.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/hash.h"
#include "tasks/chat/chat.h"

namespace qalof::tasks {

namespace chat_samples_file {

constexpr Named<TrainOn> kTrainOn[] = {
    {"assistant", TrainOn::kAssistant}, {"all", TrainOn::kAll}, {"last", TrainOn::kLast}};

// FILE:WEIGHT; a name with a colon and no number after it is a file.
std::pair<std::string, double> parse_mix(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == text.npos) return {text, 1};
  double weight = 0;
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data() + colon + 1, end, weight);
  if (read.ec != std::errc{} || read.ptr != end) return {text, 1};
  QALOF_CHECK(weight > 0 && weight <= 1000, ErrorKind::kUsage,
              "--mix {}: found the weight {}, expected more than 0 and at most 1000", text,
              text.substr(colon + 1));
  return {text.substr(0, colon), weight};
}

// What became of the conversations of a file.
struct Counts {
  std::uint64_t cut = 0, empty = 0;
};

void tell_progress(const std::string& file, const Conversation& one, Observer& observer) {
  constexpr std::size_t kMegabyte = std::size_t{1} << 20;
  observer.progress("reading " + file, one.read / kMegabyte, one.of / kMegabyte,
                    fmt::format("line {}", one.line), "MB");
}

void tell(const std::string& file, const ConversationCounts& read, const Counts& counts,
          std::size_t length, Observer& observer) {
  if (read.bad > 0) {
    observer.warn(fmt::format("{}: {} of {} lines cannot be read and are left out, the first: {}",
                              file, read.bad, read.lines, read.first_bad));
  }
  if (counts.cut > 0) {
    observer.warn(
        fmt::format("{}: {} of {} conversations are longer than {} tokens, their ends are "
                    "left out",
                    file, counts.cut, read.lines - read.bad, length));
  }
  if (counts.empty > 0) {
    observer.warn(fmt::format("{}: {} of {} conversations have no answer to learn and are left out",
                              file, counts.empty, read.lines - read.bad));
  }
}

}  // namespace chat_samples_file

std::size_t ChatSample::num_scored() const {
  std::size_t count = 0;
  for (std::size_t i = 1; i < scored.size(); ++i) count += scored[i];
  return count;
}

void Chat::list_template(OptionList& list) {
  list.option("--chat_template", chat_template,
              "chat: a Jinja file, or plain for a model without one; the model's own unless given")
      ->later();
  list.option("--template_variables", template_variables,
              "chat: JSON object of further variables for the template")
      ->later();
  list.option("--template_date", date, "chat: YYYY-MM-DD, for templates that write the date")
      ->later();
}

void Chat::list_windows(OptionList& list) {
  list.choice("--train_on", train_on, chat_samples_file::kTrainOn,
              "chat: tokens that are learned and scored: those of all answers, everything, or "
              "those of the last answer")
      ->later();
  list_template(list);
  list.flag("--skip_bad_lines", skip_bad_lines,
            "chat: lines that cannot be read are counted and left out")
      ->later();
}

void Chat::list_training(OptionList& list) {
  list.option(
          "--mix", mix,
          "chat: further files to train on, FILE or FILE:WEIGHT; with weight 2 each conversation "
          "comes twice an epoch, with 0.5 every second one comes")
      ->later();
}

text::ChatOptions Chat::template_options() const {
  text::ChatOptions options;
  if (!template_variables.empty()) {
    options.variables = parse_json(template_variables, "--template_variables");
    QALOF_CHECK(options.variables.is_object(), ErrorKind::kUsage,
                "--template_variables: found {}, expected an object",
                options.variables.type_name());
  }
  if (!date.empty()) options.now = text::parse_day(date, "--template_date");
  return options;
}

text::ChatTemplate Chat::open_template(const text::TextEncoder& encoder) const {
  return text::choose_chat_template(encoder, chat_template);
}

ChatSample Chat::make_sample(const text::TextEncoder& encoder, const text::ChatTemplate* chat,
                             const Conversation& conversation, std::size_t length,
                             const std::string& where) const {
  ChatSample sample;
  if (conversation.messages.empty()) {
    sample.ids = encoder.encode(conversation.text).ids;
    sample.scored.assign(sample.ids.size(), 1);
  } else {
    text::ChatTokens tokens;
    try {
      tokens = text::encode_chat(encoder.tokenizer(),
                                 chat->render_marked(conversation.messages, template_options()),
                                 encoder.parses_special());
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("{}: {}", where, error.what()));
    }
    sample.ids = std::move(tokens.ids);
    if (train_on == TrainOn::kAll) {
      sample.scored.assign(sample.ids.size(), 1);
    } else {
      sample.scored =
          std::move(train_on == TrainOn::kLast ? tokens.is_last_answer : tokens.is_answer);
    }
  }
  if (sample.ids.size() > length) {
    sample.was_cut = true;
    sample.ids.resize(length);
    sample.scored.resize(length);
  }
  return sample;
}

std::vector<Example> Chat::examples(const Reading& reading, const DataOptions& data) const {
  std::vector<Example> examples;
  each_example(reading, data, [&](Example&& example) { examples.push_back(std::move(example)); });
  return examples;
}

void Chat::each_example(const Reading& reading, const DataOptions& data,
                        const std::function<void(Example&&)>& take) const {
  const std::size_t length =
      std::min(data.max_seq_length.value_or(kDefaultLength), reading.positions);
  QALOF_CHECK(length >= 2, ErrorKind::kUsage, "--max_seq_length: found {}, expected at least 2",
              length);
  std::optional<text::ChatTemplate> chat;
  std::vector<std::pair<std::string, double>> files = {{data.file, 1}};
  for (const std::string& more : mix) files.push_back(chat_samples_file::parse_mix(more));
  std::uint64_t taken = 0;
  const auto is_full = [&] { return data.max_samples > 0 && taken >= data.max_samples; };
  for (const auto& part : files) {
    const auto& file = part.first;
    const auto weight = part.second;
    if (is_full()) break;
    chat_samples_file::Counts counts;
    double share = 0;
    const auto use = [&](Conversation&& one) {
      // Whole numbers that the sum of weights has passed.
      const double before = std::floor(share + 1e-9);
      share += weight;
      auto times = static_cast<std::size_t>(std::floor(share + 1e-9) - before);
      if (times == 0) return;
      if (!chat && !one.messages.empty()) chat = open_template(reading.encoder);
      ChatSample sample = make_sample(reading.encoder, chat ? &*chat : nullptr, one, length,
                                      fmt::format("{}: line {}", file, one.line));
      counts.cut += sample.was_cut ? 1 : 0;
      if (sample.num_scored() == 0) {
        ++counts.empty;
        return;
      }
      if (train_on == TrainOn::kAll || one.messages.empty()) sample.scored.clear();
      Example example;
      example.ids = std::move(sample.ids);
      example.scored = std::move(sample.scored);
      for (; times > 0 && !is_full(); --times, ++taken) take(Example(example));
    };
    const ConversationCounts read =
        read_conversations(file, skip_bad_lines, [&](Conversation&& one) {
          chat_samples_file::tell_progress(file, one, reading.observer);
          use(std::move(one));
          return !is_full();
        });
    chat_samples_file::tell(file, read, counts, length, reading.observer);
  }
  QALOF_CHECK(taken > 0, ErrorKind::kBadInput,
              "{}: holds no conversation with an answer to learn within {} tokens", data.file,
              length);
}

void Chat::check_without_file() const {
  QALOF_CHECK(mix.empty(), ErrorKind::kUsage,
              "--mix: adds to a --train_file of conversations, found --train_file self");
}

void Chat::identify_windows(const Reading& reading, Json& identity) const {
  Json files = Json::array();
  for (const std::string& more : mix)
    files.push_back(sha256_of_file(chat_samples_file::parse_mix(more).first));
  if (!files.empty()) identity["mix_sha256"] = files;
  // Files of plain texts need none; where one is needed, reading names what is wrong with it.
  try {
    const text::ChatTemplate chat = open_template(reading.encoder);
    identity["chat_template"] = {{"source", chat.source()},
                                 {"special_tokens", chat.special_tokens()}};
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
  }
}

std::vector<std::vector<std::int32_t>> Chat::windows(const Reading& reading,
                                                     const DataOptions& data,
                                                     std::size_t max_windows) const {
  const std::size_t length =
      std::min(data.max_seq_length.value_or(kDefaultLength), reading.positions);
  std::optional<text::ChatTemplate> chat;
  std::vector<std::vector<std::int32_t>> windows;
  read_conversations(data.file, skip_bad_lines, [&](Conversation&& one) {
    if (!chat && !one.messages.empty()) chat = open_template(reading.encoder);
    ChatSample sample = make_sample(reading.encoder, chat ? &*chat : nullptr, one, length,
                                    fmt::format("{}: line {}", data.file, one.line));
    if (!sample.ids.empty()) windows.push_back(std::move(sample.ids));
    return windows.size() < max_windows;
  });
  return windows;
}

}  // namespace qalof::tasks
