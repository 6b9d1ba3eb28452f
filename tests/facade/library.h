// The nano model through the public library, and the program beside it, which must say the same.
#pragma once

#include <fstream>
#include <string>

#include "cli/program.h"
#include "core/json.h"
#include "qalof/qalof.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"

namespace qalof::testing {

inline const std::string kNanoModel = QALOF_SOURCE_DIR "/assets/nano/model";
inline const std::string kNanoData = QALOF_SOURCE_DIR "/assets/nano/data";

/// A test that runs the program on the nano model.
class LibraryTest : public cli::CliTest {
 protected:
  /// What the program prints with --json.
  Json program(const std::string& command, const std::string& flags) {
    const cli::ProgramRun found =
        run(command + " --json --model_name_or_path " + kNanoModel + " " + flags);
    EXPECT_EQ(found.code, 0) << found.err;
    return found.code == 0 ? parse_json(found.out, "standard output") : Json();
  }
  /// A PEFT directory with random pairs and the head of a task for the nano model.
  std::string random_adapter(const std::string& name, weights::HeadKind task, std::uint64_t seed) {
    const auto base = weights::BaseModel::load_directory(kNanoModel);
    const auto set = random_adapters(base->config(), {0}, seed);
    weights::Adapter adapter;
    for (const auto& pair : set->by_width.at(0)->linears) {
      adapter.linears.push_back(std::make_unique<weights::LoraLinear>(
          pair->rank(), pair->view().scaling, pair->a(), pair->b(), pair->a().size() / pair->rank(),
          pair->b().size() / pair->rank()));
    }
    adapter.rank = 4;
    adapter.alpha = 8;
    if (task == weights::HeadKind::kSpan) adapter.qa_head = set->by_width.at(0)->qa_head;
    if (task == weights::HeadKind::kClass)
      adapter.class_head = weights::untrained_class_head(*base, 3, seed);
    weights::save_adapter(dir_.file(name), adapter, base->config(), task, kNanoModel);
    return dir_.file(name);
  }
};

}  // namespace qalof::testing
