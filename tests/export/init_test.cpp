// New models of every family: their directories load, and say what their weights are stored as.
#include "app/init.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/json.h"
#include "support/temp_dir.h"
#include "weights/base_model.h"

namespace qalof::app {
namespace init_test {

using qalof::testing::TempDir;

Json initialized(InitOptions options) {
  const TempDir dir;
  options.output_dir = dir.file("model");
  Observer observer;
  const InitResult result = run_init(options, observer);
  const auto base = weights::BaseModel::load_directory(options.output_dir);
  EXPECT_EQ(model::parameter_count(base->config()), result.parameters);
  return base->config().raw;
}

TEST(Init, EveryFamilyHasANanoSizeThatLoads) {
  for (const std::string& family : init_families()) {
    SCOPED_TRACE(family);
    InitOptions options;
    options.model_type = family;
    options.size = "nano";
    EXPECT_EQ(initialized(options).at("dtype"), "float32");
    options.bf16 = true;
    EXPECT_EQ(initialized(options).at("dtype"), "bfloat16");
  }
}

TEST(Init, WhatAConfigSaysOfOtherWeightsIsReplaced) {
  const TempDir dir;
  Json config = model::named_model_config("gemma3", "nano");
  config["torch_dtype"] = config["text_config"]["torch_dtype"] = "float16";
  InitOptions options;
  options.config_name = dir.file("config.json");
  std::ofstream(options.config_name) << config.dump();
  const Json written = initialized(options);
  EXPECT_EQ(written.at("dtype"), "float32");
  EXPECT_EQ(written.at("text_config").at("dtype"), "float32");
  EXPECT_EQ(written.dump().find("float16"), std::string::npos);
}

}  // namespace init_test
}  // namespace qalof::app
