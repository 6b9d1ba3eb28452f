// Model directories: names without prefixes, shards and their index, what is refused.
#include "io/model_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"
#include "core/hash.h"
#include "io/io_test_util.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace model_dir_test {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

const std::vector<float> kValues = {1, 2, 3, 4};

void put_tensors(const std::string& path,
                 const std::vector<std::pair<std::string, std::vector<std::size_t>>>& tensors) {
  std::vector<TensorToWrite> to_write;
  for (const auto& [name, shape] : tensors) {
    std::size_t count = 1;
    for (const std::size_t extent : shape) count *= extent;
    to_write.push_back({name, DType::kF32, shape, bytes_of(kValues).first(4 * count)});
  }
  write_safetensors(path, to_write, {});
}

// A directory with a configuration.
class ModelDirTest : public ::testing::Test {
 protected:
  ModelDirTest() { put_file(dir_.file("config.json"), R"({"model_type": "gpt2", "x": 1})"); }
  void put_index(const std::string& weight_map) {
    put_file(dir_.file("model.safetensors.index.json"),
             R"({"metadata": {}, "weight_map": )" + weight_map + "}");
  }
  ModelDir open() { return ModelDir::open(dir_.path()); }
  testing::ThrownError error() {
    return error_of([&] { open(); });
  }
  TempDir dir_;
};

TEST_F(ModelDirTest, StripsWrappersAndDropsMaskBuffersAndKeepsConfig) {
  put_tensors(dir_.file("model.safetensors"),
              {{"module._orig_mod.transformer.h.0.attn.c_attn.bias", {2}},
               {"transformer.h.0.attn.bias", {1, 1, 2, 2}},
               {"h.0.attn.masked_bias", {}},
               {"model.layers.0.w", {2, 2}},
               {"base_model.model.transformer.wte.weight", {4}},
               {"qa_outputs.bias", {1}}});
  ModelDir opened = open();
  const ModelDir model = std::move(opened);
  EXPECT_THAT(model.names(),
              ElementsAre("h.0.attn.c_attn.bias", "layers.0.w", "qa_outputs.bias", "wte.weight"));
  ASSERT_NE(model.find("layers.0.w"), nullptr);
  EXPECT_THAT(model.find("layers.0.w")->shape, ElementsAre(2, 2));
  EXPECT_EQ(model.find("h.0.attn.bias"), nullptr);
  EXPECT_EQ(model.config()["x"], 1);
  EXPECT_EQ(model.path(), dir_.path());
}

// Wherever they stand, and whether or not an index names them.
TEST_F(ModelDirTest, DropsBuffersThatModelsMakeAnew) {
  const std::vector<std::pair<std::string, std::vector<std::size_t>>> buffers = {
      {"model.layers.0.self_attn.rotary_emb.inv_freq", {2}},
      {"model.rotary_emb.inv_freq", {2}},
      {"rotary_emb.original_inv_freq", {2}},
      {"module.model.layers.1.self_attn.rotary_emb.cos_cached", {1, 1, 2, 2}},
      {"transformer.h.0.attn.bias", {1, 1, 2, 2}},
      {"position_ids", {1, 4}}};
  auto tensors = buffers;
  tensors.push_back({"model.w", {2}});
  tensors.push_back({"my_position_ids", {2}});
  put_tensors(dir_.file("model.safetensors"), tensors);
  EXPECT_THAT(open().names(), ElementsAre("my_position_ids", "w"));
  std::filesystem::remove(dir_.file("model.safetensors"));
  put_tensors(dir_.file("a.safetensors"), buffers);
  put_tensors(dir_.file("b.safetensors"), {{"model.w", {2}}});
  put_index(R"({"model.w": "b.safetensors", "model.rotary_emb.inv_freq": "a.safetensors"})");
  EXPECT_THAT(open().names(), ElementsAre("w"));
}

TEST_F(ModelDirTest, NamesTheTensorThatIsNotFinite) {
  std::vector<float> values(300, 1.0F);
  values[257] = std::numeric_limits<float>::infinity();
  write_safetensors(
      dir_.file("model.safetensors"),
      {{"model.layers.1.mlp.up_proj.weight", DType::kF32, {100, 3}, bytes_of(values)}}, {});
  const ModelDir model = open();
  const TensorView& view = *model.find("layers.1.mlp.up_proj.weight");
  std::vector<float> part(45);
  EXPECT_NO_THROW(model.copy_as_f32(view, 0, part));
  const auto error = error_of([&] { model.copy_as_f32(view, 255, part); });
  EXPECT_EQ(error.kind, ErrorKind::kBadInput);
  EXPECT_THAT(error.message,
              HasSubstr("tensor model.layers.1.mlp.up_proj.weight holds inf at value 257"));
}

TEST_F(ModelDirTest, ASecondNameFindsTheSameTensor) {
  put_tensors(dir_.file("model.safetensors"), {{"model.w", {2}}});
  ModelDir model = open();
  model.add_name("v", "w");
  EXPECT_EQ(model.find("v"), model.find("w"));
  EXPECT_EQ(model.stored_name("v"), "model.w");
  EXPECT_THAT(model.names(), ElementsAre("w"));
}

TEST_F(ModelDirTest, NamesWhatIsNoModelDirectory) {
  put_file(dir_.file("x.gguf"), std::string("GGUF\3\0\0\0", 8));
  EXPECT_THAT(error_of([&] { ModelDir::open(dir_.file("x.gguf")); }).message,
              HasSubstr("is a GGUF file; qalof import "));
  EXPECT_THAT(error().message,
              HasSubstr("is no model directory but holds a GGUF file; qalof import "));
  put_tensors(dir_.file("alone.safetensors"), {{"x", {1}}});
  EXPECT_THAT(error_of([&] { ModelDir::open(dir_.file("alone.safetensors")); }).message,
              HasSubstr("is a safetensors file alone, expected the directory that holds it"));
  for (const char* name : {"qalof.json", "adapter_config.json"}) {
    const TempDir adapter;
    put_file(adapter.file(name), "{}");
    const auto thrown = error_of([&] { ModelDir::open(adapter.path()); });
    EXPECT_EQ(thrown.kind, ErrorKind::kBadInput);
    EXPECT_THAT(thrown.message, HasSubstr("is an adapter directory"));
    EXPECT_THAT(thrown.message, HasSubstr("give it as --adapter"));
  }
}

TEST_F(ModelDirTest, NamesThePartsThatAreMissing) {
  const auto part = [](int i) { return fmt::format("model-{:05}-of-00003.safetensors", i); };
  put_tensors(dir_.file(part(1)), {{"x", {1}}});
  EXPECT_EQ(error().kind, ErrorKind::kNotFound);
  EXPECT_THAT(error().message, HasSubstr("has 1 of 3 parts (model-00001-of-00003.safetensors) but "
                                         "no model.safetensors.index.json"));
  put_index(fmt::format(R"({{"x": "{}", "y": "{}", "z": "{}"}})", part(1), part(2), part(3)));
  EXPECT_EQ(error().kind, ErrorKind::kNotFound);
  EXPECT_THAT(error().message, HasSubstr("2 of the 3 files it names are not there: "
                                         "model-00002-of-00003.safetensors, "
                                         "model-00003-of-00003.safetensors"));
  put_tensors(dir_.file(part(2)), {{"y", {1}}});
  EXPECT_THAT(
      error().message,
      HasSubstr("1 of the 3 files it names is not there: model-00003-of-00003.safetensors"));
}

TEST_F(ModelDirTest, GivesTheHashOfItsWeightFilesInNameOrder) {
  put_tensors(dir_.file("b.safetensors"), {{"x", {1}}});
  put_tensors(dir_.file("a.safetensors"), {{"y", {2}}});
  put_index(R"({"x": "b.safetensors", "y": "a.safetensors"})");
  const ModelDir model = open();
  EXPECT_THAT(model.names(), ElementsAre("x", "y"));
  const std::string bytes =
      read_file(dir_.file("a.safetensors"), 1000) + read_file(dir_.file("b.safetensors"), 1000);
  EXPECT_EQ(model.sha256(), sha256_hex(std::as_bytes(std::span(bytes.data(), bytes.size()))));
  EXPECT_EQ(model.sha256(), model.sha256());
}

TEST_F(ModelDirTest, RefusesTwoTensorsThatStandForOne) {
  put_tensors(dir_.file("model.safetensors"),
              {{"transformer.wte.weight", {1}}, {"wte.weight", {1}}});
  EXPECT_EQ(error().kind, ErrorKind::kBadInput);
  EXPECT_THAT(error().message, HasSubstr("stands for wte.weight, which another tensor is already"));
}

TEST_F(ModelDirTest, SaysThatPickledFilesAreNotRead) {
  EXPECT_EQ(error().kind, ErrorKind::kNotFound);
  EXPECT_THAT(error().message,
              HasSubstr("has neither model.safetensors nor model.safetensors.index.json"));
  for (const char* name :
       {"pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "flax_model.msgpack"}) {
    put_file(dir_.file(name), "x");
    EXPECT_EQ(error().kind, ErrorKind::kUnsupported);
    EXPECT_THAT(error().message,
                HasSubstr(std::string(name) + " is there, which is not read (pickled"));
    std::filesystem::remove(dir_.file(name));
  }
}

TEST_F(ModelDirTest, RefusesAMissingDirectoryOrConfig) {
  EXPECT_EQ(error_of([&] { ModelDir::open(dir_.file("none")); }).kind, ErrorKind::kNotFound);
  EXPECT_EQ(error_of([&] { ModelDir::open(dir_.file("config.json")); }).kind, ErrorKind::kBadInput);
  EXPECT_EQ(error_of([&] { ModelDir::open(dir_.file(std::string(5000, 'x'))); }).kind,
            ErrorKind::kNotFound);
  put_tensors(dir_.file("model.safetensors"), {{"a", {1}}});
  std::filesystem::remove(dir_.file("config.json"));
  EXPECT_THAT(error().message, HasSubstr("config.json"));
  put_file(dir_.file("config.json"), "{");
  EXPECT_EQ(error().kind, ErrorKind::kCorruptFile);
}

TEST_F(ModelDirTest, RefusesAnIndexThatContradictsItsShards) {
  put_tensors(dir_.file("a.safetensors"), {{"x", {1}}, {"y", {1}}});
  put_index(R"({"x": "a.safetensors"})");
  EXPECT_THAT(error().message, HasSubstr("tensor y is not mapped to this file by the index"));
  put_index(R"({"x": "a.safetensors", "y": "a.safetensors", "z": "a.safetensors"})");
  EXPECT_THAT(error().message, HasSubstr("tensor z is missing, the index maps it there"));
  put_index(R"({"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"})");
  EXPECT_EQ(error().kind, ErrorKind::kNotFound);
  EXPECT_THAT(error().message, HasSubstr("b.safetensors"));
  put_tensors(dir_.file("b.safetensors"), {{"transformer.x", {1}}});
  put_index(R"({"x": "a.safetensors", "y": "a.safetensors", "transformer.x": "b.safetensors"})");
  EXPECT_THAT(error().message, HasSubstr("which another tensor is already"));
}

TEST_F(ModelDirTest, RefusesFileNamesThatLeaveTheDirectory) {
  for (const char* name :
       {"../a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "..", "", ".a.safetensors",
        "a\\\\b.safetensors", "a\\u0000.safetensors", "a.bin", "a"}) {
    put_index(fmt::format(R"({{"x": "{}"}})", name));
    EXPECT_EQ(error().kind, ErrorKind::kBadInput) << name;
    EXPECT_THAT(error().message, HasSubstr("expected a bare .safetensors file name")) << name;
  }
}

TEST_F(ModelDirTest, RefusesADamagedIndex) {
  const auto kind_of = [&](const std::string& text) {
    put_file(dir_.file("model.safetensors.index.json"), text);
    return error().kind;
  };
  EXPECT_EQ(kind_of("[]"), ErrorKind::kBadInput);
  EXPECT_EQ(kind_of("{}"), ErrorKind::kBadInput);
  EXPECT_EQ(kind_of(R"({"weight_map": []})"), ErrorKind::kBadInput);
  EXPECT_EQ(kind_of(R"({"weight_map": {}})"), ErrorKind::kBadInput);
  EXPECT_EQ(kind_of(R"({"weight_map": {"x": 1}})"), ErrorKind::kBadInput);
  EXPECT_EQ(kind_of(R"({"weight_map": {"x": "a.safetensors", "x": "a.safetensors"}})"),
            ErrorKind::kCorruptFile);
  EXPECT_EQ(kind_of(R"({"weight_map": {"x": )"), ErrorKind::kCorruptFile);
}

TEST(StripPrefixes, RepeatsInAnyOrderAndLeavesTheRest) {
  EXPECT_EQ(strip_prefixes("_orig_mod.module.base_model.model.model.transformer.h.0"), "h.0");
  EXPECT_EQ(strip_prefixes("pretrained_model.base_model.transformer.h.0"), "h.0");
  EXPECT_EQ(strip_wrappers("pretrained_model.base_model.transformer.h.0"), "transformer.h.0");
  EXPECT_EQ(strip_wrappers("v_head.summary.weight"), "v_head.summary.weight");
  EXPECT_EQ(strip_prefixes("lm_head.weight"), "lm_head.weight");
  EXPECT_EQ(strip_prefixes("modeling.x"), "modeling.x");
  EXPECT_EQ(strip_prefixes(""), "");
}

}  // namespace model_dir_test
}  // namespace qalof::io
