#include "train/phases.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"

namespace qalof::train {

namespace {

std::vector<int> sorted_widths(const TrainOptions& options) {
  const std::set<int, std::greater<>> widths(options.bit_widths.begin(), options.bit_widths.end());
  return {widths.begin(), widths.end()};
}

void check_number(const char* flag, double value, double low) {
  QALOF_CHECK(std::isfinite(value) && value >= low, ErrorKind::kUsage,
              "{}: found {}, expected a finite number of at least {}", flag, value, low);
}

}  // namespace

void check_options(const TrainOptions& options, const quant::PlanTarget& target) {
  QALOF_CHECK(
      options.task != runtime::Task::kClassification, ErrorKind::kUnsupported,
      "--task classification: training of classifiers is not implemented, expected qa or lm");
  check_number("--learning_rate", options.learning_rate, 0);
  QALOF_CHECK(options.learning_rate <= 1e30, ErrorKind::kUsage,
              "--learning_rate: found {}, expected at most 1e30", options.learning_rate);
  check_number("--max_grad_norm", options.max_grad_norm, 0);
  check_number("--weight_decay", options.weight_decay, 0);
  check_number("--kd_alpha", options.kd_alpha, 0);
  check_number("--num_train_epochs", options.num_train_epochs, 0);
  check_number("--lora_alpha", options.lora_alpha, 0);
  QALOF_CHECK(options.kd_alpha <= 1, ErrorKind::kUsage, "--kd_alpha: found {}, expected 0..1",
              options.kd_alpha);
  QALOF_CHECK(std::isfinite(options.kd_temperature) && options.kd_temperature > 0,
              ErrorKind::kUsage, "--kd_temperature: found {}, expected a positive number",
              options.kd_temperature);
  QALOF_CHECK(options.ste_clip == 0 || options.ste_clip == 2, ErrorKind::kUsage,
              "--ste_clip: found {}, expected 0 or 2", options.ste_clip);
  QALOF_CHECK(options.lora_r >= 1, ErrorKind::kUsage, "--lora_r: found 0, expected at least 1");
  QALOF_CHECK(
      options.batch_size >= 1 && options.gradient_accumulation_steps >= 1, ErrorKind::kUsage,
      "--per_device_train_batch_size and --gradient_accumulation_steps: expected at least 1");
  QALOF_CHECK(options.warmup_steps >= 0 && options.max_steps >= 0, ErrorKind::kUsage,
              "--warmup_steps and --max_steps: expected at least 0");
  QALOF_CHECK(
      options.gradient_bits == 8 || options.gradient_bits == 16 || options.gradient_bits == 32,
      ErrorKind::kUsage, "--gradient_bits: found {}, expected 8, 16 or 32", options.gradient_bits);
  QALOF_CHECK(options.threads >= 0, ErrorKind::kUsage, "--threads: found {}, expected at least 1",
              options.threads);
  const quant::QuantScheme scheme = options.plan ? options.plan->scheme : options.scheme;
  QALOF_CHECK(scheme.is_seed() || options.device == Device::kCpu, ErrorKind::kUnsupported,
              "--scheme {}: implemented on --device cpu alone, cuda has seed",
              quant::to_string(scheme));
  if (options.kv_bits) {
    QALOF_CHECK(quant::is_legal(quant::BitWidth{*options.kv_bits}), ErrorKind::kUsage,
                "--kv_bits: found {}, expected 2..8, 16 or 32", *options.kv_bits);
  }
  if (options.plan) {
    QALOF_CHECK(
        options.method != Method::kSwitch, ErrorKind::kUsage,
        "--precision: --method switch trains the widths of --bit_widths, use --method lora");
    QALOF_CHECK(!options.bf16, ErrorKind::kUsage,
                "--bf16: --precision already names the precision");
    QALOF_CHECK(options.plan->linears.size() == target.linear_names.size(), ErrorKind::kInternal,
                "plan has {} linears, expected {}", options.plan->linears.size(),
                target.linear_names.size());
  }
  if (options.method == Method::kSwitch) {
    QALOF_CHECK(
        !options.bf16, ErrorKind::kUsage,
        "--bf16: --method switch trains the widths of --bit_widths, add 16 to them instead");
    QALOF_CHECK(!options.bit_widths.empty(), ErrorKind::kUsage,
                "--bit_widths: found none, expected widths such as 8 4");
    for (const int bits : options.bit_widths) {
      QALOF_CHECK(quant::is_legal(quant::BitWidth{bits}), ErrorKind::kUsage,
                  "--bit_widths: found {}, expected 2..8, 16 or 32", bits);
    }
  }
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
  std::vector<Phase> phases;
  if (options.method == Method::kSwitch) {
    for (const int bits : sorted_widths(options)) {
      Phase phase;
      phase.name = fmt::format("w{}", bits);
      phase.plan = uniform_plan(bits, options.kv_bits, target);
      phase.plan.scheme = options.scheme;
      phase.widths = {bits};
      phase.head_width = bits;
      if (!phases.empty()) {
        phase.teacher = phases.size() - 1;
        phase.head_from = phases.back().head_width;
      }
      phases.push_back(std::move(phase));
    }
    return phases;
  }
  Phase phase;
  phase.plan =
      options.plan ? *options.plan : uniform_plan(options.bf16 ? 16 : 32, options.kv_bits, target);
  phase.head_width = phase.plan.head_width(target).bits;
  if (options.method == Method::kLora) {
    std::set<int, std::greater<>> widths;
    for (const quant::Precision& precision : phase.plan.linears)
      widths.insert(precision.weight.bits);
    widths.insert(phase.head_width);  // an explicit head may belong to a width no linear has
    phase.widths.assign(widths.begin(), widths.end());
  }
  phase.name = options.method == Method::kFull ? "full"
               : phase.widths.size() == 1      ? fmt::format("w{}", phase.widths.front())
                                               : "plan";
  phases.push_back(std::move(phase));
  return phases;
}

}  // namespace qalof::train
