// A tiny GPT-2 opened by the runtime: executions, adapters and forwards in one line, for the tests
// of decoding.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/decoder.h"
#include "support/tiny_model.h"

namespace qalof::testing {

/// Finite numbers whose products with any input are not.
inline weights::Adapter overflowing_adapter(const weights::BaseModel& base) {
  weights::Adapter adapter;
  adapter.rank = 1;
  adapter.alpha = 1;
  for (const model::LinearSpec& spec : base.linears()) {
    adapter.linears.push_back(std::make_unique<weights::LoraLinear>(
        1, 1.0F, std::vector<float>(spec.in, 1e10F), std::vector<float>(spec.out, 1e38F), spec.in,
        spec.out));
  }
  return adapter;
}

inline std::shared_ptr<weights::AdapterSet> random_adapters(const model::ModelConfig& config,
                                                            const std::vector<int>& widths,
                                                            std::uint64_t seed = 1) {
  auto set = std::make_shared<weights::AdapterSet>();
  for (const int width : widths) {
    auto adapter = std::make_shared<weights::Adapter>();
    adapter->rank = 4;
    adapter->alpha = 8;
    for (const model::LinearSpec& spec : model::linears(config)) {
      const std::string name = fmt::format("{}.{}", spec.name, width);
      adapter->linears.push_back(std::make_unique<weights::LoraLinear>(
          4, 2.0F, tensor_values(name + "a", 4 * spec.in, 0.1F, seed),
          tensor_values(name + "b", 4 * spec.out, 0.1F, seed), spec.in, spec.out));
    }
    adapter->qa_head =
        weights::Head{2,
                      tensor_values(fmt::format("head{}", width), 2 * config.hidden, 0.3F, seed),
                      {0.1F, -0.2F}};
    set->by_width[width] = std::move(adapter);
  }
  return set;
}

inline bool same_bytes(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

/// A tiny model on disk and in memory.
class TinyRuntime {
 public:
  explicit TinyRuntime(const Json& config = tiny_config()) {
    write_model(dir_.path(), config);
    base_ = weights::BaseModel::load_directory(dir_.path());
  }
  const std::shared_ptr<const weights::BaseModel>& base() const { return base_; }
  const model::ModelConfig& config() const { return base_->config(); }

  /// plan: a text form, or the JSON of a plan file.
  std::shared_ptr<const runtime::Execution> execution(
      const std::string& plan, std::shared_ptr<const weights::AdapterSet> adapters = nullptr,
      const runtime::ExecutionOptions& options = {}) const {
    SerialFor serial;
    const quant::PlanSpec spec = plan.front() == '{'
                                     ? quant::plan_from_json(Json::parse(plan), "test plan")
                                     : quant::parse_plan(plan);
    return runtime::Execution::create(base_, quant::resolve(spec, base_->target()),
                                      std::move(adapters), serial, options);
  }

  std::vector<std::int32_t> ids(std::size_t count, std::size_t step = 37) const {
    std::vector<std::int32_t> result(count);
    for (std::size_t i = 0; i < count; ++i)
      result[i] = static_cast<std::int32_t>((i * step + 11) % config().vocab_size);
    return result;
  }

  /// Hidden states of ids in chunks of that many tokens through a cache; 0: at once, without one.
  std::vector<float> run(const runtime::Execution& execution, std::span<const std::int32_t> ids,
                         std::size_t chunk, ParallelFor& parallel) const {
    runtime::DecoderWorkspace workspace;
    std::vector<float> hidden(ids.size() * config().hidden);
    if (chunk == 0) {
      const runtime::Sequence whole{ids};
      runtime::forward(execution, {&whole, 1}, workspace, hidden.data(), parallel);
      return hidden;
    }
    runtime::KvCache cache(config(), execution.kv(), ids.size());
    for (std::size_t first = 0; first < ids.size(); first += chunk) {
      const runtime::Sequence part{ids.subspan(first, std::min(chunk, ids.size() - first)), &cache};
      runtime::forward(execution, {&part, 1}, workspace, hidden.data() + first * config().hidden,
                       parallel);
    }
    return hidden;
  }

 private:
  TempDir dir_;
  std::shared_ptr<const weights::BaseModel> base_;
};

}  // namespace qalof::testing
