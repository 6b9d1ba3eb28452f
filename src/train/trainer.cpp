#include "train/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/memory.h"
#include "train/batch.h"
#include "train/graph_torch.h"
#include "train/loss_torch.h"
#include "train/memory.h"
#include "train/optimizer_torch.h"
#include "train/phases.h"
#include "train/schedule.h"

namespace qalof::train {

namespace {

// A bad batch may pass; this many in a row do not.
constexpr int kMaxSkippedInARow = 5;

class Stopwatch {
 public:
  // Seconds since the last call or the start.
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

AdapterParams detached(const AdapterParams& params) {
  auto copy = [](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.detach().clone() : at::Tensor();
  };
  AdapterParams result;
  for (const LoraParams& lora : params.linears)
    result.linears.push_back({copy(lora.a), copy(lora.b)});
  result.head = {copy(params.head.weight), copy(params.head.bias)};
  return result;
}

at::Device open_device(Device device) {
  if (device == Device::kCpu) return at::kCPU;
  QALOF_CHECK(at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0,
              ErrorKind::kUnsupported,
              "--device cuda: this PyTorch {}, expected a CUDA build of PyTorch and a CUDA device",
              at::hasCUDA() ? "finds no CUDA device" : "is built without CUDA");
  return at::Device(at::kCUDA, 0);
}

// Parameters of one phase and how they came to be.
struct PhaseParameters {
  FlatParameters flat;
  BaseParams base;                        // full
  std::map<int, AdapterParams> adapters;  // lora, switch
  HeadParams head;                        // of the task
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
  bool is_full() const { return options_.method == Method::kFull; }
  bool is_qa() const { return options_.task == runtime::Task::kQa; }

  runtime::Head head_of(const Phase& phase) const {
    if (phase.head_from) return export_head(finished_.at(*phase.head_from).head);
    return initial_qa_head(*base_, options_.seed);
  }

  void make_parameters(const Phase& phase, PhaseParameters& params) const {
    std::optional<TrainableBase> trainable;
    struct Pair {
      std::size_t a, b;
    };
    std::map<int, std::vector<Pair>> pairs;
    if (is_full()) trainable.emplace(*base_, params.flat);
    const auto rank = static_cast<std::int64_t>(options_.lora_r);
    for (const int width : phase.widths) {
      const AdapterInit init = fresh_adapter(*base_, options_.lora_r, options_.seed, width);
      for (std::size_t i = 0; i < base_->linears().size(); ++i) {
        const model::LinearSpec& spec = base_->linears()[i];
        const std::size_t a =
            params.flat.add({rank, static_cast<std::int64_t>(spec.in)}, init.a[i]);
        const std::size_t b =
            params.flat.add({static_cast<std::int64_t>(spec.out), rank}, init.b[i]);
        pairs[width].push_back({a, b});
      }
    }
    Pair head{};
    if (is_qa()) {
      const runtime::Head initial = head_of(phase);
      const auto outputs = static_cast<std::int64_t>(initial.outputs);
      head.a = params.flat.add({outputs, static_cast<std::int64_t>(base_->config().hidden)},
                               initial.weight);
      head.b = params.flat.add({outputs}, initial.bias);
    }
    params.flat.build(device_);
    if (trainable) params.base = trainable->bind(params.flat);
    if (is_qa()) params.head = {params.flat.parameter(head.a), params.flat.parameter(head.b)};
    for (const auto& [width, indices] : pairs) {
      AdapterParams& adapter = params.adapters[width];
      for (const Pair& pair : indices) {
        adapter.linears.push_back({params.flat.parameter(pair.a), params.flat.parameter(pair.b)});
      }
      // Every width of a mixed plan is stored with the head they were trained with.
      adapter.head = params.head;
    }
  }

  std::unique_ptr<Graph> make_graph(const PhaseParameters& params) {
    if (device_.is_cuda()) {
      return make_aten_graph(base_->config(),
                             is_full() ? params.base : load_base_params(*base_, device_));
    }
    return make_kernel_graph(base_, is_full() ? &params.base : nullptr, parallel_,
                             {options_.gradient_bits, options_.seed});
  }

  // Which pair serves each linear: that of its weight width.
  NetworkView view_of(const quant::PrecisionPlan& plan,
                      const std::map<int, AdapterParams>& adapters, const HeadParams& head) const {
    NetworkView view;
    view.lora_scaling = options_.lora_alpha / static_cast<double>(options_.lora_r);
    view.head = head;
    if (adapters.empty()) return view;
    for (std::size_t i = 0; i < plan.linears.size(); ++i) {
      view.lora.push_back(adapters.at(plan.linears[i].weight.bits).linears[i]);
    }
    return view;
  }

  TrainedWeights weights_of(const PhaseParameters& params) const {
    TrainedWeights weights;
    if (is_full()) {
      weights.tensors = export_base(params.base, params.head, base_->config());
      return weights;
    }
    for (const auto& [width, adapter] : finished_) {
      weights.adapters[width] = export_adapter(adapter, *base_, options_);
    }
    for (const auto& [width, adapter] : params.adapters) {
      weights.adapters[width] = export_adapter(adapter, *base_, options_);
    }
    return weights;
  }

  struct Teacher {
    GraphPlan plan;
    NetworkView view;
  };
  struct Run {
    const Phase& phase;
    Graph& graph;
    GraphPlan plan;
    NetworkView view;
    std::optional<Teacher> teacher;
  };

  // Loss and gradients of some windows of a step; adds to record.
  void accumulate(const Run& run, std::span<const std::uint32_t> windows, double normalizer,
                  StepRecord& record) {
    Stopwatch watch;
    PackedBatch batch;
    for (const std::uint32_t index : windows) batch.add(examples_[index]);
    at::Tensor teacher_hidden, teacher_logits;
    if (run.teacher) {
      const at::NoGradGuard no_grad;
      teacher_hidden = run.graph.hidden(batch, run.teacher->plan, run.teacher->view);
      if (is_qa()) {
        teacher_logits = run.graph.head_logits(teacher_hidden, run.teacher->view.head);
      }
    }
    const at::Tensor hidden = run.graph.hidden(batch, run.plan, run.view);
    const Distillation distillation{options_.kd_alpha, options_.kd_temperature};
    LossParts parts;
    at::Tensor loss;
    if (is_qa()) {
      loss = span_loss_of(run.graph.head_logits(hidden, run.view.head), teacher_logits, batch,
                          distillation, normalizer, &parts);
    } else {
      LmLossInputs inputs;
      inputs.graph = &run.graph;
      inputs.plan = &run.plan;
      inputs.batch = &batch;
      inputs.teacher_hidden = teacher_hidden;
      inputs.teacher_plan = run.teacher ? &run.teacher->plan : nullptr;
      inputs.distillation = distillation;
      inputs.normalizer = normalizer;
      loss = lm_loss_of(hidden, inputs, &parts);
    }
    record.times.forward += watch.lap();
    if (std::isfinite(parts.total)) loss.backward();
    record.times.backward += watch.lap();
    record.loss += parts.total;
    record.hard_loss += parts.hard / normalizer;
    record.distillation += parts.distillation / normalizer;
    record.tokens += batch.tokens();
  }

  StepRecord step(const Run& run, PhaseParameters& params, AdamW& optimizer,
                  std::span<const std::uint32_t> windows, std::int64_t index, std::int64_t total) {
    StepRecord record;
    record.phase = run.phase.name;
    record.step = index + 1;
    record.total_steps = total;
    record.learning_rate = learning_rate_at(options_, index, total);
    double normalizer = static_cast<double>(windows.size());
    if (!is_qa()) {
      normalizer = 0;
      for (const std::uint32_t window : windows) {
        normalizer += static_cast<double>(examples_[window].ids.size() - 1);
      }
    }
    params.flat.gradients().zero_();
    for (std::size_t first = 0; first < windows.size(); first += options_.batch_size) {
      const std::size_t count = std::min(options_.batch_size, windows.size() - first);
      accumulate(run, windows.subspan(first, count), normalizer, record);
    }
    Stopwatch watch;
    record.grad_norm = clip_gradients(params.flat.gradients(), options_.max_grad_norm);
    record.skipped = !std::isfinite(record.loss) || !std::isfinite(record.grad_norm);
    if (!record.skipped) {
      optimizer.step(record.learning_rate);
      run.graph.weights_changed();
    }
    record.times.optimizer = watch.lap();
    return record;
  }

  void run_phase(const Phase& phase) {
    PhaseParameters params;
    make_parameters(phase, params);
    const std::unique_ptr<Graph> graph = make_graph(params);
    Run run{phase, *graph, GraphPlan(phase.plan, options_.ste_clip),
            view_of(phase.plan, params.adapters, params.head), std::nullopt};
    if (phase.teacher) {
      const Phase& teacher = phases_[*phase.teacher];
      run.teacher =
          Teacher{GraphPlan(teacher.plan, 0),
                  view_of(teacher.plan, finished_, finished_.at(teacher.head_width).head)};
    }
    AdamWOptions adamw;
    adamw.weight_decay = options_.weight_decay;
    AdamW optimizer(params.flat, adamw);
    DataOrder order(options_.seed, phase.name, examples_.size(),
                    options_.batch_size * options_.gradient_accumulation_steps);

    PhaseHistory& history = result_.phases.emplace_back();
    history.name = phase.name;
    history.precision = quant::describe(phase.plan, base_->target());
    if (hooks_.observer != nullptr) {
      hooks_.observer->info(fmt::format("phase {}: {}, {} trained parameters", phase.name,
                                        history.precision, params.flat.values().numel()));
    }
    const std::int64_t total = steps_of_phase(options_, examples_.size());
    double loss_sum = 0;
    int skipped_in_a_row = 0;
    for (std::int64_t index = 0; index < total; ++index) {
      if (hooks_.should_stop && hooks_.should_stop()) {
        result_.interrupted = true;
        break;
      }
      const StepRecord record = step(run, params, optimizer, order.step(index), index, total);
      history.seconds += record.times.total();
      history.tokens += record.tokens;
      history.steps.push_back(record);
      ++result_.steps;
      if (!record.skipped) loss_sum += record.loss;
      skipped_in_a_row = record.skipped ? skipped_in_a_row + 1 : 0;
      history.skipped_steps += record.skipped ? 1 : 0;
      report(record, history);
      QALOF_CHECK(
          skipped_in_a_row < kMaxSkippedInARow, ErrorKind::kDiverged,
          "phase {}, step {}: loss {} and gradient norm {} are not finite for {} steps in a "
          "row; a lower --learning_rate may help",
          phase.name, record.step, record.loss, record.grad_norm, skipped_in_a_row);
      const bool evaluate = options_.eval_steps > 0 && record.step % options_.eval_steps == 0;
      if (evaluate && hooks_.on_eval) hooks_.on_eval(checkpoint(phase, params, record));
    }
    const auto done = static_cast<std::int64_t>(history.steps.size()) - history.skipped_steps;
    history.train_loss = done > 0 ? loss_sum / static_cast<double>(done) : 0;
    result_.weights = weights_of(params);
    for (const auto& [width, adapter] : params.adapters) finished_[width] = detached(adapter);
    if (hooks_.on_phase_end && !history.steps.empty()) {
      hooks_.on_phase_end(checkpoint(phase, params, history.steps.back()));
    }
  }

  Checkpoint checkpoint(const Phase& phase, const PhaseParameters& params,
                        const StepRecord& record) const {
    Checkpoint point;
    point.phase = phase.name;
    point.step = record.step;
    point.total_steps = record.total_steps;
    point.global_step = result_.steps;
    point.plan = &phase.plan;
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
