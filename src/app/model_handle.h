// Opens the model, adapter and precision named by --model_name_or_path, --adapter and --precision,
// the same way in every command.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/options.h"
#include "core/progress.h"
#include "core/threads.h"
#include "runtime/execution.h"
#include "runtime/request_executions.h"
#include "tasks/task.h"
#include "text/text_encoder.h"
#include "weights/packed_file.h"

namespace qalof::app {

/// The flags that choose a model; part of most commands' options.
struct ModelOptions {
  std::string model;  // model directory or packed file, or a name on the hub
  std::string
      adapter;  // training output directory or PEFT directory; "" = none (or the packed file's)
  std::string
      precision;       // text form or plan file; "" = the adapter's or packed file's plan, else 32
  std::string scheme;  // of the weights; "" = the plan's, packed file's or adapter's, else minmax
  int kv_bits = 0;     // K and V of every layer; 0 = as in the plan
  std::string kv_scheme = "token";
  int lm_head_bits = 0;  // 4, 8, 16 or 32; 0 = the embedding's width
  int threads = 0;       // 0 = all available
  // Parse special tokens written in texts, in commands that read texts.
  bool parse_special = false;
  // Allow random precision ("random:4,8"), in commands that serve requests.
  bool takes_random = false;
  std::string random_widths = "request";        // or "layer"
  std::optional<std::uint64_t> random_seed;     // of the draws; none: the system's random source
  std::shared_ptr<SharedMemory> shared_memory;  // of the processes of a run; null: none
};

/// Lists --model_name_or_path, --adapter, --precision (--sp_config; unless the command chooses it),
/// --scheme and --threads.
void list_model_options(OptionList& list, ModelOptions& options, bool with_precision = true);
/// Lists --kv_bits, --kv_scheme and --lm_head_bits: what a run chooses beside its plan.
void list_run_options(OptionList& list, ModelOptions& options);
/// Lists --parse_special, for commands that read texts.
void list_text_options(OptionList& list, ModelOptions& options);
/// Lists --random_widths, and has --precision take random:SET.
void list_random_options(OptionList& list, ModelOptions& options);

/// An opened model with its adapters, and the choices that turn them into an execution.
struct ModelHandle {
  std::shared_ptr<const weights::BaseModel> base;
  std::shared_ptr<const weights::AdapterSet> adapters;  // null: none
  quant::PlanSpec plan;                                 // its scheme is the effective one
  std::optional<quant::RandomPrecision> random;         // replaces plan, which is its first
  std::optional<std::uint64_t> random_seed;
  std::map<std::string, std::string> packed_files;  // tokenizer files of a packed file
  std::optional<quant::BitWidth> kv_bits;           // instead of the plan's
  runtime::ExecutionOptions execution;
  bool parse_special = false;
};

/// What is on disk, opened once: every choice of adapter and precision shares it.
struct StoredModel {
  std::string path;
  std::shared_ptr<const weights::BaseModel> base;
  std::optional<weights::PackedModel> packed;  // of a packed file: what it holds beside base
};

/// Error{kBadInput} where a path that --adapter names is another thing known here: a packed file, a
/// model directory.
void check_adapter_path(const std::string& path);
/// Opens a model directory or packed file, or what the hub has under that name (local_path), on so
/// many threads; tells observer what it had to say.
StoredModel open_stored(const std::string& path, int threads, Observer& observer);
/// The adapters of a directory, or of a name on the hub, for a model; tells observer what it had to
/// say. Error{kUsage} where the model is a packed file that takes no others than its own.
std::shared_ptr<const weights::AdapterSet> open_adapters(const StoredModel& stored,
                                                         const std::string& path,
                                                         Observer& observer);
/// Chooses plan and scheme of a model that is open. adapters null: those of a packed file, or none.
ModelHandle choose_run(const StoredModel& stored,
                       std::shared_ptr<const weights::AdapterSet> adapters,
                       const ModelOptions& options, Observer& observer);
/// The three of them: opens model and adapter and chooses the plan.
ModelHandle open_model(const ModelOptions& options, Observer& observer);
/// The model's own tokenizer (directory or packed file); passes warnings of its files to observer.
text::BpeTokenizer open_tokenizer(const ModelHandle& handle, Observer* observer = nullptr);
/// The tokenizer with the policy for special tokens that all commands share; reports the tokens it
/// adds to texts to observer.
text::TextEncoder open_encoder(const ModelHandle& handle, Observer& observer);
/// How texts are read for what a handle holds: with its adapters' separator and its base's
/// positions.
tasks::Reading make_reading(const ModelHandle& handle, const text::TextEncoder& encoder,
                            Observer& observer);
/// Names of the active head's classes, from the adapter or the model's id2label; empty where
/// neither has num_classes names.
std::vector<std::string> label_names(const ModelHandle& handle, std::size_t num_classes);
/// sha256 (hex) of the contents of adapters: pairs, scalings, heads and learned quantizer values.
std::string adapters_sha256(const weights::AdapterSet& set);
/// Resolves plan and adapters to an execution and reports the effective precision to observer.
std::shared_ptr<const runtime::Execution> make_execution(const ModelHandle& handle,
                                                         ParallelFor& parallel, Observer& observer);
/// An execution that drafts for another (runtime::DraftOptions), of a precision in text form, where
/// a width of 2..8 alone is one of weights, with activations of 8 bits: in the same scheme, with
/// the same adapters and K/V precision, and with an LM head of at most 8 bits where one can be
/// made.
std::shared_ptr<const runtime::Execution> make_drafting(const ModelHandle& handle,
                                                        const std::string& precision,
                                                        const runtime::Execution& drafted_for,
                                                        ParallelFor& parallel, Observer& observer);
/// make_execution for requests: one execution, or the set that random precision draws from.
runtime::RequestExecutions make_request_executions(const ModelHandle& handle, ParallelFor& parallel,
                                                   Observer& observer);
/// --threads, else QALOF_THREADS, else every available one. Error{kUsage} for a value
/// outside 1..1024.
int choose_threads(int requested);

}  // namespace qalof::app
