// Exports against what they are made of: every family through a GGUF file and back, merged weights
// against base + product, adapters as LoRA files, and what is refused.
#include "app/export/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "app/import/import.h"
#include "core/error.h"
#include "core/file.h"
#include "io/adapter_dir.h"
#include "io/gguf.h"
#include "io/model_dir.h"
#include "runtime/decoder.h"
#include "support/error_of.h"
#include "support/family_model.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"
#include "support/tiny_runtime.h"
#include "text/bpe_tokenizer.h"
#include "weights/adapter.h"

namespace qalof::app {
namespace export_test {

using qalof::testing::error_of;
using qalof::testing::TempDir;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Listener : public Observer {
 public:
  void info(std::string_view line) override { lines.emplace_back(line); }
  void warn(std::string_view line) override { warnings.emplace_back(line); }
  std::vector<std::string> lines, warnings;
};

class ExportTest : public ::testing::Test {
 protected:
  ExportResult run(ExportFormat format, const std::string& output,
                   std::optional<io::GgufType> type = std::nullopt,
                   const std::string& adapter = "") {
    options_.model = dir_.file("model");
    options_.format = format;
    options_.type = type;
    options_.adapter = adapter;
    options_.output = dir_.file(output);
    options_.threads = 2;
    listener_ = {};
    return run_export(options_, listener_);
  }
  void import(const std::string& source, const std::string& output) {
    ImportOptions options;
    options.source = dir_.file(source);
    options.output_dir = dir_.file(output);
    Observer observer;
    run_import(options, observer);
  }
  // An adapter directory of two widths for the model; head: of which kind.
  std::string write_adapters(std::optional<weights::HeadKind> head) {
    const auto base = weights::BaseModel::load_directory(dir_.file("model"));
    const auto set = qalof::testing::random_adapters(base->config(), {8, 4});
    io::AdapterDir described;
    described.base_id = "tiny";
    const std::string path = dir_.file("adapters");
    for (const auto& [width, adapter] : set->by_width) {
      weights::Adapter copy;
      copy.rank = adapter->rank;
      copy.alpha = adapter->alpha;
      for (std::size_t i = 0; i < adapter->linears.size(); ++i) {
        const weights::LoraLinear* pair = adapter->linears[i].get();
        const model::LinearSpec& spec = base->linears()[i];
        copy.linears.push_back(pair == nullptr ? nullptr
                                               : std::make_unique<weights::LoraLinear>(
                                                     pair->rank(), pair->view().scaling, pair->a(),
                                                     pair->b(), spec.in, spec.out));
      }
      const std::size_t hidden = base->config().hidden;
      if (head == weights::HeadKind::kSpan)
        copy.qa_head = weights::Head{2, std::vector<float>(2 * hidden, 0.5F), {1.0F, 2.0F}};
      if (head == weights::HeadKind::kClass)
        copy.class_head = weights::Head{3, std::vector<float>(3 * hidden, 0.5F), {}};
      described.adapters[width] = fmt::format("w{}", width);
      if (head) described.heads[width] = described.adapters[width];
      weights::save_adapter(path + "/" + described.adapters[width], copy, base->config(),
                            head.value_or(weights::HeadKind::kLm), "tiny");
    }
    if (head == weights::HeadKind::kClass) described.label_names = {"a", "b", "c"};
    io::write_adapter_dir(path, described);
    return path;
  }
  static std::vector<float> tensor(const io::GgufFile& file, const std::string& name) {
    const io::GgufTensor& stored = file.tensors().at(name);
    std::vector<float> values(stored.num_elements());
    io::copy_as_f32(stored, 0, values);
    return values;
  }
  // Losses of the tokens of a text.
  static std::vector<float> losses_of(const std::string& directory) {
    const auto base = weights::BaseModel::load_directory(directory);
    SerialFor serial;
    const auto execution = runtime::Execution::create(
        base, quant::resolve(quant::parse_plan("32"), base->target()), nullptr, serial);
    const std::vector<std::int32_t> ids = qalof::testing::family_tokens(20);
    runtime::DecoderWorkspace workspace;
    std::vector<float> hidden(ids.size() * base->config().hidden);
    const runtime::Sequence sequence{ids};
    runtime::forward(*execution, {&sequence, 1}, workspace, hidden.data(), serial);
    return runtime::lm_token_losses(*execution, hidden.data(), std::span(ids).subspan(1), serial);
  }
  TempDir dir_;
  ExportOptions options_;
  Listener listener_;
};

// What llama.cpp does not compute for a case's family.
const std::map<std::string, std::string>& lacking() {
  static const std::map<std::string, std::string> parts = {
      {"mistral_yarn", "beta_fast 32"},
      {"qwen3_window", "no biases of attention output"},
      {"gemma2_plain", "no biases of attention output"},
      {"smollm3_plain", "positions in other layers"},
      {"smollm3_window", "no biases of attention output"},
      {"gpt2_erf", "another activation"}};
  return parts;
}

TEST_F(ExportTest, EveryFamilySurvivesAGgufFileOrIsRefusedByName) {
  std::size_t survived = 0;
  for (const std::string& name : qalof::testing::family_case_names()) {
    SCOPED_TRACE(name);
    std::filesystem::remove_all(dir_.file("model"));
    std::filesystem::remove_all(dir_.file("back"));
    qalof::testing::write_family_model(dir_.file("model"),
                                       qalof::testing::family_cases().at(name)["config"]);
    options_.overwrite = true;
    const auto part = lacking().find(name);
    if (part != lacking().end()) {
      const auto error = error_of([&] { run(ExportFormat::kGguf, "m.gguf", io::GgufType::kF32); });
      EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
      EXPECT_THAT(error.message, HasSubstr(part->second));
      continue;
    }
    run(ExportFormat::kGguf, "m.gguf", io::GgufType::kF32);
    const std::vector<std::string> told = listener_.warnings;
    import("m.gguf", "back");
    const bool lost_windows = name == "mistral_window" || name == "qwen2_window";
    if (lost_windows) {
      EXPECT_THAT(told, Contains(HasSubstr("has windows of")));
      continue;
    }
    ++survived;
    const std::vector<float> expected = losses_of(dir_.file("model")),
                             found = losses_of(dir_.file("back"));
    // Gains are stored with 1 added, factors of scores inside q: roundings of f32.
    for (std::size_t t = 0; t < found.size(); ++t)
      ASSERT_LE(std::fabs(found[t] - expected[t]), 1e-4F * std::max(1.0F, expected[t])) << t;
  }
  EXPECT_GE(survived, 10U);
}

TEST_F(ExportTest, MergedIsBasePlusProductAndTheLoraFileIsTheDifference) {
  for (const Json& config : {qalof::testing::tiny_config(), qalof::testing::tiny_llama_config()}) {
    std::filesystem::remove_all(dir_.path());
    qalof::testing::write_model(dir_.file("model"), config);
    const std::string adapters = write_adapters(std::nullopt);
    const auto base = weights::BaseModel::load_directory(dir_.file("model"));
    const weights::AdapterSet set = weights::load_adapters(adapters, base->config());
    options_.bits = 4;
    const ExportResult result =
        run(ExportFormat::kHuggingFace, "merged", io::GgufType::kF32, adapters);
    EXPECT_EQ(result.bits, 4);
    EXPECT_THAT(listener_.lines, Contains(HasSubstr("the adapter of 4 bits")));
    const auto merged = weights::BaseModel::load_directory(dir_.file("merged"));
    EXPECT_THAT(merged->warnings(), IsEmpty());
    for (std::size_t i = 0; i < base->linears().size(); ++i) {
      const weights::LoraLinear& pair = *set.by_width.at(4)->linears[i];
      const model::LinearSpec& spec = base->linears()[i];
      const std::vector<float> plain = base->source().linear_f32(i),
                               found = merged->source().linear_f32(i);
      for (std::size_t o = 0; o < spec.out; ++o) {
        for (std::size_t k = 0; k < spec.in; ++k) {
          double expected = static_cast<double>(plain[o * spec.in + k]);
          for (std::size_t r = 0; r < pair.rank(); ++r)
            expected += static_cast<double>(pair.view().scaling) *
                        static_cast<double>(pair.b()[o * pair.rank() + r]) *
                        static_cast<double>(pair.a()[r * spec.in + k]);
          ASSERT_NEAR(static_cast<double>(found[o * spec.in + k]), expected, 1e-5) << spec.name;
        }
      }
    }
    run(ExportFormat::kGguf, "merged.gguf", io::GgufType::kF32, adapters);
    run(ExportFormat::kGgufLora, "lora.gguf", std::nullopt, adapters);
    options_.bits.reset();
    run(ExportFormat::kGguf, "base.gguf", io::GgufType::kF32);
    const auto lora = io::GgufFile::open(dir_.file("lora.gguf")),
               whole = io::GgufFile::open(dir_.file("merged.gguf")),
               plain = io::GgufFile::open(dir_.file("base.gguf"));
    EXPECT_EQ(lora.string("general.type"), "adapter");
    EXPECT_EQ(lora.string("adapter.type"), "lora");
    const double alpha = lora.number("adapter.lora.alpha").value();
    EXPECT_EQ(lora.tensors().size(), 2 * base->linears().size());
    for (const auto& [name, a] : lora.tensors()) {
      if (!name.ends_with(".lora_a")) continue;
      const std::string weight = name.substr(0, name.size() - 7);
      const std::size_t rank = a.shape[0], in = a.shape[1];
      const std::vector<float> b = tensor(lora, weight + ".lora_b"), values = tensor(lora, name),
                               before = tensor(plain, weight), after = tensor(whole, weight);
      for (std::size_t i = 0; i < after.size(); ++i) {
        double product = 0;
        for (std::size_t r = 0; r < rank; ++r)
          product += static_cast<double>(b[i / in * rank + r]) *
                     static_cast<double>(values[r * in + i % in]);
        ASSERT_NEAR(static_cast<double>(after[i] - before[i]),
                    alpha / static_cast<double>(rank) * product, 1e-5)
            << weight;
      }
    }
  }
}

TEST_F(ExportTest, ImportedFilesComeBackWithTheirTokenizer) {
  Observer observer;
  ImportOptions options;
  options.source = QALOF_SOURCE_DIR "/tests/app/data/gguf/tiny.gguf";
  options.output_dir = dir_.file("model");
  run_import(options, observer);
  run(ExportFormat::kGguf, "m.gguf", io::GgufType::kF32);
  EXPECT_THAT(listener_.warnings, IsEmpty());
  import("m.gguf", "back");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_EQ(read_json_file(dir_.file(std::string("back/") + name)),
              read_json_file(dir_.file(std::string("model/") + name)));
  }
  const auto before = io::SafetensorsFile::open(dir_.file("model/model.safetensors")),
             after = io::SafetensorsFile::open(dir_.file("back/model.safetensors"));
  for (const auto& [name, view] : before.tensors()) {
    std::vector<float> expected(view.num_elements()), found(view.num_elements());
    io::copy_as_f32(view, expected);
    io::copy_as_f32(after.tensors().at(name), found);
    EXPECT_EQ(std::memcmp(expected.data(), found.data(), found.size() * sizeof(float)), 0) << name;
  }
}

// Gemma's tokens of several spaces, in texts with spaces and with the character that stands for
// them.
TEST_F(ExportTest, RunsOfSpacesComeBackAsTheyWere) {
  Json tokenizer = read_json_file(QALOF_SOURCE_DIR "/tests/text/data/kinds/gemma3.json");
  Json& vocabulary = tokenizer["model"]["vocab"];
  Json merges = Json::array();
  std::vector<std::string> runs = {"", "\u2581"};
  for (std::size_t length = 2; length <= 4; ++length) {
    runs.push_back(runs.back() + "\u2581");
    const std::size_t id = vocabulary.size();
    vocabulary[runs[length]] = id;
    tokenizer["added_tokens"].push_back({{"id", id},
                                         {"content", runs[length]},
                                         {"single_word", false},
                                         {"lstrip", false},
                                         {"rstrip", false},
                                         {"normalized", false},
                                         {"special", false}});
  }
  for (std::size_t length = 4; length >= 2; --length)
    for (std::size_t left = length - 1; left >= 1; --left)
      merges.push_back({runs[left], runs[length - left]});
  for (const Json& merge : tokenizer["model"]["merges"]) merges.push_back(merge);
  tokenizer["model"]["merges"] = merges;
  Json config = qalof::testing::tiny_llama_config();
  config["vocab_size"] = vocabulary.size();
  qalof::testing::write_model(dir_.file("model"), config);
  std::ofstream(dir_.file("model/tokenizer.json")) << tokenizer.dump();
  run(ExportFormat::kGguf, "m.gguf", io::GgufType::kF32);
  import("m.gguf", "back");
  const auto before = text::BpeTokenizer::load(dir_.file("model")),
             after = text::BpeTokenizer::load(dir_.file("back"));
  const std::vector<std::string> units = {"\u2581", "\u2581\u2581", " ", "  ", "   ", "the",
                                          "a",      "\n",           ".", "0"};
  const RandomStream random(1, "runs");
  std::size_t runs_seen = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    std::string text;
    for (std::uint64_t k = 0; k < 1 + i % 9; ++k) text += units[random.below(units.size(), i, k)];
    const std::vector<std::int32_t> ids = before.encode(text).ids;
    EXPECT_EQ(after.encode(text).ids, ids) << text;
    for (const std::int32_t id : ids)
      runs_seen += static_cast<std::size_t>(id) + 3 >= vocabulary.size();
    EXPECT_EQ(after.decode(ids), before.decode(ids)) << text;
  }
  EXPECT_GT(runs_seen, 500U);
}

TEST_F(ExportTest, TypesAreChosenByTensor) {
  Json config = qalof::testing::tiny_llama_config();
  config["hidden_size"] = 96;  // inner 80 is no multiple of a block
  qalof::testing::write_model(dir_.file("model"), config);
  const ExportResult result = run(ExportFormat::kGguf, "m.gguf", io::GgufType::kQ4_0);
  EXPECT_EQ(result.bytes, std::filesystem::file_size(dir_.file("m.gguf")));
  EXPECT_THAT(listener_.lines, Contains(HasSubstr("MB to write")));
  EXPECT_THAT(listener_.warnings, Contains(HasSubstr("2 matrices have rows that are no multiple")));
  EXPECT_THAT(listener_.warnings, Contains(HasSubstr("the head beside the LM head is left out")));
  EXPECT_THAT(listener_.warnings, Contains(HasSubstr("has no tokenizer")));
  const auto file = io::GgufFile::open(dir_.file("m.gguf"));
  const auto type = [&](const char* name) { return file.tensors().at(name).type; };
  EXPECT_EQ(type("token_embd.weight"), io::GgufType::kQ8_0);
  EXPECT_EQ(type("blk.1.attn_q.weight"), io::GgufType::kQ4_0);
  EXPECT_EQ(type("blk.1.ffn_down.weight"), io::GgufType::kF16);
  EXPECT_EQ(type("blk.1.attn_norm.weight"), io::GgufType::kF32);
  EXPECT_EQ(file.integer("general.file_type", 100), 2U);
  // Without --type, f32 weights become f16.
  EXPECT_EQ(run(ExportFormat::kGguf, "n.gguf").type, "f16");
}

TEST_F(ExportTest, HeadsGoWithAHuggingFaceDirectoryAlone) {
  qalof::testing::write_model(dir_.file("model"), qalof::testing::tiny_config());
  std::string adapters = write_adapters(weights::HeadKind::kClass);
  for (const ExportFormat format : {ExportFormat::kGguf, ExportFormat::kGgufLora}) {
    const auto error = error_of([&] { run(format, "m.gguf", std::nullopt, adapters); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
    EXPECT_THAT(error.message, HasSubstr("has a classification head"));
    EXPECT_FALSE(path_exists(dir_.file("m.gguf")));
  }
  run(ExportFormat::kHuggingFace, "hf", io::GgufType::kF16, adapters);
  Json config = read_json_file(dir_.file("hf/config.json"));
  EXPECT_EQ(config["architectures"], Json::array({"GPT2ForSequenceClassification"}));
  EXPECT_EQ(config["id2label"]["2"], "c");
  EXPECT_EQ(config["dtype"], "float16");
  auto merged = weights::BaseModel::load_directory(dir_.file("hf"));
  ASSERT_TRUE(merged->class_head());
  EXPECT_EQ(merged->class_head()->outputs, 3U);
  EXPECT_FALSE(merged->qa_head());
  adapters = write_adapters(weights::HeadKind::kSpan);
  options_.overwrite = true;
  run(ExportFormat::kHuggingFace, "hf", io::GgufType::kBF16, adapters);
  merged = weights::BaseModel::load_directory(dir_.file("hf"));
  ASSERT_TRUE(merged->qa_head());
  EXPECT_EQ(merged->qa_head()->bias, (std::vector<float>{1.0F, 2.0F}));
  EXPECT_EQ(read_json_file(dir_.file("hf/config.json"))["architectures"],
            Json::array({"GPT2ForQuestionAnswering"}));
}

// In containers every run may have the same process number.
TEST_F(ExportTest, AKilledRunLeavesNothingInTheNextDirectory) {
  qalof::testing::write_model(dir_.file("model"), qalof::testing::tiny_config());
  for (const char* kind : {"tmp", "replaced"}) {
    const std::string left =
        dir_.file("hf." + std::string(kind) + "-" + std::to_string(::getpid()));
    std::filesystem::create_directories(left);
    write_file_atomic(left + "/model-00001-of-00002.safetensors", "left");
  }
  run(ExportFormat::kHuggingFace, "hf");
  EXPECT_FALSE(path_exists(dir_.file("hf/model-00001-of-00002.safetensors")));
  EXPECT_TRUE(path_exists(dir_.file("hf/model.safetensors")));
}

TEST_F(ExportTest, RefusalsSayWhatToDo) {
  qalof::testing::write_model(dir_.file("model"), qalof::testing::tiny_config());
  const std::string adapters = write_adapters(std::nullopt);
  const auto refused = [&](ErrorKind kind, const std::function<void()>& what) {
    const auto error = error_of(what);
    EXPECT_EQ(error.kind, kind) << error.message;
    return error.message;
  };
  using enum ExportFormat;
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kHuggingFace, "m", io::GgufType::kQ8_0); }),
              HasSubstr("--type q8_0: --format hf holds f16, bf16 or f32"));
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kGgufLora, "m"); }),
              HasSubstr("--format gguf-lora: writes an --adapter"));
  options_.bits = 5;
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kGguf, "m", std::nullopt, adapters); }),
              HasSubstr("has adapters of 4, 8 bits"));
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kGguf, "m"); }), HasSubstr("--bits"));
  options_.bits.reset();
  run(kGguf, "m");
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kGguf, "m"); }),
              HasSubstr("exists already, --overwrite replaces it"));
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kHuggingFace, "m"); }),
              HasSubstr("is a file, --format hf writes a directory"));
  run(kHuggingFace, "hf");
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kHuggingFace, "hf"); }),
              HasSubstr("already, --overwrite replaces it"));
  options_.overwrite = true;
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kHuggingFace, "model"); }),
              HasSubstr("is read; choose another directory"));
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kGguf, "model/model.safetensors"); }),
              HasSubstr("which is read"));
  write_file_atomic(dir_.file("hf/notes.md"), "mine");
  EXPECT_THAT(refused(ErrorKind::kUsage, [&] { run(kHuggingFace, "hf"); }),
              HasSubstr("holds notes.md, which is no part of a model"));
}

TEST_F(ExportTest, AFullDiskLeavesTheOldOutput) {
  qalof::testing::write_model(dir_.file("model"), qalof::testing::tiny_config());
  options_.overwrite = true;
  options_.model = dir_.file("model");
  options_.format = ExportFormat::kGguf;
  options_.output = "/dev/full";
  EXPECT_EQ(error_of([&] { run_export(options_, listener_); }).kind, ErrorKind::kResource);
  options_.format = ExportFormat::kHuggingFace;
  options_.output = "/proc/self/no-such-place/model";
  EXPECT_EQ(error_of([&] { run_export(options_, listener_); }).kind, ErrorKind::kResource);
  run(ExportFormat::kHuggingFace, "hf");
  const std::string old = read_file(dir_.file("hf/config.json"), 1 << 20);
  // A weight that f16 cannot hold stops the export in the middle.
  std::string bytes = read_file(dir_.file("model/model.safetensors"), std::size_t{8} << 20);
  const float large = 1e6F;
  std::memcpy(bytes.data() + bytes.size() - 4, &large, 4);
  write_file_atomic(dir_.file("model/model.safetensors"), bytes);
  const auto error = error_of([&] { run(ExportFormat::kHuggingFace, "hf", io::GgufType::kF16); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message, HasSubstr("beyond the range of f16"));
  EXPECT_EQ(read_file(dir_.file("hf/config.json"), 1 << 20), old);
  std::size_t entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir_.path()))
    entries += entry.path().filename().string().starts_with("hf") ? 1 : 0;
  EXPECT_EQ(entries, 1U);
}

}  // namespace export_test
}  // namespace qalof::app
