// Which options of training contradict each other, and what they need of a model. See options.h.
#include <cmath>

#include "core/error.h"
#include "train/adapter_form.h"
#include "train/options.h"
#include "train/phases.h"

namespace qalof::train {

namespace {

// How long a run is and how its steps are made.
void check_steps(const TrainOptions& options) {
  QALOF_CHECK(options.schedule.max_tokens >= 0, ErrorKind::kUsage,
              "--max_tokens: found {}, expected at least 0", options.schedule.max_tokens);
  QALOF_CHECK(options.schedule.max_steps == 0 || options.schedule.max_tokens == 0,
              ErrorKind::kUsage,
              "--max_steps {} --max_tokens {}: each says how long a phase is, expected one of them",
              options.schedule.max_steps, options.schedule.max_tokens);
  // A step is one window at least, so that this refuses no length that is possible.
  QALOF_CHECK(options.schedule.num_train_epochs > 0 &&
                  options.schedule.num_train_epochs <= static_cast<double>(kMostSteps),
              ErrorKind::kUsage,
              "--num_train_epochs: found {}, expected more than 0 and at most {}",
              options.schedule.num_train_epochs, kMostSteps);
}

void check_widths(const TrainOptions& options) {
  const std::string method = to_string(options.method);
  QALOF_CHECK(!options.bf16, ErrorKind::kUsage,
              "--bf16: --method {} trains the widths of --bit_widths, add 16 to them instead",
              method);
  for (const int bits : options.widths.bit_widths) {
    QALOF_CHECK(quant::is_legal(quant::BitWidth{bits}), ErrorKind::kUsage,
                "--bit_widths: found {}, expected 2..8, 16 or 32", bits);
  }
  if (options.method != Method::kCpt) return;
  QALOF_CHECK(2 <= options.widths.min_bits && options.widths.min_bits < options.widths.max_bits &&
                  options.widths.max_bits <= 8,
              ErrorKind::kUsage, "--min_bits {} --max_bits {}: expected 2 <= min < max <= 8",
              options.widths.min_bits, options.widths.max_bits);
}

void check_start(const TrainOptions& options) {
  if (options.start == nullptr) return;
  const weights::AdapterSet& start = *options.start;
  QALOF_CHECK(options.method != Method::kFull, ErrorKind::kUsage,
              "--adapter {}: --method full has no adapters", start.path);
  QALOF_CHECK(options.adapters.adapter_form != AdapterForm::kCascaded, ErrorKind::kUnsupported,
              "--adapter {}: is not implemented with --adapter_form cascaded, expected separate or "
              "merged",
              start.path);
  QALOF_CHECK(options.adapters.init_lora == InitLora::kDefault, ErrorKind::kUsage,
              "--adapter {}: says where adapters begin, and so does --init_lora", start.path);
  for (const auto& [width, adapter] : start.by_width) {
    QALOF_CHECK(!adapter->learned, ErrorKind::kUnsupported,
                "--adapter {}: w{} has learned quantizers, expected none", start.path, width);
    QALOF_CHECK(adapter->merged == (options.adapters.adapter_form == AdapterForm::kMerged),
                ErrorKind::kUsage, "--adapter {}: w{} is {}, expected --adapter_form {}",
                start.path, width, adapter->merged ? "merged" : "separate",
                adapter->merged ? "merged" : "separate");
    for (const auto& pair : adapter->linears) {
      QALOF_CHECK(!pair || pair->rank() == options.adapters.lora_r, ErrorKind::kUsage,
                  "--adapter {}: w{} has rank {}, expected that of --lora_r, {}", start.path, width,
                  pair ? pair->rank() : 0, options.adapters.lora_r);
    }
    const std::optional<weights::Head>& head = adapter->class_head;
    QALOF_CHECK(options.head_kind != weights::HeadKind::kClass || !head ||
                    head->outputs == options.num_labels,
                ErrorKind::kBadInput, "--adapter {}: its head has {} classes, the data {}",
                start.path, head ? head->outputs : 0, options.num_labels);
  }
}

void check_quantizers(const TrainOptions& options) {
  const bool learns = options.quantizers.learn_steps != LearnSteps::kNone;
  const bool merged = options.adapters.adapter_form == AdapterForm::kMerged;
  const std::string method = to_string(options.method);
  QALOF_CHECK(!learns || has_widths(options.method), ErrorKind::kUsage,
              "--learn_steps: --method {} trains no widths, expected switch, joint, cpt, random or "
              "curriculum",
              method);
  QALOF_CHECK(!merged || options.method != Method::kFull, ErrorKind::kUsage,
              "--adapter_form merged: --method full has no adapters");
  QALOF_CHECK(!merged || options.adapters.init_lora == InitLora::kDefault, ErrorKind::kUsage,
              "--init_lora residual_svd: stands for what quantization loses beside the weights, "
              "--adapter_form merged is quantized with them");
  if (!learns && !merged) return;
  QALOF_CHECK(!options.scheme.nested, ErrorKind::kUnsupported,
              "--scheme {}: nested widths share their weights, which --learn_steps and "
              "--adapter_form merged make for each width",
              quant::to_string(options.scheme));
  QALOF_CHECK(options.device == Device::kCpu, ErrorKind::kUnsupported,
              "--learn_steps and --adapter_form merged: implemented on --device cpu alone");
  QALOF_CHECK(options.quantizers.ste_clip == 0, ErrorKind::kUsage,
              "--ste_clip {}: the original's mask contradicts --learn_steps and --adapter_form "
              "merged, which have masks of their own",
              options.quantizers.ste_clip);
}

void check_losses(const TrainOptions& options) {
  QALOF_CHECK(options.distillation.kd_alpha <= 1, ErrorKind::kUsage,
              "--kd_alpha: found {}, expected 0..1", options.distillation.kd_alpha);
  QALOF_CHECK(!options.teacher_self || !options.teacher, ErrorKind::kUsage,
              "--teacher: expected self or one directory");
  const bool may_teach_itself = has_widths(options.method);
  QALOF_CHECK(!options.teacher_self || may_teach_itself, ErrorKind::kUsage,
              "--teacher self: --method {} has no higher width to learn from, expected a directory",
              to_string(options.method));
  const bool has_teacher = options.teacher || options.teacher_self ||
                           options.method == Method::kSwitch || options.method == Method::kJoint;
  QALOF_CHECK(
      has_teacher || (options.distillation.hidden_kd == 0 && options.distillation.contrastive == 0),
      ErrorKind::kUsage, "--hidden_kd and --contrastive compare with a teacher: add --teacher");
}

void check_adversarial(const TrainOptions& options) {
  const AdversarialOptions& adversarial = options.adversarial;
  QALOF_CHECK(adversarial.steps >= 0, ErrorKind::kUsage,
              "--adversarial_steps: found {}, expected at least 0", adversarial.steps);
  if (adversarial.steps == 0) {
    QALOF_CHECK(adversarial.epsilon == 0 && adversarial.step_size == 0, ErrorKind::kUsage,
                "--adversarial_epsilon and --adversarial_step_size: nothing is perturbed without "
                "--adversarial_steps");
    return;
  }
  QALOF_CHECK(adversarial.epsilon > 0, ErrorKind::kUsage,
              "--adversarial_steps {}: needs a positive --adversarial_epsilon", adversarial.steps);
  QALOF_CHECK(
      options.head_kind != weights::HeadKind::kLm, ErrorKind::kUnsupported,
      "--adversarial_steps: not implemented for --task lm and chat, expected classification or qa");
}

}  // namespace

void check_options(const TrainOptions& options, const quant::PlanTarget& target) {
  OptionList list;
  const_cast<TrainOptions&>(options).list(list);  // to look at, nothing is set
  list.check();
  check_steps(options);
  check_losses(options);
  check_adversarial(options);
  QALOF_CHECK(options.quantizers.ste_clip == 0 || options.quantizers.ste_clip == 2,
              ErrorKind::kUsage, "--ste_clip: found {}, expected 0 or 2",
              options.quantizers.ste_clip);
  QALOF_CHECK(options.quantizers.gradient_bits == 8 || options.quantizers.gradient_bits == 16 ||
                  options.quantizers.gradient_bits == 32,
              ErrorKind::kUsage, "--gradient_bits: found {}, expected 8, 16 or 32",
              options.quantizers.gradient_bits);
  QALOF_CHECK(options.threads >= 0, ErrorKind::kUsage, "--threads: found {}, expected at least 1",
              options.threads);
  const quant::QuantScheme scheme = options.plan ? options.plan->scheme : options.scheme;
  QALOF_CHECK(
      scheme.is_minmax() || options.device == Device::kCpu || options.method != Method::kFull,
      ErrorKind::kUnsupported,
      "--scheme {}: --method full in another scheme than minmax is implemented on --device cpu "
      "alone",
      quant::to_string(scheme));
  QALOF_CHECK(scheme.kind == quant::CodeKind::kUniform, ErrorKind::kUnsupported,
              "--scheme {}: is for evaluation alone, training has minmax and the group schemes",
              quant::to_string(scheme));
  QALOF_CHECK(!scheme.is_rotated() || options.method != Method::kFull, ErrorKind::kUnsupported,
              "--scheme {}: --method full trains the weights that rot turns, expected a scheme "
              "without rot",
              quant::to_string(scheme));
  QALOF_CHECK(!scheme.is_rotated() || options.adapters.init_lora != InitLora::kResidualSvd,
              ErrorKind::kUnsupported,
              "--scheme {}: rot is not implemented with --init_lora residual_svd, expected default",
              quant::to_string(scheme));
  QALOF_CHECK(!scheme.is_rotated() || options.adapters.adapter_form != AdapterForm::kMerged,
              ErrorKind::kUnsupported,
              "--scheme {}: rot is not implemented with --adapter_form merged, expected another "
              "form, or a scheme without rot",
              quant::to_string(scheme));
  if (options.widths.kv_bits) {
    QALOF_CHECK(quant::is_legal(quant::BitWidth{*options.widths.kv_bits}), ErrorKind::kUsage,
                "--kv_bits: found {}, expected 2..8, 16 or 32", *options.widths.kv_bits);
  }
  check_quantizers(options);
  if (has_widths(options.method)) check_widths(options);
  check_start(options);
  QALOF_CHECK(options.adapters.adapter_form != AdapterForm::kCascaded ||
                  (has_widths(options.method) && options.method != Method::kSwitch),
              ErrorKind::kUsage,
              "--adapter_form cascaded: --method {} does not train several widths together, "
              "expected joint, cpt, random or curriculum",
              to_string(options.method));
  QALOF_CHECK(options.adapters.init_lora == InitLora::kDefault || options.method != Method::kFull,
              ErrorKind::kUsage, "--init_lora: --method full trains no adapters");
  QALOF_CHECK(options.adapters.init_lora == InitLora::kDefault || options.adapters.lora_alpha > 0,
              ErrorKind::kUsage,
              "--init_lora residual_svd: --lora_alpha 0 lets an adapter stand for nothing");
  if (options.plan) {
    QALOF_CHECK(!options.bf16, ErrorKind::kUsage,
                "--bf16: --precision already names the precision");
    QALOF_CHECK(options.plan->linears.size() == target.linear_names.size(), ErrorKind::kInternal,
                "plan has {} linears, expected {}", options.plan->linears.size(),
                target.linear_names.size());
  }
}

void check_teacher(const TrainOptions& options, const model::ModelConfig& student) {
  const TeacherModel& teacher = *options.teacher;
  const model::ModelConfig& config = teacher.base->config();
  auto check_equal = [&](const char* what, std::size_t found, std::size_t expected) {
    QALOF_CHECK(found == expected, ErrorKind::kBadInput, "--teacher {}: {} is {}, expected {}",
                teacher.name, what, found, expected);
  };
  check_equal("vocab_size", config.vocab_size, student.vocab_size);
  if (options.distillation.hidden_kd > 0 || options.distillation.contrastive > 0)
    check_equal("the width of its states", config.hidden, student.hidden);
  if (options.distillation.hidden_kd > 0)
    check_equal("the number of its blocks", config.num_layers, student.num_layers);
  const quant::QuantScheme scheme = teacher.plan.scheme;
  QALOF_CHECK(scheme.kind == quant::CodeKind::kUniform, ErrorKind::kUnsupported,
              "--teacher {}: runs in scheme {}, training has minmax, the group schemes and rot",
              teacher.name, quant::to_string(scheme));
}

}  // namespace qalof::train
