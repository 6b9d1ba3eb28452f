// The exporters that run_export calls, one per format. Internal to export (export.h), which opens
// the model and checks the options first.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "app/export/export.h"
#include "app/model_handle.h"
#include "core/threads.h"

namespace qalof::app {

/// An opened model, and the adapter of the width that is exported.
struct ExportSource {
  std::shared_ptr<const weights::BaseModel> base;
  std::shared_ptr<const weights::AdapterSet> adapters;  // null: none
  std::shared_ptr<const weights::Adapter> adapter;      // of the width; null: none
  std::string output;
  bool overwrite = false;
  io::GgufType type = io::GgufType::kF16;
  ParallelFor& parallel;
  Observer& observer;

  const model::ModelConfig& config() const { return base->config(); }
  /// Values of a tensor of the decoder or the LM head in the order of a Hugging Face directory,
  /// with the adapter's product.
  std::vector<float> merged_tensor(const std::string& name) const;
  /// Tells how large the output becomes.
  void tell_size(std::uint64_t bytes) const;
  /// Counts tensors for the observer.
  std::function<void()> counter(std::size_t total) const;
};

ExportResult export_hugging_face(const ExportSource& source);
ExportResult export_gguf(const ExportSource& source);
ExportResult export_gguf_lora(const ExportSource& source);

/// "q4_0"
std::string export_type_name(io::GgufType type);

}  // namespace qalof::app
