// Writing safetensors models: shards that read back as one model, and replacing a model in the
// other form.
#include "io/model_write.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/io_test_util.h"
#include "io/model_dir.h"
#include "support/temp_dir.h"

namespace qalof::io {
namespace model_write_test {

using qalof::testing::TempDir;

std::vector<float> values_of(const ModelDir& dir, const std::string& name) {
  std::vector<float> values(dir.find(name)->num_elements());
  dir.copy_as_f32(*dir.find(name), 0, values);
  return values;
}

class ModelWriteTest : public ::testing::Test {
 protected:
  ModelWriteTest() { put_file(dir_.file("config.json"), "{}"); }

  // Tensors of 8 bytes each as bfloat16, of 16 as floats.
  void write(bool bf16, std::uint64_t shard_bytes) {
    std::vector<TensorToMake> tensors;
    for (std::size_t i = 0; i < 5; ++i) {
      tensors.push_back({"model." + std::to_string(i), {2, 2}, [i] {
                           return std::vector<float>(4, static_cast<float>(i) + 0.5F);
                         }});
    }
    made_ = 0;
    write_model_weights(
        dir_.path(), tensors, bf16 ? DType::kBF16 : DType::kF32, [this] { ++made_; }, shard_bytes);
  }
  void expect_all() {
    const ModelDir dir = ModelDir::open(dir_.path());
    ASSERT_EQ(dir.names().size(), 5U);
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(values_of(dir, std::to_string(i)),
                std::vector<float>(4, static_cast<float>(i) + 0.5F));
    }
  }
  bool has(const std::string& name) { return std::filesystem::exists(dir_.file(name)); }

  TempDir dir_;
  int made_ = 0;
};

TEST_F(ModelWriteTest, SplitsIntoShardsThatAreReadAsOneModel) {
  write(/*bf16=*/true, 20);
  EXPECT_EQ(made_, 5);
  EXPECT_TRUE(has("model-00003-of-00003.safetensors"));
  EXPECT_FALSE(has("model.safetensors"));
  expect_all();
  const Json index = read_json_file(dir_.file("model.safetensors.index.json"), 10'000);
  EXPECT_EQ(index["metadata"]["total_size"], 40);
  EXPECT_EQ(index["weight_map"]["model.2"], "model-00002-of-00003.safetensors");
}

TEST_F(ModelWriteTest, AModelOfTheOtherFormIsReplaced) {
  write(/*bf16=*/false, 1000);
  EXPECT_TRUE(has("model.safetensors"));
  expect_all();
  write(/*bf16=*/false, 16);  // a tensor larger than what is left has a shard of its own
  EXPECT_FALSE(has("model.safetensors"));
  EXPECT_TRUE(has("model-00005-of-00005.safetensors"));
  expect_all();
  write(/*bf16=*/false, 1000);
  EXPECT_FALSE(has("model.safetensors.index.json"));
  expect_all();
}

}  // namespace model_write_test
}  // namespace qalof::io
