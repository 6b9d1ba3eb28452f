// The options of training as they are listed for the command line. See options.h.
#include "train/options.h"

#include "core/error.h"
#include "core/flag_range.h"

namespace qalof::train {

namespace {

constexpr Named<Method> kMethods[] = {{"full", Method::kFull},
                                      {"lora", Method::kLora},
                                      {"switch", Method::kSwitch},
                                      {"joint", Method::kJoint},
                                      {"cpt", Method::kCpt},
                                      {"random", Method::kRandom},
                                      {"curriculum", Method::kCurriculum}};
constexpr Named<LrSchedule> kLrSchedules[] = {{"cosine", LrSchedule::kCosine},
                                              {"linear", LrSchedule::kLinear},
                                              {"constant", LrSchedule::kConstant}};
constexpr Named<Device> kDevices[] = {{"cpu", Device::kCpu}, {"cuda", Device::kCuda}};
constexpr Named<RandomWidths> kRandomWidths[] = {
    {"step", RandomWidths::kStep}, {"layer", RandomWidths::kLayer}, {"both", RandomWidths::kBoth}};
constexpr Named<Curriculum> kCurricula[] = {{"schedule", Curriculum::kSchedule},
                                            {"loss", Curriculum::kLoss}};
constexpr Named<AdapterForm> kAdapterForms[] = {{"separate", AdapterForm::kSeparate},
                                                {"cascaded", AdapterForm::kCascaded},
                                                {"merged", AdapterForm::kMerged}};
constexpr Named<InitLora> kInitLora[] = {{"default", InitLora::kDefault},
                                         {"residual_svd", InitLora::kResidualSvd}};
constexpr Named<PerturbationNorm> kNorms[] = {{"l2", PerturbationNorm::kL2},
                                              {"linf", PerturbationNorm::kLinf}};
constexpr Named<KdLoss> kKdLosses[] = {{"kl", KdLoss::kKl}, {"mse", KdLoss::kMse}};
constexpr Named<LearnSteps> kLearnSteps[] = {{"none", LearnSteps::kNone},
                                             {"weights", LearnSteps::kWeights},
                                             {"activations", LearnSteps::kActivations},
                                             {"all", LearnSteps::kAll}};

constexpr const char* kAutoBits = "auto";
// Of what divides logits and cosines.
constexpr double kLeastTemperature = 1e-6;
// With its products with the inputs of a linear far from what a tensor may hold.
constexpr std::int64_t kMostRank = 65'536;
constexpr std::uint64_t kMostMegabytes = std::uint64_t{1} << 40;

}  // namespace

std::string to_string(Method method) {
  for (const auto& [name, value] : kMethods) {
    if (value == method) return name;
  }
  return "";
}

Method parse_method(const std::string& text) {
  for (const auto& [name, value] : kMethods) {
    if (text == name) return value;
  }
  fail(ErrorKind::kUsage, "--method: found {}, expected one of those that qalof train -h lists",
       text);
}

Device parse_device(const std::string& text) {
  for (const auto& [name, value] : kDevices) {
    if (text == name) return value;
  }
  fail(ErrorKind::kUsage, "--device: found {}, expected cpu or cuda", text);
}

void WidthOptions::list(OptionList& list) {
  list.option("--bit_widths", bit_widths,
              "widths that get an adapter; default 8 4, random and curriculum 8 7 6 5 4, cpt every "
              "width of its range")
      ->delimiter(',');
  list.option("--kv_bits", kv_bits,
              "bits of K and V where not the width's own; 16 is the original's form", "0");
  list.option("--num_cyclic_period", num_cyclic_period, "cpt: cycles of the run")
      ->within(1, kMostSteps);
  list.custom("--min_bits", Option::Kind::kNumber,
              find_min_bits ? kAutoBits : std::to_string(min_bits),
              "cpt: where each cycle begins; auto = the fewest bits at which a short training "
              "learns at least half as much as at --max_bits",
              [this](const std::vector<std::string>& texts) -> std::string {
                find_min_bits = texts.back() == kAutoBits;
                if (find_min_bits || read_value(texts.back(), min_bits).empty()) return "";
                return fmt::format("found {}, expected auto or a number", texts.back());
              });
  list.option("--max_bits", max_bits, "cpt: where each cycle ends");
  list.choice("--random_widths", random_widths, kRandomWidths,
              "random: step (one width for all linears), layer (one for each) or both (either, by "
              "step)");
  list.choice("--curriculum", curriculum, kCurricula,
              "curriculum: a lower width after equal parts of the run (schedule) or where the loss "
              "stops falling (loss)");
}

void QuantizerOptions::list(OptionList& list) {
  list.choice("--learn_steps", learn_steps, kLearnSteps,
              "quantizer values learned per width: weights (a step per row or group), activations "
              "(a clip factor per linear), all or none");
  list.option("--learn_steps_rate", learn_steps_rate,
              "learning rate of --learn_steps, as a factor on --learning_rate")
      ->positive();
  list.option("--ste_clip", ste_clip,
              "2: no gradient where |x| >= 2, as the original; 0: everywhere");
  list.option("--gradient_bits", gradient_bits,
              "products of gradients with integer weights: 32, 16, or 8 with stochastic rounding");
}

void AdapterOptions::list(OptionList& list) {
  list.choice("--adapter_form", adapter_form, kAdapterForms,
              "separate: an adapter per width; cascaded: one for all, of which a width uses the "
              "first ranks (joint, cpt, random, curriculum); merged: an adapter per width, added "
              "to the weights before they are quantized, so that nothing is added at run time");
  list.option("--lora_r", lora_r,
              "rank of the adapters; cascaded: of widths to 4 bits, 5 and 6 use two thirds, more "
              "bits one third")
      ->within(1, kMostRank);
  list.option("--lora_alpha", lora_alpha, "scale of the adapters is alpha / r")->at_least(0);
  list.choice("--init_lora", init_lora, kInitLora,
              "default: B zero; residual_svd: B A holds the largest singular values of what "
              "quantization loses of W (LoftQ with one round)");
}

void ScheduleOptions::list(OptionList& list) {
  list.option("--learning_rate", learning_rate, "peak learning rate")->at_least(0);
  list.choice("--lr_scheduler_type", lr_scheduler_type, kLrSchedules,
              "how the learning rate falls after the peak");
  list.option("--warmup_steps", warmup_steps, "steps from 0 to the peak")->within(0, kMostSteps);
  list.option("--max_steps", max_steps, "optimizer steps a phase; 0 = --num_train_epochs decides")
      ->within(0, kMostSteps);
  list.option("--max_tokens", max_tokens,
              "instead of --max_steps: tokens a phase, a text that several widths read in a step "
              "counting for each; the nearest number of steps");
  list.option("--num_train_epochs", num_train_epochs, "passes over the data a phase, more than 0");
  list.option("--per_device_train_batch_size", batch_size, "windows a forward pass")
      ->within(1, kMostCounted);
  list.option("--gradient_accumulation_steps", gradient_accumulation_steps,
              "forward passes an optimizer step")
      ->within(1, kMostCounted);
  list.flag("--activation_checkpointing", activation_checkpointing,
            "keep the inputs of blocks alone and compute the rest again in the backward pass: far "
            "less memory, about a third more time, the same adapters")
      ->incidental();
  list.flag("--group_by_length", group_by_length,
            "windows of like length in one step (docs/training.md)");
  list.option("--max_grad_norm", max_grad_norm, "gradient clipping; 0 = none")->at_least(0);
  list.option("--weight_decay", weight_decay, "decoupled weight decay of matrices")->at_least(0);
}

void DistillationOptions::list(OptionList& list) {
  list.choice("--kd_loss", kd_loss, kKdLosses,
              "distillation of logits; default: mse among the widths of joint, else kl");
  list.option("--kd_alpha", kd_alpha, "kl: share of distillation beside hard labels")->at_least(0);
  list.option("--kd_temperature", kd_temperature, "kl: temperature")->at_least(kLeastTemperature);
  list.option("--kd_beta", kd_beta, "mse: weight of distillation")->at_least(0);
  list.custom("--teacher_cache_mb", Option::Kind::kNumber,
              std::to_string(teacher_cache_bytes >> 20),
              "outputs of a teacher that stays as it is are kept up to this size; 0 = none",
              [this](const std::vector<std::string>& texts) -> std::string {
                std::uint64_t megabytes = 0;
                std::string reason = read_value(texts.back(), megabytes);
                if (!reason.empty()) return reason;
                if (megabytes > kMostMegabytes)
                  return fmt::format("found {}, expected at most {}", megabytes, kMostMegabytes);
                teacher_cache_bytes = megabytes << 20;
                return "";
              })
      ->incidental();
  list.option(
          "--hidden_kd", hidden_kd,
          "weight of the relative squared error of the states after every block; needs a teacher")
      ->at_least(0);
  list.option("--contrastive", contrastive,
              "weight of telling the teacher's state of a token from those of other tokens")
      ->at_least(0);
  list.option("--contrastive_temperature", contrastive_temperature,
              "divides the cosines of --contrastive")
      ->at_least(kLeastTemperature);
}

void AdversarialOptions::list(OptionList& list) {
  list.option("--adversarial_steps", steps,
              "qa, classification: examples are moved in embedding space by so many steps of "
              "projected gradient ascent against the network that then trains on them; 0 = not");
  list.option("--adversarial_epsilon", epsilon, "how far a token's embedding moves at most")
      ->at_least(0);
  list.option("--adversarial_step_size", step_size, "length of a step; 0 = 2.5 epsilon / steps")
      ->at_least(0);
  list.choice("--adversarial_norm", norm, kNorms,
              "what epsilon bounds: l2 (the length of a token's move) or linf (each number of it)");
}

void LoggingOptions::list(OptionList& list) {
  list.option("--logging_steps", logging_steps,
              "steps between lines of metrics.jsonl; what is shown meanwhile goes by time")
      ->within(0, kMostSteps)
      ->incidental();
  list.option("--eval_steps", eval_steps, "steps between evaluations; 0 = after each phase only")
      ->within(0, kMostSteps)
      ->incidental();
  list.option("--save_steps", save_steps,
              "steps between checkpoints; 0 = only where the run is stopped by a signal")
      ->within(0, kMostSteps)
      ->incidental();
}

void TrainOptions::list_method(OptionList& list) {
  list.choice("--method", method, kMethods,
              "full, lora (no quantization unless --precision), or an adapter per width: switch, "
              "joint, cpt, random, curriculum (docs/training.md)");
  list.flag("--bf16", bf16, "lora, full: linears in bfloat16");
}

void TrainOptions::list(OptionList& list) {
  list.group("method");
  list_method(list);
  widths.list(list);
  list.group("precision");
  quantizers.list(list);
  list.group("adapters");
  adapters.list(list);
  list.group("schedule");
  schedule.list(list);
  list.option("--seed", seed, "seed of data order and fresh weights");
  list.group("losses");
  distillation.list(list);
  adversarial.list(list);
  list.group("checkpoints");
  logging.list(list);
  list.group("machine");
  list.choice("--device", device, kDevices, "where it trains");
}

}  // namespace qalof::train
