// LoRA adapters and heads, one set per weight width, read from and written to PEFT directories.
//
// A width without its own adapter takes the nearest trained width above, else below; which one
// served is part of the result, never silent. Immutable after loading: threads may share an
// AdapterSet.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "model/config.h"
#include "weights/adapter_weights.h"
#include "weights/base_model.h"
#include "weights/learned_quantizer.h"
#include "weights/linear_op.h"

namespace qalof::weights {

/// The low-rank pair of one linear, in the unrotated basis of the base.
class LoraLinear {
 public:
  /// a [r, in], b [out, r].
  LoraLinear(std::size_t rank, float scaling, std::vector<float> a, std::vector<float> b,
             std::size_t in, std::size_t out);
  LoraLinear(const LoraLinear&) = delete;
  LoraLinear& operator=(const LoraLinear&) = delete;

  const LoraView& view() const { return view_; }
  const std::vector<float>& a() const { return a_; }
  const std::vector<float>& b() const { return b_; }
  std::size_t rank() const { return rank_; }

 private:
  std::size_t rank_;
  std::vector<float> a_, b_;
  std::vector<float> a_panels_, b_panels_;
  LoraView view_;
};

/// One width's adapter: a pair per linear (null where the adapter does not change a linear) and
/// the heads trained with it.
struct Adapter {
  std::vector<std::unique_ptr<LoraLinear>> linears;  // [linear]; may be empty: heads only
  std::optional<Head> qa_head;
  std::optional<Head> class_head;
  std::size_t rank = 0;
  float alpha = 0;
  // Products are added to weights before quantization, not to outputs (docs/numerics.md, "Adapter
  // forms").
  bool merged = false;
  std::optional<LearnedQuantizers> learned;
  AdapterWeights weights;  // cache of packed weights that belong to this adapter
};

/// The key of by_width that serves a width of `bits`: itself, else the nearest above, else the
/// nearest below. by_width must not be empty.
template <typename T>
int nearest_width(const std::map<int, T>& by_width, int bits) {
  const auto above = by_width.lower_bound(bits);
  return above != by_width.end() ? above->first : std::prev(above)->first;
}

/// Adapters keyed by weight width. Width 0 holds a plain PEFT directory, which serves every width.
class AdapterSet {
 public:
  std::map<int, std::shared_ptr<const Adapter>> by_width;
  std::string path;                          // of the directory or packed file
  std::string base_sha256;                   // of the base trained on; "" where not stored
  std::optional<std::int32_t> separator;     // token id between question and context
  std::vector<std::string> label_names;      // of the class heads; empty where not stored
  std::optional<Json> plan;                  // the plan stored with the adapters
  std::optional<quant::QuantScheme> scheme;  // trained in; none where not stored
  std::vector<std::string> warnings;         // of the loader, a sentence each

  /// The width whose adapter serves a weight width, or nothing where the set is empty.
  std::optional<int> serving_width(int weight_bits) const;
};

/// Reads a training output directory (qalof.json) or one plain PEFT directory. The tensors decide
/// which linears have an adapter. Strict: zero matches, half a pair, a tensor that the
/// configuration leaves out or the model lacks, a transposed tensor and one of another shape are
/// errors that name the tensor; a linear that the configuration names but that has no tensors is a
/// warning.
AdapterSet load_adapters(const std::string& path, const model::ModelConfig& config);

/// What stands on the last hidden states: two numbers per token (question answering), the LM head,
/// or one number per class on the last token. Decides peft's task type and the head's name.
enum class HeadKind { kSpan, kLm, kClass };
/// "qa", "lm" or "classification".
std::string to_string(HeadKind kind);
/// The class of transformers with a head of that kind.
model::ModelClass model_class(HeadKind kind);

/// Writes one plain PEFT directory that Python `peft` loads on the original base, and the learned
/// quantizer values, if any, into the same directory.
void save_adapter(const std::string& directory, const Adapter& adapter,
                  const model::ModelConfig& config, HeadKind kind, const std::string& base_id);

}  // namespace qalof::weights
