// `qalof tokenize`: standard input to token ids.
#include <functional>
#include <iostream>
#include <optional>

#include "app/hub.h"
#include "app/model_handle.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/line_input.h"
#include "core/error.h"
#include "text/chat_template.h"
#include "text/text_encoder.h"
#include "text/text_stream.h"
#include "text/unicode.h"

namespace qalof::cli {

namespace {

// A tokenizer with the chat template beside it, if there is one and it is asked for.
struct Tokenizer {
  text::TextEncoder encoder;
  std::optional<text::ChatTemplate> chat;
};

Tokenizer open(const std::string& path, bool parse_special, bool with_chat) {
  const auto encoder = [&](text::BpeTokenizer tokenizer) {
    return text::TextEncoder(std::move(tokenizer), parse_special);
  };
  std::optional<text::ChatTemplate> chat;
  if (weights::is_packed_file(path)) {
    const auto files = weights::open_packed_file(path).files;
    if (with_chat) chat = text::find_chat_template(files, path);
    return {encoder(text::BpeTokenizer::from_files(files, path)), std::move(chat)};
  }
  if (with_chat) chat = text::find_chat_template(path);
  return {encoder(text::BpeTokenizer::load(path)), std::move(chat)};
}

// Reads lines of standard input that are not blank, and prints the line that convert makes of each.
void convert_lines(
    const std::function<std::string(const Json& value, const std::string& where)>& convert) {
  std::string input, output;
  for (std::size_t number = 1; std::getline(std::cin, input); ++number) {
    if (input.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = fmt::format("standard input: line {}", number);
    output += convert(parse_json(input, where), where) + "\n";
    if (output.size() > (std::size_t{1} << 20)) {
      std::cout << output;
      output.clear();
    }
  }
  std::cout << output;
  std::cout.flush();
}

// {"text": "...", "ids": [...], "answers": [0, 1, ...]}: what the template makes of messages.
std::string chat_line(const Tokenizer& tokenizer, const Json& messages,
                      const text::ChatOptions& options, const std::string& where) {
  const text::RenderedChat chat =
      tokenizer.chat->render_marked(text::read_chat_messages(messages, where), options);
  const text::ChatTokens tokens =
      text::encode_chat(tokenizer.encoder.tokenizer(), chat, tokenizer.encoder.parses_special());
  const Json json = {{"text", chat.text}, {"ids", tokens.ids}, {"answers", tokens.is_answer}};
  return json.dump();
}

// {"ids": [...], "offsets": [[start, end], ...]}, and what the ids decode to where it is wanted.
Json encoding_json(const text::TextEncoder& encoder, const text::Encoding& encoding, bool decodes) {
  Json offsets = Json::array();
  for (const auto& [start, end] : encoding.offsets) offsets.push_back({start, end});
  Json json = {{"ids", encoding.ids}, {"offsets", offsets}};
  if (decodes) {
    text::TextStream stream;
    std::string decoded(stream.push(encoder.tokenizer().decode(encoding.ids)));
    decoded += stream.finish();
    json["decoded"] = decoded;
  }
  return json;
}

}  // namespace

void run_tokenize(std::vector<std::string> arguments) {
  std::string model, variables, date;
  bool jsonl = false, special = false, decodes = false, chat = false;
  text::ChatOptions options;
  CommandLine line("tokenize",
                   "Standard input to the token ids that a model sees, and code-point offsets.",
                   "  echo 'Hello world' | qalof tokenize --model_name_or_path gpt2\n"
                   "  qalof tokenize --model_name_or_path gpt2 --jsonl < strings.jsonl\n"
                   "  qalof tokenize --model_name_or_path model --chat --jsonl < chats.jsonl\n",
                   std::move(arguments));
  line.option("--model_name_or_path", model,
              "directory with a tokenizer, or packed file, or org/name[@revision] on the hub")
      ->required();
  line.flag("--jsonl", jsonl,
            "each input line is a JSON string, with --chat an array of messages; one JSON object "
            "per line comes out");
  line.flag("--parse_special", special, "special tokens in the text become their ids");
  line.flag("--decoded", decodes, "with --jsonl or --json, also what the ids decode to");
  line.group("data");
  line.flag("--chat", chat, "input lines are conversations, written by the model's chat template");
  line.flag("--add_generation_prompt", options.add_generation_prompt,
            "conversations end with the start of an answer");
  line.option(
      "--template_variables", variables,
      "JSON object of further variables for the template, e.g. {\"enable_thinking\": false}");
  line.option("--template_date", date, "YYYY-MM-DD, for templates that write the date");
  line.parse();
  const std::string path = app::local_path(model, io::HubUse::kTokenizer, line.observer());
  QALOF_CHECK(chat || (!options.add_generation_prompt && variables.empty() && date.empty()),
              ErrorKind::kUsage,
              "--add_generation_prompt, --template_variables and --template_date go with --chat");
  if (!date.empty()) options.now = text::parse_day(date, "--template_date");
  QALOF_CHECK(!chat || jsonl, ErrorKind::kUsage, "--chat goes with --jsonl");
  if (!variables.empty()) {
    options.variables = parse_json(variables, "--template_variables");
    QALOF_CHECK(options.variables.is_object(), ErrorKind::kUsage,
                "--template_variables: found {}, expected an object",
                options.variables.type_name());
  }
  const Tokenizer tokenizer = open(path, special, chat);
  const text::TextEncoder& encoder = tokenizer.encoder;
  for (const std::string& warning : encoder.tokenizer().warnings()) line.observer().warn(warning);
  if (chat) {
    QALOF_CHECK(tokenizer.chat.has_value(), ErrorKind::kNotFound,
                "{}: holds no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json)",
                model);
    convert_lines([&](const Json& value, const std::string& where) {
      return chat_line(tokenizer, value, options, where);
    });
    return;
  }
  if (jsonl) {
    convert_lines([&](const Json& value, const std::string& where) {
      QALOF_CHECK(value.is_string(), ErrorKind::kBadInput, "{}: found {}, expected a JSON string",
                  where, value.type_name());
      return encoding_json(encoder, encoder.encode(value.get_ref<const std::string&>()), decodes)
          .dump();
    });
    return;
  }
  const std::string input = read_standard_input();
  text::check_utf8(input, "standard input");
  const text::Encoding encoding = encoder.encode(input);
  if (!line.json()) return line.print({}, fmt::format("{}\n", fmt::join(encoding.ids, " ")));
  Json json = encoding_json(encoder, encoding, decodes);
  json["special_tokens"] = encoder.description();
  line.print(json, "");
}

}  // namespace qalof::cli
