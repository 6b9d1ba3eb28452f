// What a training run is told and what it hands back. Data only: no PyTorch, no files, no flags.
//
// A method is data: it becomes a list of phases (phases.h), a phase says for every step which
// networks train and who teaches them (step_plan.h), and one loop (trainer.h) runs them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/process_group.h"
#include "core/progress.h"
#include "quant/plan.h"
#include "tasks/windows.h"
#include "train/trained_weights.h"
#include "weights/adapter.h"

namespace qalof::train {

/// full: every weight of the model. lora: adapters on the frozen base. The others train an adapter
/// and a head per width. switch: from high to low, each width taught by the one before. joint: all
/// widths in every step, each taught by those above. cpt: the width of a step rises and falls.
/// random: the widths of a step are drawn. curriculum: widths come down one after the other.
enum class Method { kFull, kLora, kSwitch, kJoint, kCpt, kRandom, kCurriculum };
/// What a step of `random` draws: one width for all linears, one for each, or first which of the
/// two.
enum class RandomWidths { kStep, kLayer, kBoth };
/// When `curriculum` comes down: after equal parts of the run, or where the loss stops falling.
enum class Curriculum { kSchedule, kLoss };
/// What the adapters of several widths share. separate: nothing. cascaded: the ranks of one pair a
/// linear, of which a width uses the first (adapter_form.h). merged: nothing, and products are
/// added to weights before they are quantized (docs/numerics.md, "Adapter forms").
enum class AdapterForm { kSeparate, kCascaded, kMerged };
/// What adapters begin as. default: B zero, so that nothing is added. residual_svd: the part of
/// W - q(W) of largest singular values (torch/adapter_init.h).
enum class InitLora { kDefault, kResidualSvd };
/// How logits are distilled: divergence of the distributions, or the squared error of the logits.
enum class KdLoss { kKl, kMse };
/// Which quantizer values are learned, one set per width.
enum class LearnSteps { kNone, kWeights, kActivations, kAll };
/// What bounds the perturbation of a token's embedding: its length, or its largest number.
enum class PerturbationNorm { kL2, kLinf };
enum class LrSchedule { kCosine, kLinear, kConstant };
enum class Device { kCpu, kCuda };

std::string to_string(Method method);
/// Error{kUsage} lists the known ones.
Method parse_method(const std::string& text);
/// Error{kUsage} lists the known ones.
Device parse_device(const std::string& text);

/// A fine-tuned network that teaches from outside: a base in full or half precision and perhaps
/// adapters on it.
struct TeacherModel {
  std::string name;  // for messages
  std::shared_ptr<const weights::BaseModel> base;
  std::shared_ptr<const weights::AdapterSet> adapters;  // or null
  quant::PrecisionPlan plan;
};

// The options of a run, by group. Each struct lists its own for the command line (core/options.h):
// name, default, help, values and range of an option are there and nowhere else.

/// Which widths train, and when.
struct WidthOptions {
  // Order does not matter. None: 8 4 for switch and joint, 8 7 6 5 4 for random and curriculum, and
  // for cpt an adapter for every width of its range.
  std::vector<int> bit_widths;
  std::optional<int> kv_bits;           // instead of a width's own, e.g. 16
  std::int64_t num_cyclic_period = 32;  // cpt: cycles of a run
  int min_bits = 4, max_bits = 8;       // cpt
  bool find_min_bits = false;           // cpt: min_bits comes from range_test.h
  RandomWidths random_widths = RandomWidths::kStep;
  Curriculum curriculum = Curriculum::kSchedule;
  void list(OptionList& list);
};

/// What is learned of quantizers, and how gradients pass them.
struct QuantizerOptions {
  LearnSteps learn_steps = LearnSteps::kNone;
  double learn_steps_rate = 0.1;  // their learning rate over that of the adapters
  int ste_clip = 0;  // 0: the gradient passes everywhere; 2: not where |x| >= 2, as the original
  // The product dx = dy W of linears with integer weights, on CPU: 32 (f32), 16 (bf16, from the
  // integer codes) or 8 (integers, dy by stochastic rounding).
  int gradient_bits = 16;
  void list(OptionList& list);
};

struct AdapterOptions {
  AdapterForm adapter_form = AdapterForm::kSeparate;
  std::size_t lora_r = 8;
  double lora_alpha = 16;
  InitLora init_lora = InitLora::kDefault;
  void list(OptionList& list);
};

/// How long phases are, and what a step is.
struct ScheduleOptions {
  double learning_rate = 1e-3;
  LrSchedule lr_scheduler_type = LrSchedule::kCosine;
  std::int64_t warmup_steps = 20;
  std::int64_t max_steps = 0;   // per phase; 0: num_train_epochs decides
  std::int64_t max_tokens = 0;  // instead of max_steps: student tokens of a phase, widths together
  double num_train_epochs = 1;
  std::size_t batch_size = 16;  // windows of one forward pass
  std::size_t gradient_accumulation_steps = 1;
  bool activation_checkpointing = false;  // torch/checkpointed.h; changes no number
  bool group_by_length = false;           // windows of like length in one step
  double max_grad_norm = 1.0;             // 0: no clipping
  double weight_decay = 0;                // on matrices only, not on biases and norms
  void list(OptionList& list);
};

/// What is learned from a teacher.
struct DistillationOptions {
  std::optional<KdLoss> kd_loss;  // none: mse among joint's widths, kl elsewhere
  double kd_alpha = 0.5;          // kl: the share of distillation
  double kd_temperature = 2;
  double kd_beta = 1;      // mse: the weight of distillation
  double hidden_kd = 0;    // weight of the states after every block
  double contrastive = 0;  // weight of the alignment of final states
  double contrastive_temperature = 0.1;
  // Outputs of teachers that stay as they are, kept by window on CPU; changes no number.
  std::uint64_t teacher_cache_bytes = std::uint64_t{512} << 20;
  void list(OptionList& list);
};

/// Training on examples that projected gradient ascent of the labels' loss has moved in embedding
/// space, at the precision of the pass that trains on them (torch/adversarial.h). With `random`:
/// random precision training (Fu et al. 2021).
struct AdversarialOptions {
  std::int64_t steps = 0;  // of ascent; 0: examples stay as they are
  double epsilon = 0;      // radius of the ball around a token's embedding
  double step_size = 0;    // 0: 2.5 epsilon / steps
  PerturbationNorm norm = PerturbationNorm::kL2;

  double step_length() const {
    return step_size > 0 ? step_size : 2.5 * epsilon / static_cast<double>(steps);
  }
  void list(OptionList& list);
};

struct LoggingOptions {
  std::int64_t logging_steps = 10;  // of what is written; progress goes by time
  std::int64_t eval_steps = 0;      // 0: never
  std::int64_t save_steps = 0;  // of all phases together; 0: where the run is asked to stop only
  void list(OptionList& list);
};

struct TrainOptions {
  weights::HeadKind head_kind = weights::HeadKind::kSpan;  // what the task trains
  std::size_t num_labels = 0;  // kClass: classes of the data, at least 2
  Method method = Method::kLora;
  bool bf16 = false;  // lora and full without a plan: linears at w16a16
  // The plan to train in. Methods of several widths train it with no linear below each of them.
  std::optional<quant::PrecisionPlan> plan;
  quant::QuantScheme scheme;  // where there is no plan
  WidthOptions widths;
  QuantizerOptions quantizers;
  AdapterOptions adapters;
  ScheduleOptions schedule;
  DistillationOptions distillation;
  AdversarialOptions adversarial;
  LoggingOptions logging;
  bool teacher_self = false;  // cpt, random, curriculum: a higher width teaches; else as the method
  std::shared_ptr<const TeacherModel> teacher;  // teaches every network instead of a higher width
  /// Adapters and heads begin as those that would serve their width at run time; null: fresh.
  std::shared_ptr<const weights::AdapterSet> start;
  std::uint64_t seed = 42;
  Device device = Device::kCpu;
  int threads = 0;  // 0: every CPU this process may use

  /// All of them, in groups.
  void list(OptionList& list);

 private:
  void list_method(OptionList& list);
};
/// Error{kUsage} or {kUnsupported} where options are out of range or contradict each other, for a
/// model's linears and layers.
void check_options(const TrainOptions& options, const quant::PlanTarget& target);
/// Methods that train an adapter for each of several widths.
inline bool has_widths(Method method) { return method != Method::kFull && method != Method::kLora; }
/// The most steps of a phase.
inline constexpr std::int64_t kMostSteps = 1'000'000'000;

using tasks::Example;
using tasks::Windows;

/// Seconds of one optimizer step.
struct StepTimes {
  double forward = 0;  // loss and teacher included
  double backward = 0;
  double optimizer = 0;  // clipping included
  double exchange = 0;   // with other processes

  double total() const { return forward + backward + optimizer + exchange; }
};

/// One network's part in an optimizer step.
struct PassRecord {
  std::string network;  // "w8"
  double loss = 0;      // before its weight in the step's sum
  double hard_loss = 0;
  double distillation = 0;
  double hidden_loss = 0;       // states after every block beside the teachers', unweighted
  double contrastive_loss = 0;  // alignment of final states, unweighted
  double accuracy = 0;          // of starts and ends (qa) or classes; not counted for lm
  std::uint64_t tokens = 0;
};

/// One optimizer step.
struct StepRecord {
  std::string phase;      // "w8"
  std::int64_t step = 0;  // 1-based within the phase
  std::int64_t total_steps = 0;
  double loss = 0;          // what was minimized: the sum over networks
  double hard_loss = 0;     // its cross entropy part, unweighted
  double distillation = 0;  // its distillation part, unweighted; 0 without a teacher
  double hidden_loss = 0;   // as PassRecord's
  double contrastive_loss = 0;
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  std::uint64_t tokens = 0;  // trained in this step, summed over networks
  std::vector<PassRecord> passes;
  StepTimes times;
  bool skipped = false;  // loss or gradient was not finite: nothing was changed
};

/// One network over a phase: how often it trained and how well.
struct NetworkHistory {
  std::string network;
  std::int64_t steps = 0;
  std::uint64_t tokens = 0;
  double train_loss = 0;           // mean over the steps that were not skipped
  std::int64_t counted_steps = 0;  // those
};

struct PhaseHistory {
  std::string name;
  std::string precision;                 // effective precision in words
  std::vector<NetworkHistory> networks;  // those that trained, in the order of their first step
  std::vector<StepRecord> steps;
  double train_loss = 0;  // mean over the steps that were not skipped
  double seconds = 0;     // of steps alone, without evaluation
  std::uint64_t tokens = 0;
  std::int64_t skipped_steps = 0;
};

struct TrainResult {
  double train_loss = 0;  // of the last phase
  std::int64_t steps = 0;
  std::uint64_t tokens = 0;
  double tokens_per_second = 0;
  bool interrupted = false;  // a hook asked to stop; weights are those of the last whole step
  std::vector<PhaseHistory> phases;
  TrainedWeights weights;
};

struct RunState;

/// Where a run is when it calls a hook, and a copy of what it has learned so far, on request.
struct Checkpoint {
  std::string phase;
  std::int64_t step = 0;  // within the phase
  std::int64_t total_steps = 0;
  std::int64_t global_step = 0;
  std::vector<const quant::PrecisionPlan*> plans;  // of the phase, trained so far
  std::function<TrainedWeights()> weights;
  /// on_save: all that is needed to go on from here (run_state.h). Error{kDiverged} where a weight
  /// is not finite.
  std::function<RunState()> state;
};

/// Every member may be empty. Called on the training thread, between steps.
struct TrainHooks {
  Observer* observer = nullptr;
  std::function<void()> on_begin;  // once, when nothing is left to refuse but what steps give
  std::function<void(const StepRecord&)> on_step;
  std::function<void(const Checkpoint&)> on_eval;       // every eval_steps
  std::function<void(const Checkpoint&)> on_phase_end;  // also of the last phase
  std::function<bool()> should_stop;                    // asked before each step
  std::function<void(const Checkpoint&)> on_save;       // every save_steps, and before stopping
  /// Sees and may change the gradients of a step (1-based, of all phases) before they are clipped,
  /// on CPU. For tests of what must not reach the weights.
  std::function<void(std::int64_t step, std::span<float> gradients)> on_gradients;
  const RunState* resume = nullptr;  // where to go on; the options and examples are those of then
  /// The processes that train together, each with the same options and examples; null: this one
  /// alone. Micro-batches of a step are shared out among them, hooks are called on each.
  ProcessGroup* group = nullptr;
};

}  // namespace qalof::train
