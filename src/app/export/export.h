// qalof export: writes a model in the formats of other programs: a Hugging Face directory, a GGUF
// file, or an adapter as a GGUF file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/options.h"
#include "core/progress.h"
#include "io/gguf_blocks.h"

namespace qalof::app {

enum class ExportFormat { kHuggingFace, kGguf, kGgufLora };

struct ExportOptions {
  std::string model;    // model directory
  std::string adapter;  // merged, or exported itself; "" = none
  ExportFormat format = ExportFormat::kHuggingFace;
  std::optional<io::GgufType> type;  // none: chosen by format and the base's own dtype
  std::optional<int> bits;           // width whose adapter is exported; none: by type
  std::string output;                // a file, or for kHuggingFace a directory
  bool overwrite = false;
  int threads = 0;
};
/// Lists every option of the command.
void list_export_options(OptionList& list, ExportOptions& options);

struct ExportResult {
  std::uint64_t tensors = 0, bytes = 0;  // bytes of all files that hold weights
  std::string type;                      // of most matrices: "q4_0"
  std::optional<int> bits;               // of the adapter; 0: a plain PEFT adapter
  std::string output;
};

/// What is written is a float model: base plus the adapter's product, then rounded to the type.
/// Learned quantizer values, plans and rotation are ours alone and are left out, which is told.
/// Tells the size before it writes; the output appears when it is complete. Error{kUsage} where the
/// output exists and overwrite is not set, or is an input, or where bits has no adapter;
/// {kUnsupported} for packed files and for heads that GGUF cannot hold; others as
/// weights::BaseModel::load_directory and weights::load_adapters.
ExportResult run_export(const ExportOptions& options, Observer& observer);

}  // namespace qalof::app
