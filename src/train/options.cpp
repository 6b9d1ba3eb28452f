#include "train/options.h"

#include "core/error.h"

namespace qalof::train {

namespace {

template <typename Value>
struct Named {
  const char* name;
  Value value;
};
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

template <typename Value, std::size_t count>
Value parse(const char* flag, const Named<Value> (&known)[count], const std::string& text) {
  std::string names;
  for (std::size_t i = 0; i < count; ++i) {
    if (text == known[i].name) return known[i].value;
    names += fmt::format("{}{}", i == 0 ? "" : i + 1 == count ? " or " : ", ", known[i].name);
  }
  fail(ErrorKind::kUsage, "{}: found {}, expected {}", flag, text, names);
}

}  // namespace

Method parse_method(const std::string& text) { return parse("--method", kMethods, text); }
LrSchedule parse_lr_schedule(const std::string& text) {
  return parse("--lr_scheduler_type", kLrSchedules, text);
}
Device parse_device(const std::string& text) { return parse("--device", kDevices, text); }
RandomWidths parse_random_widths(const std::string& text) {
  return parse("--random_widths", kRandomWidths, text);
}
Curriculum parse_curriculum(const std::string& text) {
  return parse("--curriculum", kCurricula, text);
}
LearnSteps parse_learn_steps(const std::string& text) {
  return parse("--learn_steps", kLearnSteps, text);
}
PerturbationNorm parse_perturbation_norm(const std::string& text) {
  return parse("--adversarial_norm", kNorms, text);
}
KdLoss parse_kd_loss(const std::string& text) { return parse("--kd_loss", kKdLosses, text); }
AdapterForm parse_adapter_form(const std::string& text) {
  return parse("--adapter_form", kAdapterForms, text);
}
InitLora parse_init_lora(const std::string& text) { return parse("--init_lora", kInitLora, text); }

std::string to_string(Method method) {
  for (const auto& [name, value] : kMethods) {
    if (value == method) return name;
  }
  return "";
}

}  // namespace qalof::train
