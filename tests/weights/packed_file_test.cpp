// Packed files: the same logits as the directory they came from, and damage of every kind is
// refused.
#include "weights/packed_file.h"

#include <gmock/gmock.h>

#include <cstring>
#include <fstream>

#include "core/crc32c.h"
#include "io/safetensors.h"
#include "runtime/fixture_model.h"
#include "runtime/footprint.h"
#include "support/error_of.h"
#include "support/tiny_model.h"
#include "weights/packed_layout.h"

namespace qalof::runtime {
namespace packed_file_test {

using qalof::testing::error_of;
using qalof::testing::execution_of;
using qalof::testing::hidden_of;
using qalof::testing::span_logits_of;
using qalof::testing::TempDir;
using qalof::testing::tensor_values;
using ::testing::HasSubstr;

const std::vector<std::int32_t> kIds = {1, 5, 96, 33, 33, 7, 0, 64, 12, 90};

Json small_config() {
  Json config = qalof::testing::tiny_config();
  config["n_embd"] = 16;
  config["n_positions"] = 16;
  config["n_layer"] = 1;
  return config;
}

// Adapters of widths 8 and 4 whose ranks and scalings differ between linears; the second leaves
// some alone.
std::shared_ptr<weights::AdapterSet> uneven_adapters(const model::ModelConfig& config) {
  auto set = std::make_shared<weights::AdapterSet>();
  for (const int width : {8, 4}) {
    auto adapter = std::make_shared<weights::Adapter>();
    adapter->rank = 4;
    adapter->alpha = 8;
    std::size_t i = 0;
    for (const model::LinearSpec& spec : model::linears(config)) {
      std::unique_ptr<weights::LoraLinear>& lora = adapter->linears.emplace_back();
      if (++i % 3 == 0 && width == 4) continue;
      const std::size_t rank = 2 + i;
      const std::string name = fmt::format("{}.{}", spec.name, width);
      lora = std::make_unique<weights::LoraLinear>(
          rank, 0.3F * static_cast<float>(i), tensor_values(name + "a", rank * spec.in, 0.1F),
          tensor_values(name + "b", rank * spec.out, 0.1F), spec.in, spec.out);
    }
    adapter->qa_head = weights::Head{
        2, tensor_values(fmt::format("head{}", width), 2 * config.hidden, 0.3F), {0.1F, -0.2F}};
    set->by_width[width] = std::move(adapter);
  }
  set->separator = 96;
  return set;
}

class PackedFileTest : public ::testing::Test {
 protected:
  void write(const Json& config = small_config()) {
    qalof::testing::write_model(dir_.path(), config);
    base_ = weights::BaseModel::load_directory(dir_.path());
    adapters_ = uneven_adapters(base_->config());
    std::ofstream(dir_.file("vocab.json")) << "{\"a\": 0}";
  }
  weights::PackSummary pack(std::vector<int> widths, const std::string& plan = "",
                            quant::QuantScheme scheme = {}, std::vector<int> lm_head_bits = {}) {
    SerialFor serial;
    weights::PackRequest request{base_,       adapters_, std::move(widths),      std::nullopt,
                                 dir_.path(), scheme,    std::move(lm_head_bits)};
    if (!plan.empty()) request.plan = quant::parse_plan(plan);
    return weights::write_packed_file(path_, request, serial);
  }

  TempDir dir_;
  const std::string path_ = dir_.file("model.qalof");
  std::shared_ptr<const weights::BaseModel> base_;
  std::shared_ptr<weights::AdapterSet> adapters_;
};

TEST_F(PackedFileTest, LogitsEqualTheDirectorysBitForBit) {
  // An embedding is stored as bf16, so the directory must hold values that bf16 has; 16 bits round
  // them on the way.
  write(qalof::testing::tiny_config());
  pack({8, 5, 4, 2});
  const weights::PackedModel packed = weights::open_packed_file(path_);
  ASSERT_NE(packed.adapters, nullptr);
  for (const char* plan : {"8", "4", "5", "2", "w4a8kv4", "w8a16kv16", "w4a32kv8", "w8a8k8v4"}) {
    SCOPED_TRACE(plan);
    for (const bool with_adapters : {false, true}) {
      const auto expected = execution_of(base_, plan, with_adapters ? adapters_ : nullptr);
      const auto found = execution_of(packed.base, plan, with_adapters ? packed.adapters : nullptr);
      EXPECT_EQ(expected->description(), found->description());
      EXPECT_EQ(span_logits_of(*expected, kIds), span_logits_of(*found, kIds));
      SerialFor serial;
      const std::vector<float> hidden = hidden_of(*expected, kIds);
      EXPECT_EQ(lm_token_losses(*expected, hidden.data(), kIds, serial),
                lm_token_losses(*found, hidden.data(), kIds, serial));
    }
  }
}

TEST_F(PackedFileTest, HoldsTokenizerPlanAdaptersAndSeparator) {
  write();
  pack({}, "4");
  const weights::PackedModel packed = weights::open_packed_file(path_);
  EXPECT_EQ(packed.files, (std::map<std::string, std::string>{{"vocab.json", "{\"a\": 0}"}}));
  EXPECT_EQ(quant::resolve(packed.plan, packed.base->target()),
            quant::resolve(quant::parse_plan("4"), base_->target()));
  EXPECT_EQ(packed.adapters->separator, 96);
  EXPECT_EQ(packed.base->source().sha256(), base_->source().sha256());
  EXPECT_EQ(packed.base->source().widths(), std::vector<int>{4});
  ASSERT_EQ(packed.adapters->by_width.size(), 2U);
  for (const auto& [width, expected] : adapters_->by_width) {
    const weights::Adapter& found = *packed.adapters->by_width.at(width);
    for (std::size_t i = 0; i < expected->linears.size(); ++i) {
      ASSERT_EQ(expected->linears[i] == nullptr, found.linears[i] == nullptr) << i;
      if (expected->linears[i] == nullptr) continue;
      EXPECT_EQ(expected->linears[i]->a(), found.linears[i]->a());
      EXPECT_EQ(expected->linears[i]->b(), found.linears[i]->b());
      EXPECT_EQ(expected->linears[i]->view().scaling, found.linears[i]->view().scaling);
    }
    EXPECT_EQ(expected->qa_head->weight, found.qa_head->weight);
    EXPECT_EQ(expected->qa_head->bias, found.qa_head->bias);
  }
}

// Whether the config says so or the file alone.
TEST_F(PackedFileTest, UntiedHeadIsKept) {
  for (const bool tied : {false, true}) {
    write();
    // The directory once more, with a head of its own.
    const auto file = io::SafetensorsFile::open(dir_.file("model.safetensors"));
    std::vector<io::TensorToWrite> tensors;
    for (const auto& [name, view] : file.tensors())
      tensors.push_back({name, view.dtype, view.shape, view.bytes});
    const std::vector<float> zeros(97 * 16, 0.0F);
    tensors.push_back(
        {"lm_head.weight", io::DType::kF32, {97, 16}, std::as_bytes(std::span(zeros))});
    const TempDir untied;
    io::write_safetensors(untied.file("model.safetensors"), tensors, {});
    Json config = small_config();
    config["tie_word_embeddings"] = tied;
    std::ofstream(untied.file("config.json")) << config;
    base_ = weights::BaseModel::load_directory(untied.path());
    EXPECT_EQ(base_->warnings().size(), tied ? 1U : 0U);
    adapters_ = nullptr;
    pack({8}, "", {}, {8});
    const weights::PackedModel packed = weights::open_packed_file(path_);
    EXPECT_EQ(packed.base->config().lm_head, model::LmHead::kOwn);
    const auto execution = execution_of(packed.base, "8");
    const auto footprint = measure_footprint(*execution);
    EXPECT_EQ(footprint.other_bytes, measure_footprint(*execution_of(base_, "8")).other_bytes);
    const std::vector<float> hidden = hidden_of(*execution, kIds);
    SerialFor serial;
    for (const float loss : lm_token_losses(*execution, hidden.data(), kIds, serial)) {
      EXPECT_LE(std::abs(loss - std::log(97.0F)), 1e-5F);
    }
  }
}

TEST_F(PackedFileTest, AClassifierWithoutLmHeadIsPackedWithoutOne) {
  Json config = small_config();
  config["tie_word_embeddings"] = false;
  config["architectures"] = {"GPT2ForSequenceClassification"};
  write(config);
  adapters_ = nullptr;
  pack({8});
  const weights::PackedModel packed = weights::open_packed_file(path_);
  EXPECT_EQ(packed.base->config().lm_head, model::LmHead::kNone);
  EXPECT_EQ(span_logits_of(*execution_of(base_, "8"), kIds),
            span_logits_of(*execution_of(packed.base, "8"), kIds));
  EXPECT_LT(measure_footprint(*execution_of(packed.base, "8")).other_bytes, 97U * 16 * 8);
  const auto error = error_of([&] { pack({8}, "", {}, {8}); });
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(error.message, HasSubstr("has no LM head"));
}

// With checksums that are right: an older program packed what it was given.
TEST_F(PackedFileTest, NumbersThatAreNotFiniteAreRefusedWhereTheyAreRead) {
  write();
  adapters_ = nullptr;
  pack({8}, "", {}, {8, 32});
  const auto sound = io::SafetensorsFile::open(path_);
  const TempDir directory;
  const std::string path = directory.file("model.qalof");
  for (const char* name :
       {"wte.weight", "wpe.weight", "ln_f.weight", "h.0.attn.c_attn.bias", "qa_outputs.weight",
        "h.0.mlp.c_fc.w8.scales", "lm_head.w8.scales", "lm_head.w32.panels"}) {
    std::map<std::string, std::vector<std::byte>> data;
    std::vector<io::TensorToWrite> tensors;
    Json header = Json::parse(sound.metadata().at(weights::kPackedMetadataKey));
    for (const auto& [tensor, view] : sound.tensors()) {
      std::vector<std::byte>& bytes = data[tensor];
      bytes = {view.bytes.begin(), view.bytes.end()};
      if (tensor == name) {
        // bfloat16 or the upper half of an f32: infinity.
        bytes[bytes.size() - 2] = std::byte{0x80};
        bytes[bytes.size() - 1] = std::byte{0x7f};
        header["crc32c"][tensor] = crc32c(bytes);
      }
      tensors.push_back({tensor, view.dtype, view.shape, bytes});
    }
    io::write_safetensors(path, tensors, {{weights::kPackedMetadataKey, header.dump()}});
    const auto error = error_of([&] {
      const weights::PackedModel packed = weights::open_packed_file(path);
      SerialFor serial;
      for (std::size_t i = 0; i < packed.base->linears().size(); ++i)
        packed.base->packed(i, {{8}, {8}}, {}, serial);
      for (const int bits : {8, 32}) packed.base->lm_head({bits}, serial);
      std::vector<float> row(16);
      const auto last = static_cast<std::int32_t>(packed.base->config().max_positions) - 1;
      packed.base->embed(std::vector{96}, std::vector{last}, {16}, row.data());
    });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput) << name;
    EXPECT_THAT(error.message, HasSubstr(std::string("tensor ") + name + " holds")) << name;
  }
}

TEST_F(PackedFileTest, SizeIsWhatItSays) {
  write();
  const weights::PackSummary summary = pack({8, 4});
  EXPECT_EQ(summary.bytes, std::filesystem::file_size(path_));
  EXPECT_EQ(summary.weights, 12U * 16 * 16);
  ASSERT_EQ(summary.widths.size(), 2U);
  EXPECT_EQ(summary.widths[0].container_bits, 4);
  EXPECT_EQ(summary.widths[1].container_bits, 8);
  EXPECT_GT(summary.bits_per_weight, 12.0);
  const std::uint64_t first = summary.bytes;
  pack({8, 4});
  EXPECT_EQ(std::filesystem::file_size(path_), first);
}

struct Damaged {
  std::map<std::string, std::vector<std::byte>> data;
  std::map<std::string, io::TensorToWrite> tensors;
  Json header;
};

// Rewrites the file after change; checksums are made anew unless the change touched them.
void rewrite(const std::string& from, const std::string& to,
             const std::function<void(Damaged&)>& change) {
  const auto file = io::SafetensorsFile::open(from);
  Damaged damaged;
  damaged.header = parse_json(file.metadata().at("qalof.packed"), "header");
  const Json old_checksums = damaged.header["crc32c"];
  for (const auto& [name, view] : file.tensors()) {
    damaged.data[name] = {view.bytes.begin(), view.bytes.end()};
    damaged.tensors[name] = {name, view.dtype, view.shape, {}};
  }
  change(damaged);
  const bool keep = damaged.header.contains("crc32c") && damaged.header["crc32c"] == old_checksums;
  std::vector<io::TensorToWrite> tensors;
  for (auto& [name, tensor] : damaged.tensors) {
    tensor.bytes = damaged.data[name];
    tensors.push_back(tensor);
    if (keep) damaged.header["crc32c"][name] = crc32c(damaged.data[name]);
  }
  io::write_safetensors(to, tensors, {{"qalof.packed", damaged.header.dump()}});
}

TEST_F(PackedFileTest, VersionFourIsWrittenForFewBitsAloneAndLabelsContents) {
  write();
  const auto version = [&] {
    const auto file = io::SafetensorsFile::open(path_);
    return parse_json(file.metadata().at("qalof.packed"), "header")["format_version"].get<int>();
  };
  pack({8, 4});
  EXPECT_EQ(version(), 2);
  pack({8, 3});
  EXPECT_EQ(version(), 4);
  // Panels of three bits in a file that says that they are nibbles.
  const std::string path = dir_.file("relabelled.qalof");
  rewrite(path_, path, [](Damaged& file) { file.header["format_version"] = 2; });
  const weights::PackedModel packed = weights::open_packed_file(path);
  const auto error = error_of([&] { execution_of(packed.base, "3"); });
  EXPECT_EQ(error.kind, ErrorKind::kCorruptFile);
  EXPECT_THAT(error.message, HasSubstr("w3.panels has shape"));
}

TEST_F(PackedFileTest, DamagedPanelsOfFewBitsAreRefused) {
  write();
  pack({8, 3, 2});
  for (const char* bits : {"3", "2"}) {
    const std::string tensor = fmt::format("h.0.attn.c_attn.w{}.panels", bits);
    const std::string path = dir_.file("damaged.qalof");
    rewrite(path_, path, [&](Damaged& file) {
      file.data.at(tensor)[17] ^= std::byte{4};
      file.header["crc32c"][tensor] = file.header["crc32c"][tensor].get<std::uint32_t>() ^ 1U;
    });
    const weights::PackedModel packed = weights::open_packed_file(path);
    EXPECT_NO_THROW(execution_of(packed.base, "8"));
    const auto error = error_of([&] { execution_of(packed.base, bits); });
    EXPECT_EQ(error.kind, ErrorKind::kCorruptFile);
    EXPECT_THAT(error.message, HasSubstr(tensor + " is damaged"));
  }
}

TEST_F(PackedFileTest, WidthsThatAreNotThereAreNamed) {
  write();
  pack({8, 4});
  const weights::PackedModel packed = weights::open_packed_file(path_);
  const auto missing = error_of([&] { execution_of(packed.base, "5"); });
  EXPECT_EQ(missing.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(missing.message, HasSubstr("h.0.attn.c_attn is stored at 4, 8 bits, not at 5"));
  EXPECT_EQ(error_of([&] { execution_of(packed.base, "32"); }).kind, ErrorKind::kUnsupported);
  for (const int bits : {1, 9, 16}) {
    EXPECT_EQ(error_of([&] { pack({bits}); }).kind, ErrorKind::kUsage) << bits;
  }
  EXPECT_EQ(error_of([&] { pack({}); }).kind, ErrorKind::kUsage);
  EXPECT_EQ(error_of([&] { pack({}, "16"); }).kind, ErrorKind::kUsage);
}

// ---- Damage ------------------------------------------------------------------------------------

void open_and_use(const std::string& path) {
  const weights::PackedModel packed = weights::open_packed_file(path);
  span_logits_of(*execution_of(packed.base, "8", packed.adapters), kIds);
  span_logits_of(*execution_of(packed.base, "4", packed.adapters), kIds);
}

TEST_F(PackedFileTest, DamagedFilesAreRefusedByName) {
  write();
  pack({8, 4});
  struct Case {
    const char* name;
    std::function<void(Damaged&)> change;
    ErrorKind kind;
    std::string piece;
  };
  const auto corrupt = ErrorKind::kCorruptFile, bad = ErrorKind::kBadInput,
             unsupported = ErrorKind::kUnsupported;
  auto without = [](const char* tensor) { return [=](Damaged& d) { d.tensors.erase(tensor); }; };
  auto drop = [](const char* key) { return [=](Damaged& d) { d.header.erase(key); }; };
  auto resize = [](const char* tensor, std::vector<std::size_t> shape, std::size_t bytes) {
    return [=](Damaged& d) {
      d.tensors[tensor].shape = shape;
      d.data[tensor].resize(bytes);
    };
  };
  const std::vector<Case> cases = {
      {"no version", drop("format_version"), bad, "format_version is missing"},
      {"later version", [](Damaged& d) { d.header["format_version"] = 5; }, unsupported,
       "format_version 5"},
      {"version text", [](Damaged& d) { d.header["format_version"] = "1"; }, bad, "format_version"},
      {"no config", drop("config"), corrupt, "config is missing"},
      {"no scheme", drop("scheme"), corrupt, "scheme is missing"},
      {"another scheme", [](Damaged& d) { d.header["scheme"] = "g16"; }, unsupported, "found g16"},
      {"no list of LM heads", drop("lm_head"), corrupt, "lm_head is missing"},
      {"LM head of 5 bits", [](Damaged& d) { d.header["lm_head"] = {5}; }, corrupt,
       "lm_head holds 5"},
      {"groups of version 1",
       [](Damaged& d) {
         d.header["format_version"] = 1;
         d.header["scheme"] = "g64";
       },
       corrupt, "format_version 1"},
      {"groups where rows are stored", [](Damaged& d) { d.header["scheme"] = "g64"; }, corrupt,
       "scheme is seed, the file's g64"},
      {"no widths", drop("widths"), corrupt, "widths is missing"},
      {"no plan", drop("plan"), corrupt, "plan is missing"},
      {"no base", drop("base"), corrupt, "base is missing"},
      {"no adapters", drop("adapters"), corrupt, "adapters is missing"},
      {"no checksums", drop("crc32c"), corrupt, "crc32c is missing"},
      {"checksums a list", [](Damaged& d) { d.header["crc32c"] = Json::array(); }, corrupt,
       "crc32c is missing"},
      {"one checksum missing", [](Damaged& d) { d.header["crc32c"].erase("wte.weight"); }, corrupt,
       "wte.weight has no"},
      {"a wrong checksum", [](Damaged& d) { d.header["crc32c"]["wte.weight"] = 1; }, corrupt,
       "wte.weight is damaged"},
      {"checksum too large", [](Damaged& d) { d.header["crc32c"]["wte.weight"] = 4294967296; }, bad,
       "wte.weight"},
      {"checksum a text", [](Damaged& d) { d.header["crc32c"]["wte.weight"] = "x"; }, bad,
       "wte.weight"},
      {"other model type", [](Damaged& d) { d.header["config"]["model_type"] = "mamba"; },
       unsupported, "mamba"},
      {"huge config", [](Damaged& d) { d.header["config"]["n_layer"] = 1024; }, corrupt,
       "is missing"},
      {"wider config", [](Damaged& d) { d.header["config"]["n_embd"] = 32; }, corrupt,
       "wte.weight has shape"},
      {"larger vocabulary", [](Damaged& d) { d.header["config"]["vocab_size"] = 98; }, corrupt,
       "wte.weight has shape"},
      {"untied without head", [](Damaged& d) { d.header["config"]["tie_word_embeddings"] = false; },
       corrupt, "lm_head.weight is missing"},
      {"widths short", [](Damaged& d) { d.header["widths"].erase(0); }, corrupt,
       "widths has 3 entries"},
      {"widths of numbers", [](Damaged& d) { d.header["widths"][0] = 8; }, corrupt,
       "expected lists"},
      {"width 9", [](Damaged& d) { d.header["widths"][0][0] = 9; }, corrupt, "expected 2..8"},
      {"width text", [](Damaged& d) { d.header["widths"][0][0] = "8"; }, corrupt, "expected 2..8"},
      {"width not stored",
       [](Damaged& d) {
         d.header["widths"][0] = {4, 7};
       },
       unsupported, "not at 8"},
      {"plan a number", [](Damaged& d) { d.header["plan"] = 8; }, bad, "plan"},
      {"adapters a list", [](Damaged& d) { d.header["adapters"] = Json::array(); }, corrupt,
       "adapters is not an object"},
      {"adapter width text",
       [](Damaged& d) { d.header["adapters"]["x"] = d.header["adapters"]["8"]; }, corrupt,
       "width x"},
      {"adapter width 99",
       [](Damaged& d) { d.header["adapters"]["99"] = d.header["adapters"]["8"]; }, corrupt,
       "width 99"},
      {"adapter a number", [](Damaged& d) { d.header["adapters"]["8"] = 3; }, bad,
       "expected an object"},
      {"adapter without linears", [](Damaged& d) { d.header["adapters"]["8"].erase("linears"); },
       corrupt, "linears"},
      {"adapter of another model",
       [](Damaged& d) {
         d.header["adapters"]["8"]["linears"]["h.9.attn.c_attn"] = {{"r", 4}, {"scaling", 1}};
       },
       corrupt, "5 entries, 4 of them"},
      {"rank 0",
       [](Damaged& d) { d.header["adapters"]["8"]["linears"]["h.0.attn.c_attn"]["r"] = 0; }, bad,
       "r is 0"},
      {"other rank",
       [](Damaged& d) { d.header["adapters"]["8"]["linears"]["h.0.attn.c_attn"]["r"] = 9; },
       corrupt, "lora_A has shape"},
      {"scaling text",
       [](Damaged& d) { d.header["adapters"]["8"]["linears"]["h.0.attn.c_attn"]["scaling"] = "1"; },
       bad, "scaling"},
      {"separator outside", [](Damaged& d) { d.header["separator"] = 97; }, bad, "separator"},
      {"no embedding", without("wte.weight"), corrupt, "wte.weight is missing"},
      {"no positions", without("wpe.weight"), corrupt, "wpe.weight is missing"},
      {"no final norm", without("ln_f.weight"), corrupt, "ln_f.weight is missing"},
      {"no norm bias", without("h.0.ln_1.bias"), corrupt, "h.0.ln_1.bias is missing"},
      {"no bias", without("h.0.mlp.c_fc.bias"), corrupt, "h.0.mlp.c_fc.bias is missing"},
      {"no panels", without("h.0.mlp.c_fc.w4.panels"), corrupt, "w4.panels is missing"},
      {"no scales", without("h.0.mlp.c_fc.w8.scales"), corrupt, "w8.scales is missing"},
      {"no sums", without("h.0.mlp.c_fc.w8.code_sums"), corrupt, "w8.code_sums is missing"},
      {"no lora B", without("adapter.8.h.0.mlp.c_fc.lora_B"), corrupt, "lora_B is missing"},
      {"short panels", resize("h.0.attn.c_proj.w8.panels", {7}, 7), corrupt,
       "c_proj.w8.panels has shape [7]"},
      {"short scales", resize("h.0.attn.c_proj.w8.scales", {15}, 60), corrupt,
       "scales has shape [15]"},
      {"short sums", resize("h.0.attn.c_proj.w8.code_sums", {15}, 60), corrupt,
       "code_sums has shape [15]"},
      {"short bias", resize("h.0.attn.c_proj.bias", {15}, 60), corrupt,
       "c_proj.bias has shape [15]"},
      {"three labels", resize("adapter.8.qa_outputs.weight", {3, 16}, 192), corrupt,
       "expected [2, 16]"},
      {"three labels of the base", resize("qa_outputs.weight", {3, 16}, 192), corrupt,
       "expected [2, 16]"},
      {"no labels", resize("qa_outputs.weight", {0, 16}, 0), corrupt, "expected [2, 16]"},
      {"norm of integers", [](Damaged& d) { d.tensors["ln_f.weight"].dtype = io::DType::kI32; },
       corrupt, "ln_f.weight"},
      {"panels of I8",
       [](Damaged& d) { d.tensors["h.0.mlp.c_fc.w8.panels"].dtype = io::DType::kI8; }, corrupt,
       "panels"},
      {"embedding of F16", [](Damaged& d) { d.tensors["wte.weight"].dtype = io::DType::kF16; },
       corrupt, "wte.weight"},
  };
  const std::string damaged = dir_.file("damaged.qalof");
  rewrite(path_, damaged, [](Damaged&) {});
  ASSERT_NO_THROW(open_and_use(damaged));
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    rewrite(path_, damaged, c.change);
    const auto error = error_of([&] { open_and_use(damaged); });
    EXPECT_EQ(static_cast<int>(error.kind), static_cast<int>(c.kind)) << error.message;
    EXPECT_THAT(error.message, HasSubstr(c.piece));
  }
}

TEST_F(PackedFileTest, PlainSafetensorsAndOtherFilesAreRefused) {
  write();
  const auto plain = error_of([&] { weights::open_packed_file(dir_.file("model.safetensors")); });
  EXPECT_EQ(plain.kind, ErrorKind::kBadInput);
  EXPECT_THAT(plain.message, HasSubstr("is not a packed file"));
  EXPECT_EQ(error_of([&] { weights::open_packed_file(dir_.file("config.json")); }).kind,
            ErrorKind::kCorruptFile);
  EXPECT_EQ(error_of([&] { weights::open_packed_file(dir_.file("absent")); }).kind,
            ErrorKind::kNotFound);
  io::write_safetensors(path_, {}, {{"qalof.packed", "{"}});
  EXPECT_EQ(error_of([&] { weights::open_packed_file(path_); }).kind, ErrorKind::kCorruptFile);
  io::write_safetensors(path_, {}, {{"qalof.packed", "[]"}});
  EXPECT_EQ(error_of([&] { weights::open_packed_file(path_); }).kind, ErrorKind::kCorruptFile);
}

// Turns bits of a file over in place and back: rewriting a file as often would take minutes.
class BitFlipper {
 public:
  explicit BitFlipper(const std::string& path)
      : file_(path, std::ios::in | std::ios::out | std::ios::binary) {}
  void flip(std::size_t bit) {
    const auto at = static_cast<std::streamoff>(bit / 8);
    file_.seekg(at);
    const int byte = file_.get() ^ (1 << (bit % 8));
    file_.seekp(at);
    file_.put(static_cast<char>(byte));
    file_.flush();
  }

 private:
  std::fstream file_;
};

std::size_t data_begin(const std::string& path) {
  const std::string start = read_file(path, std::size_t{1} << 24).substr(0, 8);
  std::uint64_t header = 0;
  std::memcpy(&header, start.data(), 8);
  return 8 + header;
}

TEST_F(PackedFileTest, EveryFlippedDataByteIsFound) {
  write();
  pack({8, 4});
  BitFlipper flipper(path_);
  const std::size_t end = 8 * std::filesystem::file_size(path_);
  std::size_t flips = 0;
  for (std::size_t bit = 8 * data_begin(path_); bit < end; bit += 509, ++flips) {
    flipper.flip(bit);
    const auto error = error_of([&] { open_and_use(path_); });
    ASSERT_EQ(error.kind, ErrorKind::kCorruptFile) << bit;
    ASSERT_THAT(error.message, HasSubstr("is damaged: crc32c")) << bit;
    flipper.flip(bit);
  }
  EXPECT_GT(flips, 200U);
  EXPECT_NO_THROW(open_and_use(path_));
}

TEST_F(PackedFileTest, EveryTruncationIsFound) {
  write();
  adapters_ = nullptr;
  pack({4});
  const std::size_t begin = data_begin(path_);
  for (std::size_t size = std::filesystem::file_size(path_); size > 0;) {
    size -= size > begin + 64 ? 31 : 1;
    std::filesystem::resize_file(path_, size);
    ASSERT_EQ(error_of([&] { weights::open_packed_file(path_); }).kind, ErrorKind::kCorruptFile)
        << size;
  }
}

TEST_F(PackedFileTest, FlippedHeaderBitsAreRefusedOrLeaveAWorkingModel) {
  write();
  adapters_ = nullptr;
  pack({4});
  BitFlipper flipper(path_);
  const std::size_t end = 8 * data_begin(path_);
  std::size_t refused = 0, flips = 0;
  for (std::size_t bit = 0; bit < end; bit += bit < 64 ? 1 : 13, ++flips) {
    flipper.flip(bit);
    try {
      span_logits_of(*execution_of(weights::open_packed_file(path_).base, "4"), kIds);
    } catch (const Error& error) {
      ++refused;
      ASSERT_NE(error.kind(), ErrorKind::kInternal) << bit << ": " << error.what();
    }
    flipper.flip(bit);
  }
  EXPECT_GT(refused, flips / 2);
  EXPECT_LT(refused, flips);
}

}  // namespace packed_file_test
}  // namespace qalof::runtime
