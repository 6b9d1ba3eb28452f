// `qalof tokenize`: standard input to token ids.
#include <iostream>
#include <iterator>

#include "app/hub.h"
#include "app/model_handle.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "core/error.h"
#include "text/text_encoder.h"
#include "text/text_stream.h"
#include "text/unicode.h"

namespace qalof::cli {

namespace {

text::TextEncoder open(const std::string& path, bool parse_special) {
  text::BpeTokenizer tokenizer =
      weights::is_packed_file(path)
          ? text::BpeTokenizer::from_files(weights::open_packed_file(path).files, path)
          : text::BpeTokenizer::load(path);
  return text::TextEncoder(std::move(tokenizer), parse_special);
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
  std::string model;
  bool jsonl = false, special = false, decodes = false;
  CommandLine line("tokenize",
                   "Standard input to the token ids that a model sees, and code-point offsets.",
                   "  echo 'Hello world' | qalof tokenize --model_name_or_path gpt2\n"
                   "  qalof tokenize --model_name_or_path gpt2 --jsonl < strings.jsonl\n",
                   std::move(arguments));
  line.option("--model_name_or_path", model,
              "directory with a tokenizer, or packed file, or org/name[@revision] on the hub")
      ->required();
  line.flag("--jsonl", jsonl,
            "each input line is a JSON string; one JSON object per line comes out");
  line.flag("--parse_special", special, "special tokens in the text become their ids");
  line.flag("--decoded", decodes, "with --jsonl or --json, also what the ids decode to");
  line.parse();
  const text::TextEncoder encoder =
      open(app::local_path(model, io::HubUse::kTokenizer, line.observer()), special);
  for (const std::string& warning : encoder.tokenizer().warnings()) line.observer().warn(warning);
  if (!jsonl) {
    const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
    text::check_utf8(input, "standard input");
    const text::Encoding encoding = encoder.encode(input);
    Json json = encoding_json(encoder, encoding, decodes);
    json["special_tokens"] = encoder.description();
    line.print(json, fmt::format("{}\n", fmt::join(encoding.ids, " ")));
    return;
  }
  std::string input, output;
  for (std::size_t number = 1; std::getline(std::cin, input); ++number) {
    if (input.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = fmt::format("standard input: line {}", number);
    const Json value = parse_json(input, where);
    QALOF_CHECK(value.is_string(), ErrorKind::kBadInput, "{}: found {}, expected a JSON string",
                where, value.type_name());
    const text::Encoding encoding = encoder.encode(value.get_ref<const std::string&>());
    output += encoding_json(encoder, encoding, decodes).dump() + "\n";
    if (output.size() > (std::size_t{1} << 20)) {
      std::cout << output;
      output.clear();
    }
  }
  std::cout << output;
  std::cout.flush();
}

}  // namespace qalof::cli
