// Short training runs of a tiny model with the nano model's tokenizer and data, through the same
// function as `qalof train`.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "app/train/run.h"
#include "core/file.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"
#include "text/bpe_tokenizer.h"

namespace qalof::app {

class TinyTrainRun : public ::testing::Test {
 protected:
  TinyTrainRun() {
    Json config = qalof::testing::tiny_config();
    config["vocab_size"] = 640;
    config["bos_token_id"] = config["eos_token_id"] = 0;
    qalof::testing::write_model(model(), config);
    text::copy_tokenizer_files(QALOF_SOURCE_DIR "/assets/nano/model", model());
  }
  std::string model() const { return dir_.file("model"); }

  TrainRunOptions options(const std::string& output) const {
    TrainRunOptions options;
    options.model.model = model();
    options.model.threads = 2;
    options.train_file = QALOF_SOURCE_DIR "/assets/nano/data/train.json";
    options.output_dir = dir_.file(output);
    options.max_train_samples = 12;
    options.max_seq_length = 48;
    options.tasks.get<tasks::Qa>().doc_stride = 16;
    options.flags = {{"--seed", 42}};
    options.train.method = train::Method::kSwitch;
    options.train.schedule.max_steps = 8;
    options.train.schedule.warmup_steps = 2;
    options.train.schedule.batch_size = 2;
    options.train.adapters.lora_r = 2;
    options.train.logging.logging_steps = 1;
    options.train.logging.save_steps = 3;
    return options;
  }
  static TrainRunResult run(const TrainRunOptions& options) {
    Observer silent;
    return run_train(options, silent);
  }
  static std::string slurp(const std::string& path) { return read_file(path, 100'000'000); }

  qalof::testing::TempDir dir_;
};

}  // namespace qalof::app
