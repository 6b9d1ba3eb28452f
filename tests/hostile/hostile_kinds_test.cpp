// The sound samples are read; the definitions behind hostile_kinds.h.
#include "hostile/hostile_kinds.h"

#include <sys/stat.h>

#include <fstream>

#include "core/file.h"
#include "io/adapter_dir.h"
#include "io/gguf.h"
#include "quant/plan.h"
#include "support/count_allocations.h"
#include "support/gguf_bytes.h"
#include "support/thread_seconds.h"
#include "support/tiny_model.h"
#include "text/bpe_tokenizer.h"
#include "text/squad.h"
#include "weights/adapter.h"
#include "weights/packed_file.h"

namespace qalof::testing {
namespace {

void put_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

Json nano_config() {
  Json config = tiny_config();
  config.update({{"vocab_size", 5},
                 {"n_positions", 4},
                 {"n_embd", 4},
                 {"n_layer", 1},
                 {"n_head", 1},
                 {"bos_token_id", 4},
                 {"eos_token_id", 4}});
  return config;
}
model::ModelConfig parsed_config() { return model::parse_model_config(nano_config(), "test"); }

void write_nano_model(const std::string& directory) { write_model(directory, nano_config()); }

void write_sharded_model(const std::string& directory) {
  write_nano_model(directory);
  Json map = Json::object();
  const std::string shard = "model-00001-of-00001.safetensors";
  std::filesystem::rename(directory + "/model.safetensors", directory + "/" + shard);
  const auto file = io::SafetensorsFile::open(directory + "/" + shard);
  for (const auto& [name, view] : file.tensors()) map[name] = shard;
  put_file(directory + "/model.safetensors.index.json", Json{{"weight_map", map}}.dump());
}

// The 256 characters that stand for bytes, and one merge.
Json vocabulary() {
  Json vocab = Json::object();
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const int point = is_itself ? byte : next++;
    std::string text;
    if (point < 128) {
      text = static_cast<char>(point);
    } else {
      text = {static_cast<char>(0xc0 | point >> 6), static_cast<char>(0x80 | (point & 0x3f))};
    }
    vocab[text] = byte;
  }
  vocab["th"] = 256;
  return vocab;
}

void write_tokenizer_json(const std::string& directory) {
  const Json json = {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                     {"model", {{"type", "BPE"}, {"vocab", vocabulary()}, {"merges", {"t h"}}}}};
  put_file(directory + "/tokenizer.json", json.dump());
}

void write_vocab_and_merges(const std::string& directory) {
  put_file(directory + "/vocab.json", vocabulary().dump());
  put_file(directory + "/merges.txt", "#version: 0.2\nt h\n");
}

std::shared_ptr<weights::AdapterSet> nano_adapters() {
  const model::ModelConfig config = parsed_config();
  auto adapter = std::make_shared<weights::Adapter>();
  adapter->rank = 1;
  adapter->alpha = 2;
  for (const model::LinearSpec& spec : model::linears(config)) {
    adapter->linears.push_back(std::make_unique<weights::LoraLinear>(
        1, 2.0F, tensor_values(spec.name + "a", spec.in, 0.1F),
        tensor_values(spec.name + "b", spec.out, 0.1F), spec.in, spec.out));
  }
  adapter->qa_head = weights::Head{2, tensor_values("head", 2 * config.hidden, 0.3F), {0.1F, 0.2F}};
  auto set = std::make_shared<weights::AdapterSet>();
  set->by_width[4] = std::move(adapter);
  return set;
}

void write_peft(const std::string& directory) {
  weights::save_adapter(directory, *nano_adapters()->by_width.at(4), parsed_config(),
                        weights::HeadKind::kSpan, "base");
}

void write_output_directory(const std::string& directory) {
  write_peft(directory + "/w4");
  io::AdapterDir dir;
  dir.base_id = "base";
  dir.scheme = "seed";
  dir.adapters = {{4, "w4"}};
  dir.heads = {{4, "w4"}};
  io::write_adapter_dir(directory, dir);
}

void write_packed(const std::string& directory) {
  const TempDir model;
  write_nano_model(model.path());
  SerialFor serial;
  weights::write_packed_file(directory + "/model.qalof",
                             {weights::BaseModel::load_directory(model.path()),
                              nano_adapters(),
                              {4},
                              std::nullopt,
                              "",
                              quant::QuantScheme{32, true},
                              {8}},
                             serial);
}

void load_model(const std::string& directory) { weights::BaseModel::load_directory(directory); }
void load_tokenizer(const std::string& directory) { text::BpeTokenizer::load(directory); }
void load_adapter(const std::string& directory) {
  weights::load_adapters(directory, parsed_config());
}
void load_squad(const std::string& directory) { text::scan_squad(directory + "/squad.json"); }
void load_plan(const std::string& directory) {
  quant::resolve(quant::parse_plan(directory + "/plan.json"), model::plan_target(parsed_config()));
}
// As commands do for --model_name_or_path.
void load_packed(const std::string& directory) {
  const std::string path = directory + "/model.qalof";
  if (!weights::is_packed_file(path)) return load_model(path);
  const weights::PackedModel packed = weights::open_packed_file(path);
  SerialFor serial;
  for (std::size_t i = 0; i < packed.base->linears().size(); ++i)
    packed.base->packed(i, {{4}, {8}}, *packed.plan.scheme, serial);
  if (!packed.lm_head_bits.empty())
    packed.base->lm_head(quant::BitWidth{packed.lm_head_bits.front()}, serial);
}

// Values of every form and two tensors.
void write_gguf(const std::string& directory) {
  GgufBytes file;
  file.entry("general.architecture", 8, GgufBytes::text("llama"));
  file.entry("llama.block_count", 4, GgufBytes::raw<std::uint32_t>(2));
  file.entry("llama.rope.freq_base", 6, GgufBytes::raw(1e4F));
  file.list("tokens", 8, 2, GgufBytes::text("a") + GgufBytes::text("bc"));
  file.list("types", 5, 2, GgufBytes::raw<std::int32_t>(1) + GgufBytes::raw<std::int32_t>(3));
  file.tensor("w", {32, 2}, 8, 0);
  file.tensor("norm", {8}, 0, 96);
  file.data.resize(128, '\1');
  put_file(directory + "/model.gguf", file.bytes());
}
void load_gguf(const std::string& directory) {
  const auto file = io::GgufFile::open(directory + "/model.gguf");
  file.string("general.architecture");
  file.integer("llama.block_count", 1000);
  file.number("llama.rope.freq_base");
  file.strings("tokens", 1'000'000);
  file.integers("types", 1'000'000);
  for (const auto& [name, tensor] : file.tensors()) {
    std::vector<float> values(tensor.num_elements());
    io::copy_as_f32(tensor, 0, values);
  }
}

std::function<void(const std::string&)> writes(const char* file, const char* text) {
  return [=](const std::string& directory) { put_file(directory + "/" + file, text); };
}

constexpr const char* kNested =
    R"({"data":[{"title":"t","paragraphs":[{"context":"a b","qas":[{"id":"1","question":"q",)"
    R"("answers":[{"text":"a","answer_start":0}],"is_impossible":false}]}]}],"version":"1.1"})";
constexpr const char* kExample =
    R"({"id":"1","context":"a b","question":"q","answers":{"text":["a"],"answer_start":[0]}})";
constexpr const char* kPlan =
    R"({"format_version":1,"scheme":"seed","default":"w8a8kv8","head":8,"rules":[{"match":"h\\..*",)"
    R"("set":"w4a4"}],"modules":{"h.0.attn.c_attn":"w4a8"},"kv":{"0":{"k":4,"v":4}}})";

}  // namespace

const std::vector<HostileKind>& hostile_kinds() {
  static const std::string flat = std::string("[") + kExample + "]";
  static const std::vector<HostileKind> kinds = {
      {"ModelConfig", Format::kJson, "config.json", write_nano_model, load_model},
      {"ModelWeights", Format::kSafetensors, "model.safetensors", write_nano_model, load_model},
      {"ShardIndex", Format::kJson, "model.safetensors.index.json", write_sharded_model,
       load_model},
      {"TokenizerJson", Format::kJson, "tokenizer.json", write_tokenizer_json, load_tokenizer},
      {"VocabJson", Format::kJson, "vocab.json", write_vocab_and_merges, load_tokenizer},
      {"MergesTxt", Format::kText, "merges.txt", write_vocab_and_merges, load_tokenizer},
      {"SquadNested", Format::kJson, "squad.json", writes("squad.json", kNested), load_squad},
      {"SquadFlat", Format::kJson, "squad.json", writes("squad.json", flat.c_str()), load_squad},
      {"SquadLines", Format::kJson, "squad.json", writes("squad.json", kExample), load_squad},
      {"PeftConfig", Format::kJson, "adapter_config.json", write_peft, load_adapter},
      {"PeftWeights", Format::kSafetensors, "adapter_model.safetensors", write_peft, load_adapter},
      {"OutputDirectory", Format::kJson, "qalof.json", write_output_directory, load_adapter},
      {"AdapterOfOutputDirectory", Format::kJson, "w4/adapter_config.json", write_output_directory,
       load_adapter},
      {"PlanFile", Format::kJson, "plan.json", writes("plan.json", kPlan), load_plan},
      {"Gguf", Format::kSafetensors, "model.gguf", write_gguf, load_gguf},
      {"PackedFile", Format::kSafetensors, "model.qalof", write_packed, load_packed},
  };
  return kinds;
}

HostileSample::HostileSample(const HostileKind& kind) : kind_(kind) {
  kind_.write(dir_.path());
  sound_ = read_file(path(), std::size_t{1} << 20);
}

void HostileSample::remove() const { std::filesystem::remove_all(path()); }

void HostileSample::put(const std::string& bytes) const {
  // A new file each time: what a symbolic link leads to stays as it is.
  remove();
  put_file(path(), bytes);
}

Outcome HostileSample::load(double max_seconds) const {
  std::size_t file_bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_.path())) {
    struct stat status {};
    if (::stat(entry.path().c_str(), &status) == 0 && S_ISREG(status.st_mode))
      file_bytes += static_cast<std::size_t>(status.st_size);
  }
  Outcome outcome;
  const double start = testing::thread_seconds();
  const std::size_t peak = peak_of([&] {
    try {
      kind_.load(dir_.path());
    } catch (const Error& error) {
      outcome = {true, error.kind(), error.what()};
    } catch (const std::exception& error) {
      ADD_FAILURE() << "threw something other than qalof::Error: " << error.what();
    }
  });
  EXPECT_LE(testing::thread_seconds_since(start), max_seconds);
  EXPECT_LE(peak, file_bytes + (std::size_t{64} << 20));
  if (!outcome.refused) return outcome;
  const ErrorKind kind = outcome.kind;
  EXPECT_TRUE(kind == ErrorKind::kNotFound || kind == ErrorKind::kBadInput ||
              kind == ErrorKind::kCorruptFile || kind == ErrorKind::kUnsupported)
      << static_cast<int>(kind) << ": " << outcome.message;
  EXPECT_NE(outcome.message.find(dir_.path()), std::string::npos) << outcome.message;
  EXPECT_EQ(outcome.message.find('\n'), std::string::npos) << outcome.message;
  EXPECT_LT(outcome.message.size(), 1000U) << outcome.message;
  return outcome;
}

class SoundSample : public ::testing::TestWithParam<HostileKind> {};

TEST_P(SoundSample, IsRead) {
  const HostileSample sample(GetParam());
  const Outcome outcome = sample.load();
  EXPECT_FALSE(outcome.refused) << outcome.message;
  EXPECT_LT(sample.sound().size(), 16384U);
}

INSTANTIATE_TEST_SUITE_P(Kinds, SoundSample, ::testing::ValuesIn(hostile_kinds()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace qalof::testing
