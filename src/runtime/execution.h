// A resolved run: plan and adapters resolved to pointers, one LinearCall per linear. To switch
// precision or adapter, choose another Execution of the same BaseModel; nothing is global.
// Immutable: threads may share it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/threads.h"
#include "quant/plan.h"
#include "runtime/kv_cache.h"
#include "weights/adapter.h"
#include "weights/base_model.h"
#include "weights/linear_op.h"

namespace qalof::runtime {

/// Choices that a plan does not make.
struct ExecutionOptions {
  KvScheme kv_scheme = KvScheme::kToken;
  std::optional<quant::BitWidth> lm_head = std::nullopt;  // default: the embedding's width
};

/// The head of a kind for a plan's head width: the adapter set's (null: no set) at the nearest
/// trained width, else the base's own; null where there is none. *source, where not null, receives
/// its origin: "adapter", "w<width>" or "base".
const weights::Head* serving_head(const weights::BaseModel& base,
                                  const weights::AdapterSet* adapters, int width,
                                  weights::HeadKind kind, std::string* source = nullptr);

/// One resolved run of a base.
class Execution {
 public:
  /// Resolves a plan on a base with adapters (null: none). Packs weights of widths not used before.
  /// Throws Error{kUnsupported} where the base is a packed file that does not hold a width, or
  /// where a rotated scheme meets a size of the model that is no multiple of 8.
  static std::shared_ptr<const Execution> create(
      std::shared_ptr<const weights::BaseModel> base, quant::PrecisionPlan plan,
      std::shared_ptr<const weights::AdapterSet> adapters, ParallelFor& parallel,
      const ExecutionOptions& options = {});

  /// A copy of `whole` in which each listed linear uses another execution's weights (of the same
  /// base). `kv` replaces its K/V precision. Only pointers are copied: nothing is packed. Heads,
  /// embedding and LM head stay those of `whole`.
  struct Replacement {
    std::size_t linear;
    std::shared_ptr<const Execution> by;
  };
  static std::shared_ptr<const Execution> spliced(const std::shared_ptr<const Execution>& whole,
                                                  std::span<const Replacement> replacements,
                                                  const KvPrecision& kv);

  /// A copy of `whole` with other weights [out, in] for one linear, which must have 32-bit float
  /// weights.
  static std::shared_ptr<const Execution> with_weights(
      const std::shared_ptr<const Execution>& whole, std::size_t linear,
      const std::vector<float>& weights, ParallelFor& parallel);

  /// The model that runs: the one given, or its rotated form where the plan's scheme is rotated.
  const weights::BaseModel& base() const { return *base_; }
  const quant::PrecisionPlan& plan() const { return plan_; }
  const weights::LinearCall& linear(std::size_t index) const { return calls_[index]; }
  /// K and V bits per kv head of a layer.
  const std::vector<int>& k_bits(std::size_t layer) const { return kv_.k_bits[layer]; }
  const std::vector<int>& v_bits(std::size_t layer) const { return kv_.v_bits[layer]; }
  /// The precision to construct a KvCache of this execution with.
  const KvPrecision& kv() const { return kv_; }
  /// 32 where the plan's default is 32, else 16 (docs/file_formats.md, "Precision").
  quant::BitWidth embedding_width() const { return embedding_width_; }
  /// Width of the LM head's weights; embedding_width() unless the options say otherwise.
  quant::BitWidth lm_head_width() const { return lm_head_width_; }

  /// serving_head of a kind for the plan's head width; null where there is none.
  const weights::Head* head(weights::HeadKind kind) const {
    return kind == weights::HeadKind::kSpan ? qa_head_ : class_head_;
  }

  /// A description for logs: precision, which adapter serves each width, which head.
  const std::string& description() const { return description_; }

 private:
  Execution() = default;
  explicit Execution(const std::shared_ptr<const Execution>& whole);  // shares whole's pointers
  std::shared_ptr<const weights::BaseModel> base_;
  std::shared_ptr<const weights::AdapterSet> adapters_;
  quant::PrecisionPlan plan_;
  std::vector<weights::LinearCall> calls_;
  // Kept alive because calls_ point into them.
  std::vector<std::shared_ptr<const weights::OwnedMatrix>> own_weights_;
  std::vector<std::shared_ptr<const Execution>> parts_;  // the executions spliced from
  // The rotated pair of each linear with an adapter, in a rotated model.
  struct RotatedLora {
    std::unique_ptr<weights::LoraLinear> pair;
    std::vector<float> bias;
  };
  std::vector<RotatedLora> rotated_;
  KvPrecision kv_;
  quant::BitWidth embedding_width_, lm_head_width_;
  const weights::Head* qa_head_ = nullptr;
  const weights::Head* class_head_ = nullptr;
  std::string description_;
};

}  // namespace qalof::runtime
