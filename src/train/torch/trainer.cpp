// The training loop: phases, checkpoints and resumption, skipped steps, divergence checks, hooks.
#include "train/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/memory.h"
#include "train/batch.h"
#include "train/memory.h"
#include "train/schedule.h"
#include "train/torch/adapter_tensors.h"
#include "train/torch/graph.h"
#include "train/torch/step.h"

namespace qalof::train {

namespace {

// Isolated bad batches are skipped; this many skipped steps in a row end the run.
constexpr int kMaxSkippedInARow = 5;

// Of several processes each has a GPU of its own, which is the current one from then on.
at::Device open_device(Device device, const ProcessGroup* group) {
  if (device == Device::kCpu) return at::kCPU;
  QALOF_CHECK(at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0,
              ErrorKind::kUnsupported,
              "--device cuda: this PyTorch {}, expected a CUDA build of PyTorch and a CUDA device",
              at::hasCUDA() ? "finds no CUDA device" : "is built without CUDA");
  const at::Device own(at::kCUDA,
                       static_cast<c10::DeviceIndex>(group != nullptr ? group->local_rank() : 0));
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(own);
  return own;
}

// The progress of a phase; with parameters and optimizer, all that its next step depends on.
struct PhaseState {
  std::int64_t step = 0;  // finished steps
  WalkState walk;
  double loss_sum = 0;  // of the steps that were not skipped
  int skipped_in_a_row = 0;
};

class Trainer {
 public:
  Trainer(std::shared_ptr<const weights::BaseModel> base, const TrainOptions& options,
          const Windows& examples, const TrainHooks& hooks)
      : base_(std::move(base)),
        options_(options),
        examples_(examples),
        hooks_(hooks),
        phases_(make_phases(options, base_->target())),
        device_(open_device(options.device, hooks.group)),
        parallel_(options.threads > 0 ? options.threads : available_threads()) {
    // The kernels' pool owns the threads; ATen's would compete with them (gradient_gemm.h).
    at::set_num_threads(1);
    check_examples(examples_, base_->config(), options_);
    if (device_.is_cpu()) {
      keep_freed_memory(expected_bytes());
    } else {
      // TF32 represents bfloat16 and codes exactly; runs with 32-bit linears keep f32.
      at::globalContext().setFloat32MatmulPrecision(multiplies_f32() ? "highest" : "high");
    }
    if (options_.teacher) {
      check_teacher(options_, base_->config());
      check_examples(examples_, options_.teacher->base->config(), options_);
      teacher_ = std::make_unique<OutsideTeacher>(options_, device_, parallel_);
    }
  }

  TrainResult run() {
    const RunState* resume = hooks_.resume;
    if (resume != nullptr) saved_step_ = resume->global_step();
    const std::size_t first = resume != nullptr ? restore_finished(*resume) : 0;
    for (std::size_t i = first; i < phases_.size() && !result_.interrupted; ++i) {
      run_phase(phases_[i], resume != nullptr && i == first ? resume : nullptr);
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
  bool multiplies_f32() const {
    const auto is_f32 = [](quant::Precision precision) { return precision.weight.bits == 32; };
    return std::ranges::any_of(phases_, [&](const Phase& phase) {
      return std::ranges::any_of(phase.networks, [&](const Network& network) {
        return std::ranges::any_of(network.plan.linears, is_f32);
      });
    });
  }

  std::size_t expected_bytes() const {
    return estimate_training_bytes(base_->config(), with_batches(examples_.size(), options_),
                                   examples_.tokens() / std::max<std::size_t>(examples_.size(), 1));
  }

  std::unique_ptr<Graph> make_graph(const PhaseParameters& params) {
    const bool trains_base = options_.method == Method::kFull;
    std::unique_ptr<Graph> graph;
    if (!device_.is_cuda()) {
      graph = make_kernel_graph(base_, trains_base ? &params.base() : nullptr, parallel_,
                                {options_.quantizers.gradient_bits, options_.seed});
    } else if (trains_base) {
      graph = make_aten_graph(base_->config(), params.base());
    } else {
      graph = make_aten_graph(base_, device_, parallel_);
    }
    graph->checkpoint_blocks(options_.schedule.activation_checkpointing);
    return graph;
  }

  TrainedWeights weights_of(const PhaseParameters& params) const {
    TrainedWeights weights;
    for (const auto& [width, adapter] : finished_) {
      weights.adapters[width] = export_adapter(adapter, *base_, options_);
    }
    params.export_to(*base_, weights);
    return weights;
  }

  // Restores the result of finished phases; returns the index of the phase to resume.
  std::size_t restore_finished(const RunState& resume) {
    const std::size_t current = resume.steps.size() - 1;
    QALOF_CHECK(current < phases_.size(), ErrorKind::kBadInput,
                "checkpoint: it is in phase {}, this run has {}", current + 1, phases_.size());
    finished_ = import_adapters(resume.finished, *base_, options_, device_, parallel_);
    for (std::size_t i = 0; i < current; ++i) {
      PhaseHistory& history = begin_history(phases_[i]);
      PhaseState state;
      for (const StepRecord& record : resume.steps[i]) account(history, state, record);
      finish_history(history, state);
    }
    return current;
  }

  // Restores values, moments, and the state that follows from the records of finished steps.
  void restore_phase(const Phase& phase, const RunState& resume, std::int64_t total,
                     PhaseParameters& params, AdamW& optimizer, PhaseHistory& history,
                     PhaseState& state) {
    const std::vector<StepRecord>& records = resume.steps.back();
    QALOF_CHECK(static_cast<std::int64_t>(records.size()) <= total, ErrorKind::kBadInput,
                "checkpoint: phase {} has done {} steps, this run has {}", phase.name,
                records.size(), total);
    for (const StepRecord& record : records) {
      account(history, state, record);
      ++state.step;
      advance(phase, options_, state.step, total, record.loss, state.walk);
    }
    copy_values(resume.values, "values", params.flat().values());
    optimizer.restore(resume.optimizer);
  }

  PhaseHistory& begin_history(const Phase& phase) {
    PhaseHistory& history = result_.phases.emplace_back();
    history.name = phase.name;
    history.precision = precision_of(phase, base_->target());
    return history;
  }

  void account(PhaseHistory& history, PhaseState& state, const StepRecord& record) {
    add_to(history, record);
    ++result_.steps;
    if (!record.skipped) state.loss_sum += record.loss;
    state.skipped_in_a_row = record.skipped ? state.skipped_in_a_row + 1 : 0;
  }

  static void finish_history(PhaseHistory& history, const PhaseState& state) {
    const auto done = static_cast<std::int64_t>(history.steps.size()) - history.skipped_steps;
    history.train_loss = done > 0 ? state.loss_sum / static_cast<double>(done) : 0;
  }

  void run_phase(const Phase& phase, const RunState* resume) {
    const quant::PlanTarget target = base_->target();
    const std::int64_t total = steps_of_phase(options_, phase, examples_);
    if (phase.walk == Walk::kCyclic) check_cycles(options_, total);
    if (hooks_.observer != nullptr) hooks_.observer->status("preparing phase " + phase.name);
    TrainOptions initial = options_;
    if (resume != nullptr)
      initial.adapters.init_lora = InitLora::kDefault;  // values are restored anyway
    PhaseParameters params(*base_, initial, phase, finished_, device_, parallel_);
    AdamWOptions adamw;
    adamw.weight_decay = options_.schedule.weight_decay;
    AdamW optimizer(params.flat(), adamw);
    PhaseHistory& history = begin_history(phase);
    PhaseState state;
    if (resume != nullptr) restore_phase(phase, *resume, total, params, optimizer, history, state);
    const std::unique_ptr<Graph> graph = make_graph(params);
    DataOrder order = data_order(options_, phase.name, examples_);
    StepRunner runner({options_, examples_, phases_, phase, finished_, params, *graph,
                       teacher_.get(), hooks_.group, gradient_hook(), part_hook()});

    if (hooks_.observer != nullptr) {
      hooks_.observer->info(fmt::format("phase {}: {} steps, {}, {} trained parameters", phase.name,
                                        total, history.precision, params.flat().values().numel()));
    }
    tell_start(phase, state, total);
    if (hooks_.on_begin && !std::exchange(begun_, true)) hooks_.on_begin();
    auto save = [&] {
      if (!hooks_.on_save || saved_step_ == result_.steps) return;
      saved_step_ = result_.steps;
      Checkpoint point = checkpoint(phase, params, state.walk, history, total);
      point.state = [&] { return state_of(params, optimizer); };
      hooks_.on_save(point);
    };
    for (;; ++state.step) {
      if (stops_ || (hooks_.group == nullptr && wants_stop())) {
        save();
        result_.interrupted = true;
        break;
      }
      if (state.step == total) break;
      StepRecord record;
      record.phase = phase.name;
      record.step = state.step + 1;
      record.total_steps = total;
      record.learning_rate = learning_rate_at(options_, state.step, total);
      const StepPlan plan = plan_step(phase, options_, target, state.step, total, state.walk);
      // Processes stop after the same step: what one of them wants, the others learn in the next.
      const bool asked = hooks_.group != nullptr && wants_stop();
      stops_ = runner.run(plan, order.step(state.step), result_.steps, asked, optimizer, record);
      account(history, state, record);
      report(record, history);
      QALOF_CHECK(state.skipped_in_a_row < kMaxSkippedInARow, ErrorKind::kDiverged,
                  "phase {}, step {}: {} is not finite for {} steps in a row; {}", phase.name,
                  record.step, not_finite_text(record), state.skipped_in_a_row, advice(history));
      const bool evaluate =
          options_.logging.eval_steps > 0 && record.step % options_.logging.eval_steps == 0;
      if (evaluate && hooks_.on_eval)
        hooks_.on_eval(checkpoint(phase, params, state.walk, history, total));
      if (advance(phase, options_, state.step + 1, total, record.loss, state.walk)) {
        params.copy_width(phase.widths[state.walk.level - 1], phase.widths[state.walk.level]);
        graph->weights_changed();
      }
      if (options_.logging.save_steps > 0 && result_.steps % options_.logging.save_steps == 0) {
        save();
      }
    }
    finish_history(history, state);
    if (!result_.interrupted) check_learned(history);
    check_finite(params.flat().values(), phase.name);
    tell_skipped(history);
    result_.weights = weights_of(params);
    for (const auto& [width, adapter] : params.adapters()) finished_[width] = detached(adapter);
    // An interrupted run ends its phase after it is resumed.
    if (hooks_.on_phase_end && !result_.interrupted) {
      hooks_.on_phase_end(checkpoint(phase, params, state.walk, history, total));
    }
  }

  bool wants_stop() const { return hooks_.should_stop && hooks_.should_stop(); }

  RunState state_of(PhaseParameters& params, const AdamW& optimizer) const {
    check_finite(params.flat().values(), result_.phases.back().name);
    RunState state;
    for (const PhaseHistory& history : result_.phases) state.steps.push_back(history.steps);
    state.values = to_vector(params.flat().values());
    state.optimizer = optimizer.state();
    state.finished = export_adapters(finished_);
    return state;
  }

  // Lists the numbers of a skipped step that are not finite, by network.
  static std::string not_finite_text(const StepRecord& record) {
    std::vector<std::string> found;
    const auto add = [&](const std::string& where, const char* what, double value) {
      if (!std::isfinite(value)) found.push_back(fmt::format("{}{} {}", where, what, value));
    };
    for (const PassRecord& pass : record.passes) {
      const std::string where = record.passes.size() > 1 ? pass.network + " " : "";
      add(where, "loss", pass.loss);
      add(where, "distillation", pass.distillation);
      add(where, "hidden_loss", pass.hidden_loss);
      add(where, "contrastive_loss", pass.contrastive_loss);
    }
    if (found.empty()) add("", "loss", record.loss);
    add("", "gradient norm", record.grad_norm);
    return fmt::format("{}", fmt::join(found, ", "));
  }

  static std::string advice(const PhaseHistory& history) {
    return history.steps.front().skipped
               ? "this began in the first step: look at the model, at the values that training "
                 "starts from, and at the weights of the losses"
               : "a lower --learning_rate may help";
  }

  // Throws where the weights of a phase are useless.
  static void check_learned(const PhaseHistory& history) {
    const auto steps = static_cast<std::int64_t>(history.steps.size());
    if (history.skipped_steps == 0) return;
    const StepRecord& last = history.steps.back();
    QALOF_CHECK(history.skipped_steps < steps, ErrorKind::kDiverged,
                "phase {}: all of its {} steps were skipped, {} was not finite in the last; {}",
                history.name, steps, not_finite_text(last), advice(history));
    QALOF_CHECK(std::isfinite(last.loss), ErrorKind::kDiverged,
                "phase {}: it ends with a loss that is not finite ({} in step {}); {}",
                history.name, not_finite_text(last), last.step, advice(history));
  }

  void tell_skipped(const PhaseHistory& history) const {
    if (hooks_.observer == nullptr || history.skipped_steps == 0) return;
    std::string text =
        fmt::format("phase {}: {} of {} steps were skipped, their loss or gradient was not finite",
                    history.name, history.skipped_steps, history.steps.size());
    for (const NetworkHistory& network : history.networks) {
      if (network.counted_steps == 0)
        text += fmt::format("; {} has learned nothing", network.network);
    }
    hooks_.observer->warn(text);
  }

  // Even with finite loss and gradient, a step may be so large that weights overflow.
  static void check_finite(const at::Tensor& values, const std::string& phase) {
    QALOF_CHECK(at::isfinite(values).all().item<bool>(), ErrorKind::kDiverged,
                "phase {}: a weight is not finite, nothing of it is written; a lower "
                "--learning_rate may help",
                phase);
  }

  std::function<void(at::Tensor&)> gradient_hook() const {
    if (!hooks_.on_gradients || device_.is_cuda()) return nullptr;
    return [this](at::Tensor& gradients) {
      hooks_.on_gradients(result_.steps + 1, {gradients.mutable_data_ptr<float>(),
                                              static_cast<std::size_t>(gradients.numel())});
    };
  }

  std::function<void(const std::string&)> part_hook() const {
    if (hooks_.observer == nullptr) return nullptr;
    return [this](const std::string& what) { hooks_.observer->status(what); };
  }

  void tell_start(const Phase& phase, const PhaseState& state, std::int64_t total) const {
    if (hooks_.observer == nullptr) return;
    const std::int64_t warmup = options_.schedule.warmup_steps;
    if (warmup >= total) {
      hooks_.observer->warn(fmt::format(
          "phase {}: --warmup_steps {} is not less than its {} steps, the learning rate rises to "
          "{:.3g} and not to --learning_rate {:.3g}",
          phase.name, warmup, total, learning_rate_at(options_, total - 1, total),
          options_.schedule.learning_rate));
    }
    hooks_.observer->progress(fmt::format("train {}", phase.name),
                              static_cast<std::uint64_t>(state.step),
                              static_cast<std::uint64_t>(total), "", "steps");
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
                        const PhaseHistory& history, std::int64_t total) const {
    Checkpoint point;
    point.phase = phase.name;
    point.step = static_cast<std::int64_t>(history.steps.size());
    point.total_steps = total;
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
      hooks_.observer->warn(fmt::format("phase {}, step {}: {}: not finite, the step is skipped",
                                        record.phase, record.step, not_finite_text(record)));
    }
    hooks_.observer->progress(
        fmt::format("train {}", record.phase), static_cast<std::uint64_t>(record.step),
        static_cast<std::uint64_t>(record.total_steps),
        fmt::format("loss {:.4f}, lr {:.2e}, {:.0f} tokens/s", record.loss, record.learning_rate,
                    static_cast<double>(history.tokens) / history.seconds),
        "steps");
  }

  std::shared_ptr<const weights::BaseModel> base_;
  const TrainOptions& options_;
  Windows examples_;
  const TrainHooks& hooks_;
  std::vector<Phase> phases_;
  at::Device device_;
  ThreadPool parallel_;
  std::unique_ptr<OutsideTeacher> teacher_;  // may be null
  std::map<int, AdapterParams> finished_;    // by width, without gradient
  TrainResult result_;
  bool begun_ = false;
  bool stops_ = false;           // a process of the group was asked to stop
  std::int64_t saved_step_ = 0;  // over all phases, of the last checkpoint written or resumed from
};

}  // namespace

TrainResult train(std::shared_ptr<const weights::BaseModel> base, const TrainOptions& options,
                  const Windows& examples, const TrainHooks& hooks) {
  constexpr const char* kAdvice =
      "out of memory; a smaller --per_device_train_batch_size with more "
      "--gradient_accumulation_steps, or a smaller --max_seq_length, needs less";
  try {
    return Trainer(std::move(base), options, examples, hooks).run();
  } catch (const std::bad_alloc&) {
    fail(ErrorKind::kResource, "{}", kAdvice);
  } catch (const c10::OutOfMemoryError&) {
    fail(ErrorKind::kResource, "{}", kAdvice);
  } catch (const c10::Error& error) {
    // The CPU allocator's errors have no type of their own.
    if (std::string_view(error.what()).find("allocate memory") == std::string_view::npos) throw;
    fail(ErrorKind::kResource, "{}", kAdvice);
  }
}

}  // namespace qalof::train
