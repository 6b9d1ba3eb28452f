#include "train/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "core/memory.h"
#include "train/batch.h"
#include "train/graph_torch.h"
#include "train/memory.h"
#include "train/schedule.h"
#include "train/step_torch.h"

namespace qalof::train {

namespace {

// A bad batch may pass; this many in a row do not.
constexpr int kMaxSkippedInARow = 5;

at::Device open_device(Device device) {
  if (device == Device::kCpu) return at::kCPU;
  QALOF_CHECK(at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0,
              ErrorKind::kUnsupported,
              "--device cuda: this PyTorch {}, expected a CUDA build of PyTorch and a CUDA device",
              at::hasCUDA() ? "finds no CUDA device" : "is built without CUDA");
  return at::Device(at::kCUDA, 0);
}

// Where a phase is; with parameters and optimizer, all that its next step depends on.
struct PhaseState {
  std::int64_t step = 0;  // done
  WalkState walk;
  double loss_sum = 0;  // of the steps that were not skipped
  int skipped_in_a_row = 0;
};

class Trainer {
 public:
  Trainer(std::shared_ptr<const runtime::BaseModel> base, const TrainOptions& options,
          std::span<const Example> examples, const TrainHooks& hooks)
      : base_(std::move(base)),
        options_(options),
        examples_(examples),
        hooks_(hooks),
        phases_(make_phases(options, base_->target())),
        device_(open_device(options.device)),
        parallel_(options.threads > 0 ? options.threads : available_threads()) {
    // Kernels have the threads; ATen's own would compete with them (gradient_gemm.h).
    at::set_num_threads(1);
    keep_freed_memory();
    check_examples(examples_, base_->config(), options_.task);
    if (hooks_.observer != nullptr) {
      std::size_t tokens = 0;
      for (const Example& example : examples_) tokens += example.ids.size();
      const std::uint64_t bytes =
          estimate_training_bytes(base_->config(), options_, tokens / examples_.size());
      hooks_.observer->info(
          fmt::format("memory needed: about {} MB", (bytes + 999'999) / 1'000'000));
    }
  }

  TrainResult run() {
    for (const Phase& phase : phases_) {
      run_phase(phase);
      if (result_.interrupted) break;
    }
    double seconds = 0;
    for (const PhaseHistory& history : result_.phases) {
      result_.tokens += history.tokens;
      seconds += history.seconds;
    }
    result_.train_loss = result_.phases.back().train_loss;
    result_.tokens_per_second = seconds > 0 ? static_cast<double>(result_.tokens) / seconds : 0;
    return std::move(result_);
  }

 private:
  std::unique_ptr<Graph> make_graph(const PhaseParameters& params) {
    const bool trains_base = options_.method == Method::kFull;
    if (device_.is_cuda()) {
      return make_aten_graph(base_->config(),
                             trains_base ? params.base() : load_base_params(*base_, device_));
    }
    return make_kernel_graph(base_, trains_base ? &params.base() : nullptr, parallel_,
                             {options_.gradient_bits, options_.seed});
  }

  TrainedWeights weights_of(const PhaseParameters& params) const {
    TrainedWeights weights;
    for (const auto& [width, adapter] : finished_) {
      weights.adapters[width] = export_adapter(adapter, *base_, options_);
    }
    params.export_to(*base_, weights);
    return weights;
  }

  void run_phase(const Phase& phase) {
    const quant::PlanTarget target = base_->target();
    const std::int64_t total = steps_of_phase(options_, examples_.size());
    if (phase.walk == Walk::kCyclic) check_cycles(options_, total);
    PhaseParameters params(*base_, options_, phase, finished_, device_);
    const std::unique_ptr<Graph> graph = make_graph(params);
    AdamWOptions adamw;
    adamw.weight_decay = options_.weight_decay;
    AdamW optimizer(params.flat(), adamw);
    DataOrder order(options_.seed, phase.name, examples_.size(),
                    options_.batch_size * options_.gradient_accumulation_steps);
    StepRunner runner({options_, examples_, phases_, phase, finished_, params, *graph});

    PhaseHistory& history = result_.phases.emplace_back();
    history.name = phase.name;
    history.precision = precision_of(phase, target);
    if (hooks_.observer != nullptr) {
      hooks_.observer->info(fmt::format("phase {}: {}, {} trained parameters", phase.name,
                                        history.precision, params.flat().values().numel()));
    }
    PhaseState state;
    for (; state.step < total; ++state.step) {
      if (hooks_.should_stop && hooks_.should_stop()) {
        result_.interrupted = true;
        break;
      }
      StepRecord record;
      record.phase = phase.name;
      record.step = state.step + 1;
      record.total_steps = total;
      record.learning_rate = learning_rate_at(options_, state.step, total);
      const StepPlan plan = plan_step(phase, options_, target, state.step, total, state.walk);
      runner.run(plan, order.step(state.step), optimizer, record);
      add_to(history, record);
      ++result_.steps;
      if (!record.skipped) state.loss_sum += record.loss;
      state.skipped_in_a_row = record.skipped ? state.skipped_in_a_row + 1 : 0;
      report(record, history);
      QALOF_CHECK(
          state.skipped_in_a_row < kMaxSkippedInARow, ErrorKind::kDiverged,
          "phase {}, step {}: loss {} and gradient norm {} are not finite for {} steps in a "
          "row; a lower --learning_rate may help",
          phase.name, record.step, record.loss, record.grad_norm, state.skipped_in_a_row);
      const bool evaluate = options_.eval_steps > 0 && record.step % options_.eval_steps == 0;
      if (evaluate && hooks_.on_eval) hooks_.on_eval(checkpoint(phase, params, state.walk, record));
      if (advance(phase, options_, state.step + 1, total, record.loss, state.walk))
        params.copy_width(phase.widths[state.walk.level - 1], phase.widths[state.walk.level]);
    }
    const auto done = static_cast<std::int64_t>(history.steps.size()) - history.skipped_steps;
    history.train_loss = done > 0 ? state.loss_sum / static_cast<double>(done) : 0;
    result_.weights = weights_of(params);
    for (const auto& [width, adapter] : params.adapters()) finished_[width] = detached(adapter);
    if (hooks_.on_phase_end && !history.steps.empty()) {
      hooks_.on_phase_end(checkpoint(phase, params, state.walk, history.steps.back()));
    }
  }

  static std::string precision_of(const Phase& phase, const quant::PlanTarget& target) {
    std::vector<std::string> texts;
    for (const Network& network : phase.networks)
      texts.push_back(quant::describe(network.plan, target));
    return fmt::format("{}", fmt::join(texts, " "));
  }

  static void add_to(PhaseHistory& history, const StepRecord& record) {
    history.seconds += record.times.total();
    history.tokens += record.tokens;
    history.skipped_steps += record.skipped ? 1 : 0;
    history.steps.push_back(record);
    for (const PassRecord& pass : record.passes) {
      auto found = std::find_if(
          history.networks.begin(), history.networks.end(),
          [&](const NetworkHistory& network) { return network.network == pass.network; });
      if (found == history.networks.end()) {
        found = history.networks.insert(found, NetworkHistory{});
        found->network = pass.network;
      }
      ++found->steps;
      found->tokens += pass.tokens;
      if (record.skipped) continue;
      ++found->counted_steps;
      found->train_loss +=
          (pass.loss - found->train_loss) / static_cast<double>(found->counted_steps);
    }
  }

  Checkpoint checkpoint(const Phase& phase, const PhaseParameters& params, const WalkState& walk,
                        const StepRecord& record) const {
    Checkpoint point;
    point.phase = phase.name;
    point.step = record.step;
    point.total_steps = record.total_steps;
    point.global_step = result_.steps;
    const std::size_t reached =
        phase.walk == Walk::kDescend ? walk.level + 1 : phase.networks.size();
    for (std::size_t i = 0; i < reached; ++i) point.plans.push_back(&phase.networks[i].plan);
    point.weights = [this, &params] { return weights_of(params); };
    return point;
  }

  void report(const StepRecord& record, const PhaseHistory& history) const {
    if (hooks_.on_step) hooks_.on_step(record);
    if (hooks_.observer == nullptr) return;
    if (record.skipped) {
      hooks_.observer->warn(fmt::format(
          "phase {}, step {}: loss {} or gradient norm {} is not finite, the step is skipped",
          record.phase, record.step, record.loss, record.grad_norm));
    }
    const bool is_logged = options_.logging_steps > 0 && record.step % options_.logging_steps == 0;
    if (!is_logged && record.step != record.total_steps) return;
    hooks_.observer->progress(
        fmt::format("train {}", record.phase), static_cast<std::uint64_t>(record.step),
        static_cast<std::uint64_t>(record.total_steps),
        fmt::format("loss {:.4f}, lr {:.2e}, {:.0f} tokens/s", record.loss, record.learning_rate,
                    static_cast<double>(history.tokens) / history.seconds));
  }

  std::shared_ptr<const runtime::BaseModel> base_;
  const TrainOptions& options_;
  std::span<const Example> examples_;
  const TrainHooks& hooks_;
  std::vector<Phase> phases_;
  at::Device device_;
  ThreadPool parallel_;
  std::map<int, AdapterParams> finished_;  // by width, without gradient
  TrainResult result_;
};

}  // namespace

TrainResult train(std::shared_ptr<const runtime::BaseModel> base, const TrainOptions& options,
                  std::span<const Example> examples, const TrainHooks& hooks) {
  return Trainer(std::move(base), options, examples, hooks).run();
}

}  // namespace qalof::train
