// The importers that run_import calls, one per format. Internal to import (import.h), which checks
// that the source exists and creates the output directory first.
#pragma once

#include "app/import/import.h"

namespace qalof::app {

/// Imports checkpoints of the original implementation: a Hugging Face directory, or a safetensors
/// file next to config.json, whose linears hold adapters (docs/file_formats.md, "Imported
/// checkpoints").
ImportResult import_original(const ImportOptions& options, Observer& observer);

/// Converts a GGUF file of the Llama family to a Hugging Face directory (docs/file_formats.md,
/// "GGUF").
ImportResult import_gguf(const ImportOptions& options, Observer& observer);

}  // namespace qalof::app
