// The readers behind run_import, one per format. Internal to import (import.h), which has checked
// that the source exists and made the output directory.
#pragma once

#include "app/import/import.h"

namespace qalof::app {

/// The original's checkpoints: a Hugging Face directory, or its safetensors file beside
/// config.json, whose linears hold adapters (docs/file_formats.md, "Imported checkpoints").
ImportResult import_original(const ImportOptions& options, Observer& observer);

/// A GGUF file of the Llama family to a Hugging Face directory (docs/file_formats.md, "GGUF").
ImportResult import_gguf(const ImportOptions& options, Observer& observer);

}  // namespace qalof::app
