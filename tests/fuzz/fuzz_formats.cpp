// One entry per file format for the fuzzers: reads hostile bytes with the program's own reader, and
// accepts success or an Error.
#include "fuzz/fuzz_formats.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "app/gguf/config_in.h"
#include "app/gguf/tokenizer_in.h"
#include "core/error.h"
#include "core/json.h"
#include "fuzz/fuzz_http.h"
#include "io/gguf.h"
#include "io/hub/select.h"
#include "io/peft_modules.h"
#include "io/safetensors.h"
#include "model/config.h"
#include "quant/plan.h"
#include "serve/request_body.h"
#include "text/bpe_tokenizer.h"
#include "text/chat_template.h"
#include "text/classification.h"
#include "text/split_pattern.h"
#include "text/squad.h"

namespace qalof::fuzz {

namespace {

std::string_view text_of(std::span<const std::byte> input) {
  return {reinterpret_cast<const char*>(input.data()), input.size()};
}

// The input as a file in memory, for readers that map one.
class MemoryFile {
 public:
  explicit MemoryFile(std::span<const std::byte> input) : fd_(::memfd_create("input", 0)) {
    if (fd_ < 0 || ::write(fd_, input.data(), input.size()) != static_cast<::ssize_t>(input.size()))
      std::abort();
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return fmt::format("/proc/self/fd/{}", fd_); }

 private:
  int fd_;
};

// Runs a reader; true where it accepts.
template <typename Read>
bool accepts(Read&& read) {
  try {
    read();
    return true;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    return false;
  }
}

bool read_gguf(std::span<const std::byte> input) {
  const MemoryFile memory(input);
  return accepts([&] {
    const io::GgufFile file = io::GgufFile::open(memory.path());
    for (const auto& [name, tensor] : file.tensors()) {
      if (tensor.shape.empty() || tensor.num_elements() == 0) continue;
      // The first and the last row.
      const std::size_t cols = tensor.shape.back();
      std::vector<float> row(cols);
      io::copy_as_f32(tensor, 0, row);
      io::copy_as_f32(tensor, tensor.num_elements() / cols - 1, row);
    }
    for (const char* key :
         {"general.architecture", "tokenizer.ggml.model", "llama.block_count",
          "llama.rope.freq_base", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}) {
      accepts([&] { file.string(key); });
      accepts([&] { file.integer(key, 1'000'000); });
      accepts([&] { file.number(key); });
      accepts([&] { file.boolean(key); });
      accepts([&] { file.strings(key, 1'000'000); });
      accepts([&] { file.integers(key, 1'000'000); });
    }
    // What import makes of the metadata; a file may also hold tensors alone.
    accepts([&] {
      const app::GgufArchitecture& architecture = app::find_architecture(file);
      const Json raw = app::config_of(file, architecture);
      const model::ModelConfig config = model::parse_model_config(raw, "fuzz");
      app::tokenizer_files(file, config.vocab_size);
    });
  });
}

bool read_safetensors(std::span<const std::byte> input) {
  const MemoryFile memory(input);
  return accepts([&] {
    const io::SafetensorsFile file = io::SafetensorsFile::open(memory.path());
    for (const auto& tensor : file.tensors()) {
      accepts([&] {
        std::vector<float> values(tensor.second.num_elements());
        io::copy_as_f32(tensor.second, values);
      });
    }
  });
}

bool read_tokenizer(std::span<const std::byte> input) {
  return accepts([&] {
    const auto tokenizer =
        text::BpeTokenizer::from_files({{"tokenizer.json", std::string(text_of(input))}}, "fuzz");
    const std::string sample =
        "Ab 12\n cafe\u0301 \u4e2d \u1100\u1161 \U0001f600<|endoftext|></s>  ";
    for (const bool special : {false, true})
      tokenizer.decode(tokenizer.encode(sample, special).ids);
  });
}

bool read_split_pattern(std::span<const std::byte> input) {
  return accepts([&] {
    const auto pattern = text::SplitPattern::parse(text_of(input), "fuzz");
    for (const char* sample : {"Ab 12\n\n caf\u00e9's \u4e2d", "aaaaaaaaaaaaaaaaaaaaaaaa b1"}) {
      text::SplitPattern::Search search(sample);
      search.steps = 100'000;
      accepts([&] {
        std::size_t at = 0;
        while (const auto match = pattern.find(search, at)) {
          if (match->start < at || match->end <= match->start) std::abort();
          at = match->end;
        }
      });
    }
  });
}

bool read_config(std::span<const std::byte> input) {
  return accepts([&] {
    const model::ModelConfig config =
        model::parse_model_config(parse_json(text_of(input), "fuzz"), "fuzz");
    // Shapes of the largest models that are allowed still fit.
    model::parameter_count(config);
    for (const auto& rotary : {config.rotary, config.sliding_rotary}) {
      if (!rotary) continue;
      for (const std::size_t length : {std::size_t{1}, config.max_length()})
        model::rotary_frequencies(*rotary, config.head_dim(), length);
    }
  });
}

bool read_classification(std::span<const std::byte> input) {
  // The name tells the form, so the file has one; a tab chooses.
  const std::filesystem::path directory =
      std::filesystem::temp_directory_path() / fmt::format("qalof-fuzz-{}", ::getpid());
  std::filesystem::create_directories(directory);
  const MemoryFile memory(input);
  const bool csv = text_of(input).find('\t') == std::string_view::npos;
  const std::filesystem::path link = directory / (csv ? "data.csv" : "data.tsv");
  std::filesystem::remove(link);
  std::filesystem::create_symlink(memory.path(), link);
  const bool accepted = accepts([&] { text::scan_classification(link.string()); });
  std::filesystem::remove_all(directory);
  return accepted;
}

bool read_squad(std::span<const std::byte> input) {
  const MemoryFile memory(input);
  return accepts([&] {
    text::scan_squad(memory.path());
    text::repeated_ids(memory.path(), 0);
  });
}

const model::ModelConfig& small_config() {
  static const model::ModelConfig config = model::parse_model_config(
      parse_json(R"({"model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
                     "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 12,
                     "vocab_size": 50, "max_position_embeddings": 32})",
                 "fuzz"),
      "fuzz");
  return config;
}

bool read_adapter_config(std::span<const std::byte> input) {
  return accepts([&] {
    std::vector<std::string> warnings;
    const io::PeftConfig config = io::parse_peft_config(text_of(input), "fuzz", &warnings);
    std::vector<std::string> names = {"lm_head", ""};
    for (const model::LinearSpec& spec : model::linears(small_config()))
      names.push_back("model." + spec.name);
    io::peft_modules(config, names, "fuzz");
  });
}

bool read_plan(std::span<const std::byte> input) {
  return accepts([&] {
    const quant::PlanSpec spec = quant::plan_from_json(parse_json(text_of(input), "fuzz"), "fuzz");
    // What was read can be written and read again.
    const quant::PlanSpec again = quant::plan_from_json(quant::to_json(spec), "fuzz");
    const quant::PlanTarget target = model::plan_target(small_config());
    accepts([&] {
      const quant::PrecisionPlan plan = quant::resolve(spec, target);
      quant::describe(plan, target);
      if (!spec.covers_every_module && plan != quant::resolve(again, target)) std::abort();
    });
  });
}

// {"name": what a user asks for, "files": a page of a hub's list, "index": of shards}. What would
// be fetched lies below the repository's directory, whatever the hub says.
bool read_hub_list(std::span<const std::byte> input) {
  return accepts([&] {
    const Json json = parse_json(text_of(input), "fuzz");
    QALOF_CHECK(json.is_object() && json.contains("files") && json.contains("index"),
                ErrorKind::kBadInput, "fuzz: parts are missing");
    const auto name = io::parse_hub_name(json_string(json, "name", "fuzz"));
    QALOF_CHECK(name, ErrorKind::kBadInput, "fuzz: no name");
    if (io::to_string(*io::parse_hub_name(io::to_string(*name))) != io::to_string(*name))
      std::abort();
    io::HubListing listing;
    io::add_listing_page(json["files"], "fuzz", listing);
    const auto check = [](const std::vector<io::HubFile>& files) {
      for (const io::HubFile& file : files) {
        if (!io::is_safe_hub_path(file.path) || !io::is_hex(file.hash)) std::abort();
        if (io::is_pickle_name(file.path)) std::abort();
      }
    };
    for (const io::HubUse use :
         {io::HubUse::kAny, io::HubUse::kModel, io::HubUse::kAdapter, io::HubUse::kTokenizer}) {
      accepts([&] { check(io::select_files(listing, *name, use)); });
    }
    check(io::list_shards(json["index"], listing, *name));
  });
}

bool read_chat_template(std::span<const std::byte> input) {
  return accepts([&] {
    const auto parsed = text::ChatTemplate::parse(
        text_of(input), {{"bos_token", "<s>"}, {"eos_token", "</s>"}}, "fuzz");
    const text::ChatMessage messages[] = {
        {"system", " S\n"}, {"user", "caf\u00e9 <think>"}, {"assistant", "a</think> b"}};
    text::ChatOptions options;
    options.now = text::jinja::Moment{};
    for (const bool prompt : {false, true}) {
      options.add_generation_prompt = prompt;
      accepts([&] { parsed.render_marked(messages, options); });
    }
  });
}

// A body as every route reads it: accepted where one of them does.
bool read_request(std::span<const std::byte> input) {
  const serve::Limits limits;
  const std::string_view body = text_of(input);
  bool accepted = false;
  const auto try_route = [&](const auto& parse) {
    try {
      parse();
      accepted = true;
    } catch (const serve::ApiError& error) {
      if (error.status != 400 || serve::json_text(serve::error_json(error)).empty()) std::abort();
    }
  };
  try_route([&] {
    const serve::CompletionRequest request = serve::parse_completion(body, limits);
    if (request.n * request.prompts.size() > limits.choices) std::abort();
    if (!(request.temperature >= 0 && request.temperature <= 2)) std::abort();
    if (request.choice.precision.is_object())
      accepts([&] { quant::plan_from_json(request.choice.precision, "fuzz"); });
  });
  try_route([&] { serve::parse_chat(body, limits); });
  try_route([&] { serve::parse_answer(body, limits); });
  try_route([&] { serve::parse_classification(body, limits); });
  try_route([&] { serve::parse_tokenize(body, limits); });
  try_route([&] { serve::parse_detokenize(body, limits); });
  try_route([&] { serve::parse_adapter(body, limits, true); });
  return accepted;
}

}  // namespace

const std::vector<Format>& formats() {
  static const std::vector<Format> all = {
      {"gguf", read_gguf, {"tests/app/data/gguf/tiny.gguf", "tests/app/data/gguf/blocks.gguf"}},
      {"safetensors", read_safetensors, {"tests/runtime/data/gpt2/bf16/model.safetensors"}},
      {"tokenizer",
       read_tokenizer,
       {"tests/text/data/tiny/tokenizer.json", "tests/text/data/kinds/llama2.json",
        "tests/text/data/kinds/gemma3.json", "tests/text/data/kinds/qwen3.json",
        "tests/text/data/kinds/deepseek_v3.json"}},
      {"split_pattern",
       read_split_pattern,
       {"tests/fuzz/corpus/split_pattern/llama3.txt", "tests/fuzz/corpus/split_pattern/sets.txt",
        "tests/fuzz/corpus/split_pattern/groups.txt"}},
      {"config",
       read_config,
       {"tests/runtime/data/gpt2/f32/config.json", "tests/runtime/data/llama/tied/config.json",
        "tests/fuzz/corpus/config/mistral_yarn.json", "tests/fuzz/corpus/config/qwen2_window.json",
        "tests/fuzz/corpus/config/qwen3_window.json", "tests/fuzz/corpus/config/gemma2_caps.json",
        "tests/fuzz/corpus/config/gemma3_nested.json", "tests/fuzz/corpus/config/gemma3_inner.json",
        "tests/fuzz/corpus/config/phi3_long.json", "tests/fuzz/corpus/config/smollm3_window.json"}},
      {"classification",
       read_classification,
       {"tests/fuzz/corpus/classification/ag_news.csv",
        "tests/fuzz/corpus/classification/sst2.tsv"}},
      {"squad",
       read_squad,
       {"tests/fuzz/corpus/squad/nested.json", "tests/fuzz/corpus/squad/flat.json",
        "tests/fuzz/corpus/squad/lines.jsonl"}},
      {"hub_list",
       read_hub_list,
       {"tests/fuzz/corpus/hub_list/shards.json", "tests/fuzz/corpus/hub_list/parts.json"}},
      {"adapter_config",
       read_adapter_config,
       {"tests/fuzz/corpus/adapter_config/regex.json",
        "tests/fuzz/corpus/adapter_config/layers.json"}},
      {"chat_template",
       read_chat_template,
       {"tests/text/data/chat/thinking.jinja", "tests/text/data/chat/header_names.jinja",
        "tests/text/data/chat/instructions.jinja", "tests/text/data/chat/generation.jinja"}},
      {"plan",
       read_plan,
       {"tests/fuzz/corpus/plan/rules.json", "tests/fuzz/corpus/plan/flat.json"}},
      {"request",
       read_request,
       {"tests/fuzz/corpus/request/completion.json", "tests/fuzz/corpus/request/chat.json",
        "tests/fuzz/corpus/request/answer.json", "tests/fuzz/corpus/request/tokens.json"}},
      {"http",
       read_http,
       {"tests/fuzz/corpus/http/length.txt", "tests/fuzz/corpus/http/chunks.txt",
        "tests/fuzz/corpus/http/two.txt"}}};
  return all;
}

const Format& format_of(const std::string& name) {
  for (const Format& format : formats()) {
    if (format.name == name) return format;
  }
  std::abort();
}

}  // namespace qalof::fuzz
