// Importing the original's checkpoints: the numbers arrive where they belong, and what is not such
// a checkpoint is refused in one sentence.
#include "app/import/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "io/adapter_dir.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"

namespace qalof::app {
namespace import_test {

using testing::error_of;
using ::testing::HasSubstr;
using testing::tensor_values;

struct Stored {
  std::vector<std::size_t> shape;
  std::vector<float> values;
};
using Tensors = std::map<std::string, Stored>;

// What the original's code saves of the tiny model: linears as [out, in], adapters inside.
Tensors original_tensors(const weights::BaseModel& base, const std::vector<int>& widths) {
  Tensors tensors;
  for (const model::TensorSpec& spec : model::expected_tensors(base.config()))
    tensors["transformer." + spec.name] = {spec.shape, *base.source().tensor_f32(spec.name)};
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    const model::LinearSpec& spec = base.linears()[i];
    const std::string name = "transformer." + spec.name;
    tensors[name + ".weight"] = {{spec.out, spec.in}, base.source().linear_f32(i)};
    for (const int width : widths) {
      const std::string lora = width == 0 ? name + ".lora_module."
                                          : fmt::format("{}.lora_modules.lora_{}bit.", name, width);
      // random_adapters' values.
      const std::string key = fmt::format("{}.{}", spec.name, width == 0 ? 8 : width);
      tensors[lora + "lora_A"] = {{4, spec.in}, tensor_values(key + "a", 4 * spec.in, 0.1F)};
      tensors[lora + "lora_B"] = {{spec.out, 4}, tensor_values(key + "b", 4 * spec.out, 0.1F)};
    }
  }
  tensors["qa_outputs.weight"] = {{2, base.config().hidden}, base.qa_head()->weight};
  tensors["qa_outputs.bias"] = {{2}, base.qa_head()->bias};
  return tensors;
}

class ImportTest : public ::testing::Test {
 protected:
  void write(const Tensors& tensors) {
    std::vector<io::TensorToWrite> to_write;
    for (const auto& [name, tensor] : tensors)
      to_write.push_back({name, io::DType::kF32, tensor.shape,
                          std::as_bytes(std::span<const float>(tensor.values))});
    io::write_safetensors(dir_.file("model.safetensors"), to_write, {});
    write_file_atomic(dir_.file("config.json"), config_.dump());
  }
  ImportResult import(const std::string& source = "") {
    ImportOptions options;
    options.source = source.empty() ? dir_.path() : source;
    options.output_dir = out();
    options.overwrite = true;
    return run_import(options, observer_);
  }
  std::string out() const { return dir_.file("out"); }

  testing::TinyRuntime tiny_;
  testing::TempDir dir_;
  Json config_ = [] {
    Json config = testing::tiny_config();
    config["bit_widths"] = {4, 8};
    config["lora_r"] = 4;
    config["lora_alpha"] = 8;
    return config;
  }();
  Observer observer_;
};

TEST_F(ImportTest, BaseAdaptersAndHeadGiveTheBitsOfTheOriginalsNumbers) {
  write(original_tensors(*tiny_.base(), {4, 8}));
  const ImportResult result = import();
  EXPECT_EQ(result.directories.size(), 3U);
  EXPECT_EQ(result.tensors, 28U + 2U + 8U * 4U);
  const auto base = weights::BaseModel::load_directory(out() + "/base");
  for (const model::TensorSpec& spec : model::expected_tensors(tiny_.config()))
    EXPECT_EQ(base->source().tensor_f32(spec.name), tiny_.base()->source().tensor_f32(spec.name));
  EXPECT_EQ(base->qa_head()->weight, tiny_.base()->qa_head()->weight);
  EXPECT_FALSE(base->config().raw.contains("lora_alpha"));

  auto adapters =
      std::make_shared<weights::AdapterSet>(weights::load_adapters(out(), base->config()));
  EXPECT_EQ(adapters->base_sha256, base->source().sha256());
  ASSERT_EQ(adapters->by_width.size(), 2U);
  EXPECT_EQ(quant::plan_from_json(*adapters->plan, "").default_precision.linear,
            (quant::Precision{{8}, {8}}));
  const auto expected = testing::random_adapters(tiny_.config(), {4, 8});
  SerialFor serial;
  for (const char* plan : {"4", "8", "32"}) {
    const auto run = runtime::Execution::create(
        base, quant::resolve(quant::parse_plan(plan), base->target()), adapters, serial);
    const std::vector<std::int32_t> ids = tiny_.ids(20);
    const auto wanted = tiny_.execution(plan, expected);
    EXPECT_TRUE(
        testing::same_bytes(tiny_.run(*run, ids, 0, serial), tiny_.run(*wanted, ids, 0, serial)))
        << plan;
    EXPECT_EQ(run->head(weights::HeadKind::kSpan)->weight, tiny_.base()->qa_head()->weight);
  }
}

TEST_F(ImportTest, TheFileAloneAndItsDirectoryAreTheSame) {
  write(original_tensors(*tiny_.base(), {8}));
  import();
  const std::string whole = read_file(out() + "/w8/adapter_model.safetensors", 1 << 20);
  import(dir_.file("model.safetensors"));
  EXPECT_EQ(read_file(out() + "/w8/adapter_model.safetensors", 1 << 20), whole);
}

TEST_F(ImportTest, TheSingleAdapterOfCyclicTrainingServesEveryWidth) {
  write(original_tensors(*tiny_.base(), {0}));
  import();
  const weights::AdapterSet adapters = weights::load_adapters(out(), tiny_.config());
  for (const int width : {4, 5, 6, 7, 8}) EXPECT_EQ(adapters.serving_width(width), 8);
}

TEST_F(ImportTest, AdaptersWithoutABaseAreWrittenAlone) {
  Tensors tensors = original_tensors(*tiny_.base(), {4});
  std::erase_if(tensors, [](const auto& entry) {
    return entry.first.find("lora") == std::string::npos && !entry.first.starts_with("qa_");
  });
  write(tensors);
  EXPECT_EQ(import().directories.size(), 1U);
  EXPECT_FALSE(path_exists(out() + "/base"));
  EXPECT_EQ(io::read_adapter_dir(out()).base_sha256, "");
}

TEST_F(ImportTest, WhatDoesNotFitIsNamed) {
  const Tensors sound = original_tensors(*tiny_.base(), {4, 8});
  const std::string c_attn = "transformer.h.1.attn.c_attn.";
  struct Case {
    std::function<void(Tensors&)> damage;
    std::string message;
  };
  const std::vector<Case> cases = {
      {[&](Tensors& t) { t.erase(c_attn + "lora_modules.lora_4bit.lora_B"); }, "h.1.attn.c_attn"},
      {[&](Tensors& t) { t.erase(c_attn + "weight"); }, "h.1.attn.c_attn.weight is missing"},
      {[&](Tensors& t) { std::swap(t[c_attn + "weight"].shape[0], t[c_attn + "weight"].shape[1]); },
       "expected [96, 32]"},
      {[&](Tensors& t) {
         auto& shape = t[c_attn + "lora_modules.lora_4bit.lora_A"].shape;
         std::swap(shape[0], shape[1]);
       },
       "expected [r, 32]"},
      {[&](Tensors& t) {
         t[c_attn + "lora_modules.lora_9bit.lora_A"] = {{1}, {1.0F}};
       },
       "lora_9bit"},
      {[&](Tensors& t) {
         t["transformer.h.7.attn.c_attn.lora_module.lora_A"] = {{1}, {1.0F}};
       },
       "belongs to no linear"},
      {[&](Tensors& t) {
         t["transformer.extra"] = {{1}, {1.0F}};
       },
       "extra is not part"},
      {[&](Tensors& t) {
         t["qa_outputs.bias"].shape = {1, 2};
       },
       "qa_outputs.bias has shape"},
      {[&](Tensors& t) {
         std::erase_if(t, [](const auto& e) { return e.first.find("lora") != std::string::npos; });
       },
       "holds no adapters"}};
  for (const Case& c : cases) {
    Tensors tensors = sound;
    c.damage(tensors);
    write(tensors);
    const auto error = error_of([&] { import(); });
    EXPECT_EQ(error.kind, ErrorKind::kBadInput) << error.message;
    EXPECT_THAT(error.message, HasSubstr(c.message));
    EXPECT_FALSE(path_exists(out() + "/qalof.json")) << c.message;
  }
  config_.erase("lora_alpha");
  write(sound);
  EXPECT_THAT(error_of([&] { import(); }).message, HasSubstr("lora_alpha"));
}

TEST_F(ImportTest, OtherFormatsAreRefusedBySentence) {
  const auto refusal = [&](const std::string& name, const std::string& bytes) {
    write_file_atomic(dir_.file(name), bytes);
    const auto error = error_of([&] { import(dir_.file(name)); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported) << name;
    return error.message;
  };
  EXPECT_THAT(refusal("a.safetensors", std::string("PK\x03\x04 zip", 9)), HasSubstr("save_file"));
  EXPECT_THAT(refusal("b.pt", "\x80\x02}q"), HasSubstr("pickled"));
  EXPECT_THAT(refusal("d", ""), HasSubstr("unknown format, expected"));
  EXPECT_THAT(refusal("e", "01234567["), HasSubstr("unknown format, expected"));
  write_file_atomic(dir_.file("pytorch_model.bin"), "PK\x03\x04");
  EXPECT_THAT(error_of([&] { import(); }).message, HasSubstr("save_file"));
  EXPECT_EQ(error_of([&] { import(dir_.file("missing")); }).kind, ErrorKind::kNotFound);
}

TEST_F(ImportTest, DamagedFilesNeverDoMoreThanRefuse) {
  write(original_tensors(*tiny_.base(), {4, 8}));
  const std::string path = dir_.file("model.safetensors");
  const std::string sound = read_file(path, 1 << 24);
  const RandomStream stream(3, "import damage");
  for (std::uint64_t i = 0; i < 120; ++i) {
    std::string damaged = sound;
    if (i % 2 == 0) {
      damaged.resize(stream.below(sound.size(), 0, i));
    } else {
      // In the header, where every byte means something.
      const std::size_t at = stream.below(4096, 1, i);
      damaged[at] = static_cast<char>(stream.below(256, 2, i));
    }
    write_file_atomic(path, damaged);
    try {
      import(path);
    } catch (const Error& error) {
      EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.what();
    }
  }
}

}  // namespace import_test
}  // namespace qalof::app
