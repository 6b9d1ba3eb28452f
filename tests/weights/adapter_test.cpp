// Adapters in PEFT directories: what Python peft wrote gives its logits here, what is written here
// reads back, and nothing that does not fit the model is passed over in silence.
#include "weights/adapter.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <fstream>

#include "io/adapter_dir.h"
#include "io/peft.h"
#include "io/safetensors.h"
#include "runtime/fixture_model.h"
#include "support/error_of.h"
#include "support/tiny_model.h"

namespace qalof::runtime {
namespace adapter_test {

using qalof::testing::copy_directory;
using qalof::testing::error_of;
using qalof::testing::execution_of;
using qalof::testing::runtime_data;
using qalof::testing::span_difference;
using qalof::testing::span_logits_of;
using qalof::testing::TempDir;
using qalof::testing::tensor_values;
using ::testing::HasSubstr;

std::shared_ptr<const weights::BaseModel> fixture_base() {
  static const auto base = weights::BaseModel::load_directory(runtime_data("gpt2/f32"));
  return base;
}

std::shared_ptr<const weights::AdapterSet> load(const std::string& directory) {
  return std::make_shared<weights::AdapterSet>(
      weights::load_adapters(directory, fixture_base()->config()));
}

TEST(PeftParity, LogitsEqualPythonPefts) {
  const Json expected = read_json_file(runtime_data("peft/expected.json"));
  ASSERT_EQ(expected.size(), 10U);
  for (const auto& [name, entries] : expected.items()) {
    SCOPED_TRACE(name);
    const auto execution = execution_of(fixture_base(), "32", load(runtime_data("peft/" + name)));
    ASSERT_FALSE(entries.empty());
    for (const Json& entry : entries) {
      const auto ids = entry["ids"].get<std::vector<std::int32_t>>();
      EXPECT_LE(span_difference(entry["span_logits"], span_logits_of(*execution, ids)), 1e-4);
    }
  }
}

TEST(PeftParity, AdaptersOfAnOutputDirectoryServeTheirWidths) {
  const TempDir directory;
  copy_directory(runtime_data("peft"), directory.path());
  io::AdapterDir described;
  described.base_id = "gpt2";
  described.base_sha256 = fixture_base()->source().sha256();
  described.adapters = {{32, "qa_all"}, {8, "patterns"}};
  described.heads = described.adapters;
  described.separator = 7;
  io::write_adapter_dir(directory.path(), described);
  const auto set = load(directory.path());
  EXPECT_EQ(set->separator, 7);
  EXPECT_EQ(set->serving_width(32), 32);
  EXPECT_EQ(set->serving_width(16), 32);
  EXPECT_EQ(set->serving_width(8), 8);
  EXPECT_EQ(set->serving_width(4), 8);
  const Json expected = read_json_file(runtime_data("peft/expected.json"));
  const auto execution = execution_of(fixture_base(), "32", set);
  for (const Json& entry : expected["qa_all"]) {
    const auto ids = entry["ids"].get<std::vector<std::int32_t>>();
    EXPECT_LE(span_difference(entry["span_logits"], span_logits_of(*execution, ids)), 1e-4);
  }
}

TEST(PeftParity, TheFixturesAdaptersDiffer) {
  const Json expected = read_json_file(runtime_data("peft/expected.json"));
  for (auto a = expected.begin(); a != expected.end(); ++a) {
    for (auto b = expected.begin(); b != a; ++b) EXPECT_NE(*a, *b) << a.key() << " " << b.key();
  }
}

// Writes an adapter as training does; tools/interop/check_peft.py loads such a one in Python peft.
TEST(SavedAdapter, ReadsBackBitForBitAndGivesTheSameLogits) {
  const TempDir temporary;
  const std::string directory = temporary.path();
  const model::ModelConfig& config = fixture_base()->config();
  auto adapter = std::make_shared<weights::Adapter>();
  adapter->rank = 3;
  adapter->alpha = 7;
  for (const model::LinearSpec& spec : fixture_base()->linears()) {
    adapter->linears.push_back(std::make_unique<weights::LoraLinear>(
        3, 7.0F / 3.0F, tensor_values(spec.name + "a", 3 * spec.in, 0.2F),
        tensor_values(spec.name + "b", 3 * spec.out, 0.2F), spec.in, spec.out));
  }
  adapter->qa_head =
      weights::Head{2, tensor_values("head", 2 * config.hidden, 0.5F), {0.25F, -0.5F}};
  weights::save_adapter(directory + "/w8", *adapter, config, weights::HeadKind::kSpan,
                        runtime_data("gpt2/f32"));
  const auto read = load(directory + "/w8");
  ASSERT_EQ(read->by_width.size(), 1U);
  const weights::Adapter& found = *read->by_width.at(0);
  EXPECT_EQ(found.rank, 3U);
  EXPECT_EQ(found.alpha, 7.0F);
  EXPECT_EQ(found.qa_head->weight, adapter->qa_head->weight);
  EXPECT_EQ(found.qa_head->bias, adapter->qa_head->bias);
  for (std::size_t i = 0; i < adapter->linears.size(); ++i) {
    EXPECT_EQ(found.linears[i]->a(), adapter->linears[i]->a());
    EXPECT_EQ(found.linears[i]->b(), adapter->linears[i]->b());
    EXPECT_EQ(found.linears[i]->view().scaling, adapter->linears[i]->view().scaling);
  }
  const std::vector<std::int32_t> ids = {1, 2, 3, 60, 5, 8, 13, 21};
  const std::vector<float> logits = span_logits_of(*execution_of(fixture_base(), "32", read), ids);
  auto set = std::make_shared<weights::AdapterSet>();
  set->by_width[0] = adapter;
  EXPECT_EQ(logits, span_logits_of(*execution_of(fixture_base(), "32", set), ids));
}

// ---- Adapters that do not fit ------------------------------------------------------------------

struct Draft {
  Json config;
  std::map<std::string, std::vector<std::size_t>> shapes;
  std::map<std::string, std::vector<float>> values;
  io::DType dtype = io::DType::kF32;
  void set(const std::string& name, std::vector<std::size_t> shape) {
    std::size_t count = 1;
    for (const std::size_t extent : shape) count *= extent;
    shapes[name] = std::move(shape);
    values[name] = std::vector<float>(count, 0.5F);
  }
  void rename(const std::function<std::string(const std::string&)>& name) {
    Draft other{config, {}, {}, dtype};
    for (const auto& [key, shape] : shapes) other.set(name(key), shape);
    *this = other;
  }
  void write(const std::string& directory) const {
    std::vector<io::TensorToWrite> tensors;
    for (const auto& [name, shape] : shapes) {
      tensors.push_back({name, dtype, shape, std::as_bytes(std::span(values.at(name)))});
    }
    io::write_safetensors(directory + "/adapter_model.safetensors", tensors, {});
    std::ofstream(directory + "/adapter_config.json") << config;
  }
};

const std::string kPrefix = "base_model.model.transformer.";

Draft sound_draft() {
  Draft draft;
  draft.config = {{"peft_type", "LORA"},
                  {"r", 3},
                  {"lora_alpha", 6},
                  {"target_modules", {"c_attn", "c_proj", "c_fc"}},
                  {"fan_in_fan_out", true}};
  for (const model::LinearSpec& spec : fixture_base()->linears()) {
    draft.set(kPrefix + spec.name + ".lora_A.weight", {3, spec.in});
    draft.set(kPrefix + spec.name + ".lora_B.weight", {spec.out, 3});
  }
  draft.set("base_model.model.qa_outputs.weight", {2, 16});
  draft.set("base_model.model.qa_outputs.bias", {2});
  return draft;
}

TEST(HostileAdapter, MisfitsAreRefusedByName) {
  const auto bad = ErrorKind::kBadInput, unsupported = ErrorKind::kUnsupported;
  const std::string a0 = kPrefix + "h.0.attn.c_attn.lora_A.weight",
                    b0 = kPrefix + "h.0.attn.c_attn.lora_B.weight";
  const std::string square_b = kPrefix + "h.1.attn.c_proj.lora_B.weight";
  struct Case {
    const char* name;
    std::function<void(Draft&)> change;
    ErrorKind kind;
    std::string piece;
  };
  auto set = [](const char* key, Json value) { return [=](Draft& d) { d.config[key] = value; }; };
  const std::vector<Case> cases = {
      {"no tensors", [](Draft& d) { d.shapes.clear(); }, bad, "holds no LoRA tensor"},
      {"head only",
       [](Draft& d) {
         std::erase_if(d.shapes,
                       [](const auto& t) { return t.first.find("lora") != std::string::npos; });
       },
       bad, "holds no LoRA tensor"},
      {"no peft prefix",
       [](Draft& d) { d.rename([](const std::string& n) { return n.substr(17); }); }, bad,
       "does not begin with base_model.model."},
      {"another model",
       [](Draft& d) {
         d.rename(
             [](const std::string& n) { return n.substr(0, 17) + "model.layers" + n.substr(28); });
       },
       bad, "no adapter tensor matches this model"},
      {"adapter name in keys",
       [](Draft& d) {
         d.rename([](const std::string& n) { return n.substr(0, n.size() - 6) + "mine.weight"; });
       },
       bad, "no adapter tensor matches"},
      {"the same tensor twice",
       [&](Draft& d) {
         d.set(a0.substr(0, a0.size() - 6) + "default.weight", {3, 16});
       },
       bad, "c_attn.lora_A.weight are the same one of h.0.attn.c_attn"},
      {"A missing", [&](Draft& d) { d.shapes.erase(a0); }, bad,
       "h.0.attn.c_attn.lora_A.weight is missing"},
      {"B missing", [&](Draft& d) { d.shapes.erase(b0); }, bad,
       "h.0.attn.c_attn.lora_B.weight is missing"},
      {"pair missing where peft starts at random",
       [&](Draft& d) {
         d.shapes.erase(a0);
         d.shapes.erase(b0);
         d.config["init_lora_weights"] = false;
       },
       unsupported, "target_modules names transformer.h.0.attn.c_attn, which has no tensors"},
      {"extra layer",
       [](Draft& d) {
         d.set(kPrefix + "h.2.attn.c_attn.lora_A.weight", {3, 16});
       },
       bad, "h.2.attn.c_attn.lora_A.weight"},
      {"misspelt module",
       [&](Draft& d) {
         d.set(kPrefix + "h.0.attn.c_atn.lora_A.weight", {3, 16});
       },
       bad, "nearest h.0.attn.c_attn"},
      {"trained embedding",
       [](Draft& d) {
         d.set(kPrefix + "wte.weight", {61, 16});
       },
       unsupported, "wte.weight is an embedding that was trained as a whole"},
      {"adapted embedding",
       [](Draft& d) {
         d.set(kPrefix + "wte.lora_embedding_A", {3, 61});
       },
       unsupported, "wte.lora_embedding_A is an adapter of an embedding"},
      {"adapted LM head",
       [](Draft& d) {
         d.set("base_model.model.lm_head.lora_A.weight", {3, 16});
       },
       unsupported, "lm_head.lora_A.weight is an adapter of the LM head"},
      {"trained LM head",
       [](Draft& d) {
         d.set("base_model.model.lm_head.weight", {61, 16});
       },
       unsupported, "lm_head.weight is an LM head that was trained"},
      {"trained bias", [](Draft& d) { d.set(kPrefix + "h.0.attn.c_attn.base_layer.bias", {48}); },
       unsupported, "c_attn.base_layer.bias is a trained bias"},
      {"magnitudes",
       [](Draft& d) { d.set(kPrefix + "h.0.attn.c_attn.lora_magnitude_vector", {48}); },
       unsupported, "lora_magnitude_vector is a magnitude of DoRA"},
      {"bias of B", [](Draft& d) { d.set(kPrefix + "h.0.attn.c_attn.lora_B.bias", {48}); },
       unsupported, "lora_B.bias is a bias of lora_B"},
      {"saved LM head", set("modules_to_save", {"lm_head"}), unsupported,
       "modules_to_save names lm_head"},
      {"saved linears", set("modules_to_save", {"mlp"}), unsupported,
       "modules_to_save names transformer.h.0.mlp.c_fc"},
      {"excluded module", set("exclude_modules", {"0.attn.c_proj"}), bad,
       "h.0.attn.c_proj.lora_A.weight, although exclude_modules leaves its module out"},
      {"layer left out", set("layers_to_transform", 1), bad,
       "h.0.attn.c_attn.lora_A.weight, although layers_to_transform leaves"},
      {"alpha beyond floats", set("lora_alpha", 1e300), bad, "too large for a float"},
      {"alpha of a module beyond floats", set("alpha_pattern", {{"c_fc", 1e300}}), bad,
       "the alpha of h.0.mlp.c_fc is 1e+300, too large for a float"},
      {"untargeted module",
       [](Draft& d) {
         d.config["target_modules"] = {"c_attn", "c_proj"};
       },
       bad, "target_modules does not name it"},
      {"targets nothing here", set("target_modules", {"q_proj"}), bad,
       "target_modules does not name it"},
      {"A transposed",
       [&](Draft& d) {
         d.set(a0, {16, 3});
       },
       bad, "(it is transposed)"},
      {"B transposed",
       [&](Draft& d) {
         d.set(b0, {3, 48});
       },
       bad, "(it is transposed)"},
      {"B of a square linear transposed",
       [&](Draft& d) {
         d.set(square_b, {3, 16});
       },
       bad, "(it is transposed)"},
      {"A of three dimensions",
       [&](Draft& d) {
         d.set(a0, {1, 3, 16});
       },
       bad, "has shape [1, 3, 16], expected [3, 16]"},
      {"r larger in the config", set("r", 4), bad, "expected [4, 16]"},
      {"r larger in a tensor",
       [&](Draft& d) {
         d.set(a0, {4, 16});
       },
       bad, "has shape [4, 16], expected [3, 16]"},
      {"r pattern does not fit", set("rank_pattern", {{"h.0.attn.c_attn", 5}}), bad,
       "expected [5, 16]"},
      {"another hidden size",
       [&](Draft& d) {
         d.set(a0, {3, 32});
       },
       bad, "has shape [3, 32]"},
      {"three labels",
       [](Draft& d) {
         d.set("base_model.model.qa_outputs.weight", {3, 16});
       },
       bad, "expected [2, 16]"},
      {"head of another size",
       [](Draft& d) {
         d.set("base_model.model.qa_outputs.weight", {2, 17});
       },
       bad, "expected [2, 16]"},
      {"bias of another size", [](Draft& d) { d.set("base_model.model.qa_outputs.bias", {3}); },
       bad, "expected [2]"},
      {"bias alone", [](Draft& d) { d.shapes.erase("base_model.model.qa_outputs.weight"); }, bad,
       "qa_outputs.weight is missing"},
      {"empty classifier",
       [](Draft& d) {
         d.set("base_model.model.score.weight", {0, 16});
       },
       bad, "score.weight"},
      {"scalar classifier", [](Draft& d) { d.set("base_model.model.score.weight", {}); }, bad,
       "score.weight"},
      {"NaN", [&](Draft& d) { d.values[a0][5] = std::nanf(""); }, bad, "holds NaN or infinity"},
      {"infinity", [&](Draft& d) { d.values["base_model.model.qa_outputs.bias"][1] = INFINITY; },
       bad, "NaN or infinity"},
      {"integers", [](Draft& d) { d.dtype = io::DType::kI32; }, bad, "dtype I32"},
      {"not LoRA", set("peft_type", "IA3"), unsupported, "IA3"},
      {"DoRA", set("use_dora", true), unsupported, "use_dora"},
      {"r 0", set("r", 0), bad, "r is 0"},
      {"r text", set("r", "3"), bad, "expected an integer"},
      {"alpha text", set("lora_alpha", "6"), bad, "lora_alpha"},
      {"no targets", set("target_modules", nullptr), bad, "target_modules"},
      {"biases of another kind", set("bias", "some"), unsupported, "bias"},
      {"unknown setting that is on", set("use_new_thing", true), unsupported, "use_new_thing"},
  };
  const TempDir directory;
  sound_draft().write(directory.path());
  ASSERT_NO_THROW(load(directory.path()));
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Draft draft = sound_draft();
    c.change(draft);
    draft.write(directory.path());
    const auto error = error_of([&] { load(directory.path()); });
    EXPECT_EQ(static_cast<int>(error.kind), static_cast<int>(c.kind)) << error.message;
    EXPECT_THAT(error.message, HasSubstr(c.piece));
  }
}

// A linear that the configuration names and that has no tensors has no adapter, as in peft.
TEST(HostileAdapter, TensorsTellWhichLinearsHaveAnAdapter) {
  const TempDir directory;
  Draft draft = sound_draft();
  for (const char* half : {".lora_A.weight", ".lora_B.weight"})
    draft.shapes.erase(kPrefix + "h.0.attn.c_attn" + half);
  draft.write(directory.path());
  auto set = load(directory.path());
  EXPECT_EQ(set->by_width.at(0)->linears[0], nullptr);
  EXPECT_NE(set->by_width.at(0)->linears[1], nullptr);
  EXPECT_THAT(set->warnings,
              ::testing::Contains(HasSubstr(
                  "target_modules names transformer.h.0.attn.c_attn, which has no tensors")));
  // Where the pattern cannot be read there is nothing to compare.
  draft.config["target_modules"] = "^(?!.*vision).*";
  draft.write(directory.path());
  set = load(directory.path());
  EXPECT_NE(set->by_width.at(0)->linears[1], nullptr);
  EXPECT_THAT(set->warnings, ::testing::Contains(HasSubstr("uses look-around")));
  // Nor are ranks compared; they are the tensors'.
  draft = sound_draft();
  draft.config["rank_pattern"] = {{"(?=c)c_attn", 7}};
  draft.write(directory.path());
  set = load(directory.path());
  EXPECT_EQ(set->by_width.at(0)->linears[0]->rank(), 3U);
  EXPECT_EQ(set->by_width.at(0)->linears[0]->view().scaling, 2.0F);
}

TEST(HostileAdapter, DirectoriesThatAreNotAdaptersAreRefused) {
  const auto absent = error_of([&] { load("/nonexistent/adapter"); });
  EXPECT_EQ(absent.kind, ErrorKind::kNotFound);
  EXPECT_THAT(absent.message, HasSubstr("no such adapter directory"));
  const TempDir directory;
  EXPECT_EQ(error_of([&] { load(directory.path()); }).kind, ErrorKind::kNotFound);
  sound_draft().write(directory.path());
  std::filesystem::remove(directory.file("adapter_model.safetensors"));
  EXPECT_EQ(error_of([&] { load(directory.path()); }).kind, ErrorKind::kNotFound);
  std::ofstream(directory.file("adapter_model.bin")) << "x";
  EXPECT_EQ(error_of([&] { load(directory.path()); }).kind, ErrorKind::kUnsupported);
}

TEST(HostileAdapter, OutputDirectoriesAreChecked) {
  const auto bad = ErrorKind::kBadInput, unsupported = ErrorKind::kUnsupported;
  struct Case {
    const char* name;
    std::function<void(Json&)> change;
    ErrorKind kind;
    std::string piece;
  };
  const Json sound = {{"format_version", 1},       {"base", {{"id", "x"}, {"sha256", "y"}}},
                      {"scheme", "seed"},          {"plan", nullptr},
                      {"adapters", {{"8", "w8"}}}, {"heads", {{"8", "w8"}}},
                      {"separator", nullptr}};
  const std::vector<Case> cases = {
      {"no version", [](Json& j) { j.erase("format_version"); }, bad, "format_version is missing"},
      {"later version", [](Json& j) { j["format_version"] = 2; }, unsupported, "format_version 2"},
      {"unknown key", [](Json& j) { j["adaptors"] = 1; }, bad, "unknown key adaptors"},
      {"no base", [](Json& j) { j.erase("base"); }, bad, "base is missing"},
      {"base a text", [](Json& j) { j["base"] = "gpt2"; }, bad, "base"},
      {"no adapters", [](Json& j) { j["adapters"] = Json::object(); }, bad, "adapters is empty"},
      {"adapters a list", [](Json& j) { j["adapters"] = {"w8"}; }, bad, "adapters"},
      {"width 9", [](Json& j) { j["adapters"]["9"] = "w8"; }, bad, "adapters[\"9\"]"},
      {"path upwards", [](Json& j) { j["adapters"]["8"] = "../w8"; }, bad, "bare name"},
      {"absolute path", [](Json& j) { j["adapters"]["8"] = "/etc"; }, bad, "bare name"},
      {"hidden name", [](Json& j) { j["adapters"]["8"] = ".."; }, bad, "bare name"},
      {"absent directory", [](Json& j) { j["adapters"]["8"] = "w7"; }, ErrorKind::kNotFound, "w7"},
      {"separator outside the vocabulary", [](Json& j) { j["separator"] = 61; }, bad,
       "separator 61"},
      {"negative separator", [](Json& j) { j["separator"] = -1; }, bad, "separator"},
      {"separator text", [](Json& j) { j["separator"] = "7"; }, bad, "separator"},
      {"plan a text", [](Json& j) { j["plan"] = "8"; }, bad, "plan"},
      {"scheme a number", [](Json& j) { j["scheme"] = 1; }, bad, "scheme"},
      {"head elsewhere", [](Json& j) { j["heads"]["8"] = "a/b"; }, bad, "bare name"},
  };
  const TempDir directory;
  std::filesystem::create_directories(directory.file("w8"));
  sound_draft().write(directory.file("w8"));
  auto write = [&](const Json& json) { std::ofstream(directory.file("qalof.json")) << json; };
  write(sound);
  ASSERT_NO_THROW(load(directory.path()));
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Json json = sound;
    c.change(json);
    write(json);
    const auto error = error_of([&] { load(directory.path()); });
    EXPECT_EQ(static_cast<int>(error.kind), static_cast<int>(c.kind)) << error.message;
    EXPECT_THAT(error.message, HasSubstr(c.piece));
  }
  // Cut anywhere before its last brace, the description is refused.
  const std::string text = sound.dump();
  for (std::size_t size = 0; size < text.size(); ++size) {
    std::ofstream(directory.file("qalof.json")) << text.substr(0, size);
    ASSERT_EQ(error_of([&] { load(directory.path()); }).kind, ErrorKind::kCorruptFile) << size;
  }
}

}  // namespace adapter_test
}  // namespace qalof::runtime
