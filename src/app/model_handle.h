// Opening what --model_name_or_path, --adapter and --precision name, the same way in every command.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/progress.h"
#include "core/threads.h"
#include "runtime/execution.h"
#include "runtime/packed_file.h"
#include "text/bpe_tokenizer.h"

namespace qalof::app {

/// The flags that choose a model; part of most commands' options.
struct ModelOptions {
  std::string model;  // model directory or packed file
  std::string
      adapter;  // training output directory or PEFT directory; "" = none (or the packed file's)
  std::string
      precision;  // text form or plan file; "" = the adapter's or packed file's plan, else 32
  std::string scheme = "seed";
  int threads = 0;  // 0 = all available
};

struct ModelHandle {
  std::shared_ptr<const runtime::BaseModel> base;
  std::shared_ptr<const runtime::AdapterSet> adapters;  // null: none
  quant::PlanSpec plan;
  std::map<std::string, std::string> packed_files;  // tokenizer files of a packed file
};

/// Opens model and adapter, chooses the plan, tells observer what an adapter directory had to say.
ModelHandle open_model(const ModelOptions& options, Observer& observer);
/// The model's own tokenizer (directory or packed file).
text::BpeTokenizer open_tokenizer(const ModelHandle& handle);
/// Resolves plan and adapters to pointers and tells observer the effective precision.
std::shared_ptr<const runtime::Execution> make_execution(const ModelHandle& handle,
                                                         ParallelFor& parallel, Observer& observer);
/// --threads, else QALOF_THREADS, else every available one. Error{kUsage} for a value
/// outside 1..1024.
int choose_threads(int requested);

}  // namespace qalof::app
