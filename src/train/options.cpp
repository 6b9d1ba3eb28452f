#include "train/options.h"

#include "core/error.h"

namespace qalof::train {

Method parse_method(const std::string& text) {
  for (const Method method : {Method::kFull, Method::kLora, Method::kSwitch}) {
    if (text == to_string(method)) return method;
  }
  fail(ErrorKind::kUsage, "--method: found {}, expected full, lora or switch", text);
}

LrSchedule parse_lr_schedule(const std::string& text) {
  if (text == "cosine") return LrSchedule::kCosine;
  if (text == "linear") return LrSchedule::kLinear;
  if (text == "constant") return LrSchedule::kConstant;
  fail(ErrorKind::kUsage, "--lr_scheduler_type: found {}, expected cosine, linear or constant",
       text);
}

Device parse_device(const std::string& text) {
  if (text == "cpu") return Device::kCpu;
  if (text == "cuda") return Device::kCuda;
  fail(ErrorKind::kUsage, "--device: found {}, expected cpu or cuda", text);
}

std::string to_string(Method method) {
  switch (method) {
    case Method::kFull:
      return "full";
    case Method::kLora:
      return "lora";
    case Method::kSwitch:
      break;
  }
  return "switch";
}

}  // namespace qalof::train
