#include "train/phases.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/flag_range.h"
#include "train/adapter_form.h"

namespace qalof::train {

namespace {

// Methods that train an adapter for each of several widths.
bool has_widths(Method method) { return method != Method::kFull && method != Method::kLora; }

// Factors of losses and weights: their squares and products are far from what a double holds.
constexpr double kMostNumber = 1e30;
// Of what divides logits and cosines.
constexpr double kLeastTemperature = 1e-6;
// With its products with the inputs of a linear far from what a tensor may hold.
constexpr std::size_t kMostRank = 65'536;

void check_number(const char* flag, double value, double low) {
  QALOF_CHECK(std::isfinite(value) && value >= low, ErrorKind::kUsage,
              "{}: found {}, expected a finite number of at least {}", flag, value, low);
  QALOF_CHECK(value <= kMostNumber, ErrorKind::kUsage, "{}: found {}, expected at most {}", flag,
              value, kMostNumber);
}

void check_positive(const char* flag, double value) {
  check_number(flag, value, 0);
  QALOF_CHECK(value > 0, ErrorKind::kUsage, "{}: found {}, expected a positive number", flag,
              value);
}

// How long a run is and how its steps are made.
void check_steps(const TrainOptions& options) {
  check_number("--learning_rate", options.learning_rate, 0);
  check_number("--max_grad_norm", options.max_grad_norm, 0);
  check_number("--weight_decay", options.weight_decay, 0);
  check_number("--lora_alpha", options.lora_alpha, 0);
  check_count("--lora_r", options.lora_r, 1, kMostRank);
  check_count("--per_device_train_batch_size", options.batch_size);
  check_count("--gradient_accumulation_steps", options.gradient_accumulation_steps);
  check_count("--warmup_steps", options.warmup_steps, 0, kMostSteps);
  check_count("--max_steps", options.max_steps, 0, kMostSteps);
  QALOF_CHECK(options.max_tokens >= 0, ErrorKind::kUsage,
              "--max_tokens: found {}, expected at least 0", options.max_tokens);
  QALOF_CHECK(options.max_steps == 0 || options.max_tokens == 0, ErrorKind::kUsage,
              "--max_steps {} --max_tokens {}: each says how long a phase is, expected one of them",
              options.max_steps, options.max_tokens);
  // A step is one window at least, so that this refuses no length that is possible.
  QALOF_CHECK(
      options.num_train_epochs > 0 && options.num_train_epochs <= static_cast<double>(kMostSteps),
      ErrorKind::kUsage, "--num_train_epochs: found {}, expected more than 0 and at most {}",
      options.num_train_epochs, kMostSteps);
}

void check_widths(const TrainOptions& options) {
  const std::string method = to_string(options.method);
  QALOF_CHECK(!options.bf16, ErrorKind::kUsage,
              "--bf16: --method {} trains the widths of --bit_widths, add 16 to them instead",
              method);
  for (const int bits : options.bit_widths) {
    QALOF_CHECK(quant::is_legal(quant::BitWidth{bits}), ErrorKind::kUsage,
                "--bit_widths: found {}, expected 2..8, 16 or 32", bits);
  }
  if (options.method != Method::kCpt) return;
  QALOF_CHECK(2 <= options.min_bits && options.min_bits < options.max_bits && options.max_bits <= 8,
              ErrorKind::kUsage, "--min_bits {} --max_bits {}: expected 2 <= min < max <= 8",
              options.min_bits, options.max_bits);
  check_count("--num_cyclic_period", options.num_cyclic_period, 1, kMostSteps);
}

void check_start(const TrainOptions& options) {
  if (options.start == nullptr) return;
  const weights::AdapterSet& start = *options.start;
  QALOF_CHECK(options.method != Method::kFull, ErrorKind::kUsage,
              "--adapter {}: --method full has no adapters", start.path);
  QALOF_CHECK(options.adapter_form != AdapterForm::kCascaded, ErrorKind::kUnsupported,
              "--adapter {}: is not implemented with --adapter_form cascaded, expected separate or "
              "merged",
              start.path);
  QALOF_CHECK(options.init_lora == InitLora::kDefault, ErrorKind::kUsage,
              "--adapter {}: says where adapters begin, and so does --init_lora", start.path);
  for (const auto& [width, adapter] : start.by_width) {
    QALOF_CHECK(!adapter->learned, ErrorKind::kUnsupported,
                "--adapter {}: w{} has learned quantizers, expected none", start.path, width);
    QALOF_CHECK(adapter->merged == (options.adapter_form == AdapterForm::kMerged),
                ErrorKind::kUsage, "--adapter {}: w{} is {}, expected --adapter_form {}",
                start.path, width, adapter->merged ? "merged" : "separate",
                adapter->merged ? "merged" : "separate");
    for (const auto& pair : adapter->linears) {
      QALOF_CHECK(!pair || pair->rank() == options.lora_r, ErrorKind::kUsage,
                  "--adapter {}: w{} has rank {}, expected that of --lora_r, {}", start.path, width,
                  pair ? pair->rank() : 0, options.lora_r);
    }
    const std::optional<weights::Head>& head = adapter->class_head;
    QALOF_CHECK(options.task != weights::Task::kClassification || !head ||
                    head->outputs == options.num_labels,
                ErrorKind::kBadInput, "--adapter {}: its head has {} classes, the data {}",
                start.path, head ? head->outputs : 0, options.num_labels);
  }
}

void check_quantizers(const TrainOptions& options) {
  const bool learns = options.learn_steps != LearnSteps::kNone;
  const bool merged = options.adapter_form == AdapterForm::kMerged;
  const std::string method = to_string(options.method);
  QALOF_CHECK(!learns || has_widths(options.method), ErrorKind::kUsage,
              "--learn_steps: --method {} trains no widths, expected switch, joint, cpt, random or "
              "curriculum",
              method);
  QALOF_CHECK(!merged || options.method != Method::kFull, ErrorKind::kUsage,
              "--adapter_form merged: --method full has no adapters");
  check_positive("--learn_steps_rate", options.learn_steps_rate);
  QALOF_CHECK(!merged || options.init_lora == InitLora::kDefault, ErrorKind::kUsage,
              "--init_lora residual_svd: stands for what quantization loses beside the weights, "
              "--adapter_form merged is quantized with them");
  if (!learns && !merged) return;
  QALOF_CHECK(options.device == Device::kCpu, ErrorKind::kUnsupported,
              "--learn_steps and --adapter_form merged: implemented on --device cpu alone");
  QALOF_CHECK(options.ste_clip == 0, ErrorKind::kUsage,
              "--ste_clip {}: the original's mask contradicts --learn_steps and --adapter_form "
              "merged, which have masks of their own",
              options.ste_clip);
}

void check_losses(const TrainOptions& options) {
  check_number("--kd_alpha", options.kd_alpha, 0);
  QALOF_CHECK(options.kd_alpha <= 1, ErrorKind::kUsage, "--kd_alpha: found {}, expected 0..1",
              options.kd_alpha);
  check_number("--kd_beta", options.kd_beta, 0);
  for (const auto& [flag, value] :
       {std::pair{"--kd_temperature", options.kd_temperature},
        {"--contrastive_temperature", options.contrastive_temperature}}) {
    check_number(flag, value, kLeastTemperature);
  }
  check_number("--hidden_kd", options.hidden_kd, 0);
  check_number("--contrastive", options.contrastive, 0);
  QALOF_CHECK(!options.teacher_self || !options.teacher, ErrorKind::kUsage,
              "--teacher: expected self or one directory");
  const bool may_teach_itself = has_widths(options.method);
  QALOF_CHECK(!options.teacher_self || may_teach_itself, ErrorKind::kUsage,
              "--teacher self: --method {} has no higher width to learn from, expected a directory",
              to_string(options.method));
  const bool has_teacher = options.teacher || options.teacher_self ||
                           options.method == Method::kSwitch || options.method == Method::kJoint;
  QALOF_CHECK(has_teacher || (options.hidden_kd == 0 && options.contrastive == 0),
              ErrorKind::kUsage,
              "--hidden_kd and --contrastive compare with a teacher: add --teacher");
}

void check_adversarial(const TrainOptions& options) {
  const AdversarialOptions& adversarial = options.adversarial;
  QALOF_CHECK(adversarial.steps >= 0, ErrorKind::kUsage,
              "--adversarial_steps: found {}, expected at least 0", adversarial.steps);
  check_number("--adversarial_epsilon", adversarial.epsilon, 0);
  check_number("--adversarial_step_size", adversarial.step_size, 0);
  if (adversarial.steps == 0) {
    QALOF_CHECK(adversarial.epsilon == 0 && adversarial.step_size == 0, ErrorKind::kUsage,
                "--adversarial_epsilon and --adversarial_step_size: nothing is perturbed without "
                "--adversarial_steps");
    return;
  }
  QALOF_CHECK(adversarial.epsilon > 0, ErrorKind::kUsage,
              "--adversarial_steps {}: needs a positive --adversarial_epsilon", adversarial.steps);
  QALOF_CHECK(options.task != weights::Task::kLm, ErrorKind::kUnsupported,
              "--adversarial_steps: not implemented for --task lm, expected classification or qa");
}

Network uniform_network(int bits, const TrainOptions& options, const quant::PlanTarget& target) {
  Network network;
  network.name = fmt::format("w{}", bits);
  network.plan = uniform_plan(bits, options.kv_bits, target);
  network.plan.scheme = options.scheme;
  network.head_width = bits;
  return network;
}

// The plan of --precision with no linear below bits: the plan itself where none is.
Network raised_network(int bits, const TrainOptions& options, const quant::PlanTarget& target) {
  Network network;
  network.plan = *options.plan;
  for (quant::Precision& precision : network.plan.linears) {
    precision.weight.bits = std::max(precision.weight.bits, bits);
    precision.activation.bits = std::max(precision.activation.bits, bits);
  }
  network.name = network.plan == *options.plan ? "plan" : fmt::format("plan{}", bits);
  network.head_width = options.plan->head_width(target).bits;
  return network;
}

Network network_at(int bits, const TrainOptions& options, const quant::PlanTarget& target) {
  return options.plan ? raised_network(bits, options, target)
                      : uniform_network(bits, options, target);
}

// The networks of widths from high to low. Of a plan neighbouring ones may be the same; each stands
// once.
std::vector<Network> networks_of(const std::vector<int>& widths, const TrainOptions& options,
                                 const quant::PlanTarget& target) {
  std::vector<Network> networks;
  for (const int bits : widths) {
    Network network = network_at(bits, options, target);
    if (networks.empty() || !(networks.back().plan == network.plan))
      networks.push_back(std::move(network));
  }
  return networks;
}

// Widths of a network's adapters, from high to low. An explicit head may belong to a width that no
// linear has.
std::vector<int> adapter_widths(const Network& network) {
  std::set<int, std::greater<>> widths = {network.head_width};
  for (const quant::Precision& precision : network.plan.linears)
    widths.insert(precision.weight.bits);
  return {widths.begin(), widths.end()};
}

// Every width is a phase of its own.
std::vector<Phase> switch_phases(const TrainOptions& options, const quant::PlanTarget& target) {
  std::vector<Phase> phases;
  for (const Network& network : networks_of(trained_widths(options), options, target)) {
    Phase phase;
    phase.networks = {network};
    phase.name = network.name;
    phase.widths = adapter_widths(network);
    phase.has_head_per_width = !options.plan;
    if (!phases.empty()) {
      phase.teacher = phases.size() - 1;
      phase.head_from = phases.back().networks.front().head_width;
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

// All widths train in one phase; the walk chooses among them.
Phase walking_phase(const TrainOptions& options, const quant::PlanTarget& target) {
  Phase phase;
  phase.name = to_string(options.method);
  phase.widths = trained_widths(options);
  std::vector<int> served = phase.widths;
  if (options.method == Method::kCpt) {
    phase.walk = Walk::kCyclic;
    served.clear();
    for (int bits = options.max_bits; bits >= options.min_bits; --bits) served.push_back(bits);
  }
  if (options.method == Method::kRandom) phase.walk = Walk::kRandom;
  if (options.method == Method::kCurriculum) phase.walk = Walk::kDescend;
  if (options.plan) {
    phase.has_head_per_width = false;
    if (options.method == Method::kRandom) phase.around = options.plan;
  }
  // These two count networks by width.
  if (phase.walk == Walk::kCyclic || phase.walk == Walk::kDescend) {
    for (const int bits : served) phase.networks.push_back(network_at(bits, options, target));
  } else {
    phase.networks = networks_of(served, options, target);
  }
  return phase;
}

// full and lora: one network, which may be a plan of several widths.
Phase single_phase(const TrainOptions& options, const quant::PlanTarget& target) {
  Phase phase;
  Network& network = phase.networks.emplace_back();
  network.plan =
      options.plan ? *options.plan : uniform_plan(options.bf16 ? 16 : 32, options.kv_bits, target);
  network.head_width = network.plan.head_width(target).bits;
  if (options.method == Method::kLora) phase.widths = adapter_widths(network);
  phase.has_head_per_width = false;
  phase.name = options.method == Method::kFull ? "full"
               : phase.widths.size() == 1      ? fmt::format("w{}", phase.widths.front())
                                               : "plan";
  network.name = phase.name;
  return phase;
}

}  // namespace

std::vector<int> trained_widths(const TrainOptions& options) {
  std::set<int, std::greater<>> widths(options.bit_widths.begin(), options.bit_widths.end());
  if (widths.empty()) {
    switch (options.method) {
      case Method::kCpt:
        for (int bits = options.min_bits; bits <= options.max_bits; ++bits) widths.insert(bits);
        break;
      case Method::kRandom:
      case Method::kCurriculum:
        widths = {8, 7, 6, 5, 4};
        break;
      default:
        widths = {8, 4};
    }
  }
  if (options.plan && has_widths(options.method)) {
    for (const quant::Precision& precision : options.plan->linears)
      widths.insert(precision.weight.bits);
  }
  return {widths.begin(), widths.end()};
}

void check_options(const TrainOptions& options, const quant::PlanTarget& target) {
  check_steps(options);
  check_losses(options);
  check_adversarial(options);
  QALOF_CHECK(options.ste_clip == 0 || options.ste_clip == 2, ErrorKind::kUsage,
              "--ste_clip: found {}, expected 0 or 2", options.ste_clip);
  QALOF_CHECK(
      options.gradient_bits == 8 || options.gradient_bits == 16 || options.gradient_bits == 32,
      ErrorKind::kUsage, "--gradient_bits: found {}, expected 8, 16 or 32", options.gradient_bits);
  QALOF_CHECK(options.threads >= 0, ErrorKind::kUsage, "--threads: found {}, expected at least 1",
              options.threads);
  const quant::QuantScheme scheme = options.plan ? options.plan->scheme : options.scheme;
  QALOF_CHECK(
      scheme.is_seed() || options.device == Device::kCpu || options.method != Method::kFull,
      ErrorKind::kUnsupported,
      "--scheme {}: --method full in another scheme than seed is implemented on --device cpu alone",
      quant::to_string(scheme));
  QALOF_CHECK(scheme.kind == quant::CodeKind::kUniform, ErrorKind::kUnsupported,
              "--scheme {}: is for evaluation alone, training has seed and the group schemes",
              quant::to_string(scheme));
  QALOF_CHECK(!scheme.rotated || options.method != Method::kFull, ErrorKind::kUnsupported,
              "--scheme {}: --method full trains the weights that rot turns, expected a scheme "
              "without rot",
              quant::to_string(scheme));
  QALOF_CHECK(!scheme.rotated || options.init_lora != InitLora::kResidualSvd,
              ErrorKind::kUnsupported,
              "--scheme {}: rot is not implemented with --init_lora residual_svd, expected default",
              quant::to_string(scheme));
  QALOF_CHECK(!scheme.rotated || !owns_weights(options), ErrorKind::kUnsupported,
              "--scheme {}: rot is not implemented with --adapter_form merged or --learn_steps "
              "weights, expected a scheme without rot",
              quant::to_string(scheme));
  if (options.kv_bits) {
    QALOF_CHECK(quant::is_legal(quant::BitWidth{*options.kv_bits}), ErrorKind::kUsage,
                "--kv_bits: found {}, expected 2..8, 16 or 32", *options.kv_bits);
  }
  check_quantizers(options);
  if (has_widths(options.method)) check_widths(options);
  check_start(options);
  QALOF_CHECK(options.adapter_form != AdapterForm::kCascaded ||
                  (has_widths(options.method) && options.method != Method::kSwitch),
              ErrorKind::kUsage,
              "--adapter_form cascaded: --method {} does not train several widths together, "
              "expected joint, cpt, random or curriculum",
              to_string(options.method));
  QALOF_CHECK(options.init_lora == InitLora::kDefault || options.method != Method::kFull,
              ErrorKind::kUsage, "--init_lora: --method full trains no adapters");
  QALOF_CHECK(options.init_lora == InitLora::kDefault || options.lora_alpha > 0, ErrorKind::kUsage,
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
  if (options.hidden_kd > 0 || options.contrastive > 0)
    check_equal("the width of its states", config.hidden, student.hidden);
  if (options.hidden_kd > 0)
    check_equal("the number of its blocks", config.num_layers, student.num_layers);
  const quant::QuantScheme scheme = teacher.plan.scheme;
  QALOF_CHECK(scheme.kind == quant::CodeKind::kUniform, ErrorKind::kUnsupported,
              "--teacher {}: runs in scheme {}, training has seed, the group schemes and rot",
              teacher.name, quant::to_string(scheme));
}

quant::PrecisionPlan uniform_plan(int bits, std::optional<int> kv_bits,
                                  const quant::PlanTarget& target) {
  const quant::BitWidth width{bits};
  const quant::BitWidth kv{kv_bits.value_or(bits)};
  quant::PrecisionPlan plan;
  plan.linears.assign(target.linear_names.size(), quant::Precision{width, width});
  plan.k.assign(target.num_layers, std::vector<quant::BitWidth>(target.num_kv_heads, kv));
  plan.v = plan.k;
  plan.default_width = width;
  return plan;
}

std::vector<Phase> make_phases(const TrainOptions& options, const quant::PlanTarget& target) {
  check_options(options, target);
  if (options.method == Method::kSwitch) return switch_phases(options, target);
  if (has_widths(options.method)) return {walking_phase(options, target)};
  return {single_phase(options, target)};
}

}  // namespace qalof::train
