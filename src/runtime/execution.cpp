// Resolves plan, adapters and LM head width into one LinearCall per linear, and derives executions.
#include "runtime/execution.h"

#include <map>
#include <set>

#include "core/error.h"
#include "weights/rotation.h"

namespace qalof::runtime {

namespace {

std::vector<int> to_bits(const std::vector<quant::BitWidth>& widths) {
  std::vector<int> bits;
  bits.reserve(widths.size());
  for (const quant::BitWidth width : widths) bits.push_back(width.bits);
  return bits;
}
std::vector<quant::BitWidth> to_widths(const std::vector<int>& bits) {
  std::vector<quant::BitWidth> widths;
  widths.reserve(bits.size());
  for (const int width : bits) widths.push_back({width});
  return widths;
}

}  // namespace

// The adapter set's head for a width; a set without one (a plain PEFT directory without
// modules_to_save) falls back to the base's.
const weights::Head* serving_head(const weights::BaseModel& base,
                                  const weights::AdapterSet* adapters, int width,
                                  weights::HeadKind kind, std::string* source) {
  if (adapters != nullptr) {
    if (const std::optional<int> serving = adapters->serving_width(width)) {
      const weights::Adapter& adapter = *adapters->by_width.at(*serving);
      const std::optional<weights::Head>& head =
          kind == weights::HeadKind::kSpan ? adapter.qa_head : adapter.class_head;
      if (head) {
        if (source != nullptr) *source = *serving == 0 ? "adapter" : fmt::format("w{}", *serving);
        return &*head;
      }
    }
  }
  const std::optional<weights::Head>& head =
      kind == weights::HeadKind::kSpan ? base.qa_head() : base.class_head();
  if (!head) return nullptr;
  if (source != nullptr) *source = "base";
  return &*head;
}

std::shared_ptr<const Execution> Execution::create(
    std::shared_ptr<const weights::BaseModel> base, quant::PrecisionPlan plan,
    std::shared_ptr<const weights::AdapterSet> adapters, ParallelFor& parallel,
    const ExecutionOptions& options) {
  std::shared_ptr<Execution> run(new Execution());
  base = weights::model_for(base, plan.scheme);
  std::map<int, int> served_by;   // weight width -> adapter width
  std::set<int> merged, learned;  // adapter widths
  const std::size_t num_linears = base->linears().size();
  QALOF_CHECK(plan.linears.size() == num_linears, ErrorKind::kInternal,
              "plan has {} linears, expected {}", plan.linears.size(), num_linears);
  run->calls_.resize(num_linears);
  run->rotated_.resize(base->rotation() ? num_linears : 0);
  for (std::size_t i = 0; i < num_linears; ++i) {
    weights::LinearCall& call = run->calls_[i];
    call.precision = plan.linears[i];
    call.bias = base->bias(i).empty() ? nullptr : base->bias(i).data();
    call.range = weights::activation_range(plan.scheme);
    if (call.precision.weight.is_integer()) call.outlier_threshold = plan.scheme.outlier_threshold;
    const int width = call.precision.weight.bits;
    const std::optional<int> serving =
        adapters == nullptr ? std::nullopt : adapters->serving_width(width);
    weights::AdaptedLinear adapted;
    if (serving) {
      const weights::Adapter& adapter = *adapters->by_width.at(*serving);
      served_by[width] = *serving;
      if (adapter.merged) merged.insert(*serving);
      if (adapter.learned && adapter.learned->bits == width) learned.insert(width);
      adapted = weights::adapt_linear(base, adapter, i, call.precision, plan.scheme, parallel);
    }
    call.lora = adapted.lora;
    call.range.clip = adapted.clip;
    if (call.lora != nullptr && base->rotation()) {
      const weights::LoraLinear& lora = *adapters->by_width.at(*serving)->linears[i];
      const model::LinearSpec& spec = base->linears()[i];
      weights::RotatedPair pair = base->rotation()->rotate_pair(i, lora.a().data(), lora.b().data(),
                                                                lora.rank(), lora.view().scaling);
      RotatedLora& rotated = run->rotated_[i];
      rotated.pair =
          std::make_unique<weights::LoraLinear>(lora.rank(), lora.view().scaling, std::move(pair.a),
                                                std::move(pair.b), spec.in, spec.out);
      rotated.bias = std::move(pair.bias);
      call.lora = &rotated.pair->view();
      if (!rotated.bias.empty()) call.bias = rotated.bias.data();
    }
    if (adapted.weight) {
      call.weight = adapted.weight->view;
      run->own_weights_.push_back(std::move(adapted.weight));
    } else {
      call.weight = base->packed(i, call.precision, plan.scheme, parallel);
    }
  }
  for (std::size_t layer = 0; layer < base->config().num_layers; ++layer) {
    run->kv_.k_bits.push_back(to_bits(plan.k[layer]));
    run->kv_.v_bits.push_back(to_bits(plan.v[layer]));
  }
  run->kv_.scheme = options.kv_scheme;
  run->embedding_width_ = {plan.default_width.bits == 32 ? 32 : 16};
  QALOF_CHECK(run->embedding_width_.bits <= base->source().embedding_bits(),
              ErrorKind::kUnsupported,
              "{}: embeddings are stored in {} bits, a plan whose default is 32 needs the model "
              "directory",
              base->path(), base->source().embedding_bits());
  run->lm_head_width_ = options.lm_head.value_or(run->embedding_width_);

  const int head_width = plan.head_width(base->target()).bits;
  std::string head_source;
  run->description_ = quant::describe(plan, base->target());
  for (const auto& [width, serving] : served_by) {
    if (serving == 0 || serving == width) continue;
    run->description_ += fmt::format(", adapter w{} serves w{}", serving, width);
  }
  for (const int width : merged) run->description_ += fmt::format(", adapter w{} merged", width);
  for (const int width : learned)
    run->description_ += fmt::format(", learned quantizers w{}", width);
  run->qa_head_ =
      serving_head(*base, adapters.get(), head_width, weights::HeadKind::kSpan, &head_source);
  run->class_head_ =
      serving_head(*base, adapters.get(), head_width, weights::HeadKind::kClass, &head_source);
  if (run->kv_.scheme != KvScheme::kToken)
    run->description_ += fmt::format(", kv scheme {}", to_string(run->kv_.scheme));
  if (options.lm_head) run->description_ += fmt::format(", lm head {}", run->lm_head_width_.bits);
  if (!head_source.empty()) run->description_ += fmt::format(", head {}", head_source);
  run->base_ = std::move(base);
  run->adapters_ = std::move(adapters);
  run->plan_ = std::move(plan);
  return run;
}

Execution::Execution(const std::shared_ptr<const Execution>& whole)
    : base_(whole->base_),
      adapters_(whole->adapters_),
      plan_(whole->plan_),
      calls_(whole->calls_),
      parts_{whole},
      kv_(whole->kv_),
      embedding_width_(whole->embedding_width_),
      lm_head_width_(whole->lm_head_width_),
      qa_head_(whole->qa_head_),
      class_head_(whole->class_head_),
      description_(whole->description_) {}

std::shared_ptr<const Execution> Execution::spliced(const std::shared_ptr<const Execution>& whole,
                                                    std::span<const Replacement> replacements,
                                                    const KvPrecision& kv) {
  std::shared_ptr<Execution> run(new Execution(whole));
  for (const auto& [linear, by] : replacements) {
    QALOF_CHECK(by->base_ == whole->base_, ErrorKind::kInternal,
                "linear {}: its execution is of another base model", linear);
    run->calls_.at(linear) = by->calls_.at(linear);
    run->plan_.linears.at(linear) = by->plan_.linears.at(linear);
    if (run->parts_.back() != by) run->parts_.push_back(by);
  }
  run->kv_ = kv;
  for (std::size_t layer = 0; layer < kv.k_bits.size(); ++layer) {
    run->plan_.k[layer] = to_widths(kv.k_bits[layer]);
    run->plan_.v[layer] = to_widths(kv.v_bits[layer]);
  }
  run->description_ = quant::describe(run->plan_, run->base_->target());
  return run;
}

std::shared_ptr<const Execution> Execution::with_weights(
    const std::shared_ptr<const Execution>& whole, std::size_t linear,
    const std::vector<float>& weights, ParallelFor& parallel) {
  std::shared_ptr<Execution> run(new Execution(whole));
  weights::LinearCall& call = run->calls_.at(linear);
  QALOF_CHECK(call.weight.format == kernels::WeightFormat::kF32, ErrorKind::kInternal,
              "linear {}: weights are no 32-bit floats", linear);
  run->own_weights_.push_back(weights::pack_floats(weights, call.weight.n, call.weight.k,
                                                   kernels::WeightFormat::kF32, parallel));
  call.weight = run->own_weights_.back()->view;
  return run;
}

}  // namespace qalof::runtime
