#include <iostream>
#include <iterator>

#include "app/model_handle.h"
#include "cli/commands.h"
#include "cli/format.h"
#include "core/error.h"
#include "text/bpe_tokenizer.h"

namespace qalof::cli {

namespace {

text::BpeTokenizer open(const std::string& path) {
  if (!runtime::is_packed_file(path)) return text::BpeTokenizer::load(path);
  return text::BpeTokenizer::from_files(runtime::open_packed_file(path).files, path);
}

// {"ids": [...], "offsets": [[start, end], ...]}
std::string encoding_text(const text::Encoding& encoding) {
  Json offsets = Json::array();
  for (const auto& [start, end] : encoding.offsets) offsets.push_back({start, end});
  return Json{{"ids", encoding.ids}, {"offsets", offsets}}.dump();
}

}  // namespace

void run_tokenize(std::vector<std::string> arguments) {
  std::string model;
  bool jsonl = false, special = false;
  CommandLine line("tokenize", "Standard input to token ids and code-point offsets.",
                   "  echo 'Hello world' | qalof tokenize --model_name_or_path gpt2\n"
                   "  qalof tokenize --model_name_or_path gpt2 --jsonl < strings.jsonl\n",
                   std::move(arguments));
  line.option("--model_name_or_path", model, "directory with a tokenizer, or packed file")
      ->required();
  line.flag("--jsonl", jsonl,
            "each input line is a JSON string; one JSON object per line comes out");
  line.flag("--parse_special", special, "special tokens in the text become their ids");
  line.parse();
  const text::BpeTokenizer tokenizer = open(model);
  for (const std::string& warning : tokenizer.warnings()) line.observer().warn(warning);
  if (!jsonl) {
    const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
    const text::Encoding encoding = tokenizer.encode(input, special);
    line.print(parse_json(encoding_text(encoding), "tokenize"),
               fmt::format("{}\n", fmt::join(encoding.ids, " ")));
    return;
  }
  std::string input, output;
  for (std::size_t number = 1; std::getline(std::cin, input); ++number) {
    const std::string where = fmt::format("standard input: line {}", number);
    const Json value = parse_json(input, where);
    QALOF_CHECK(value.is_string(), ErrorKind::kBadInput, "{}: found {}, expected a JSON string",
                where, value.type_name());
    output += encoding_text(tokenizer.encode(value.get_ref<const std::string&>(), special)) + "\n";
    if (output.size() > (std::size_t{1} << 20)) {
      std::cout << output;
      output.clear();
    }
  }
  std::cout << output;
  std::cout.flush();
}

}  // namespace qalof::cli
