// Maps each method to a scheme and plan, calibrates where it must, and writes the packed file.
#include "app/quantize.h"

#include <cmath>
#include <map>

#include "app/hub.h"
#include "app/output_check.h"
#include "core/error.h"
#include "core/file.h"

namespace qalof::app {

namespace {

// The scheme that implements a method, and its default plan; empty for methods without a fixed one.
struct MethodDefaults {
  std::string scheme, precision;
};

MethodDefaults defaults_of(const QuantizeOptions& options) {
  const bool dq = options.double_quant;
  switch (options.ptq) {
    case PtqMethod::kMinMax:
    case PtqMethod::kSmoothQuant:
    case PtqMethod::kGptq:
      return {};
    case PtqMethod::kInt8:
      return {"int8", "w8a8"};
    case PtqMethod::kLlmInt8: {
      quant::QuantScheme scheme = quant::parse_scheme("llm_int8", "--ptq");
      scheme.outlier_threshold = options.outlier_threshold.value_or(scheme.outlier_threshold);
      return {to_string(scheme), "w8a8"};
    }
    case PtqMethod::kNf4:
      return {dq ? "nf4-dq" : "nf4", "w4a16"};
    case PtqMethod::kFp4:
      return {dq ? "fp4-dq" : "fp4", "w4a16"};
  }
  return {};
}

void check_options(const QuantizeOptions& options) {
  const PtqMethod ptq = options.ptq;
  QALOF_CHECK(!options.double_quant || ptq == PtqMethod::kNf4 || ptq == PtqMethod::kFp4,
              ErrorKind::kUsage, "--double_quant: is for --ptq nf4 and fp4");
  QALOF_CHECK(!options.outlier_threshold || ptq == PtqMethod::kLlmInt8, ErrorKind::kUsage,
              "--threshold: is for --ptq llm_int8");
  const bool calibrates = ptq == PtqMethod::kSmoothQuant || ptq == PtqMethod::kGptq;
  QALOF_CHECK(calibrates == !options.calibration.data.file.empty(), ErrorKind::kUsage,
              "--calibration_file: {}",
              calibrates ? "is missing, --ptq smoothquant and gptq look at activations"
                         : "is for --ptq smoothquant and gptq");
  QALOF_CHECK(calibrates || !options.model.parse_special, ErrorKind::kUsage,
              "--parse_special: is for --calibration_file");
  QALOF_CHECK(ptq != PtqMethod::kGptq || options.bit_widths.size() <= 1, ErrorKind::kUsage,
              "--bit_widths: --ptq gptq makes codes of one width, or of a plan (--precision)");
  const float threshold = options.outlier_threshold.value_or(1.0F);
  QALOF_CHECK(threshold > 0 && std::isfinite(threshold), ErrorKind::kUsage,
              "--threshold: found {}, expected a positive number", threshold);
}

PostTrained calibrate(const QuantizeOptions& options, const ModelHandle& handle,
                      const text::TextEncoder& encoder, ParallelFor& parallel,
                      const Processes& processes) {
  Observer& observer = processes.observer();
  if (handle.adapters) {
    for (const auto& [width, adapter] : handle.adapters->by_width) {
      QALOF_CHECK(!weights::owns_weights(*adapter), ErrorKind::kUnsupported,
                  "{}: the adapter of {} bits has weights of its own (merged, or with learned "
                  "quantizer values), --ptq smoothquant and gptq make weights of the base",
                  handle.adapters->path, width);
    }
  }
  observer.status("reading " + options.calibration.data.file);
  const auto windows =
      calibration_windows(make_reading(handle, encoder, observer), options.calibration);
  if (options.ptq == PtqMethod::kSmoothQuant) {
    // Rotating the residual stream folds norms into weights, which would undo smoothing.
    QALOF_CHECK(!handle.plan.scheme->rotations.residual, ErrorKind::kUnsupported,
                "--scheme {}: --ptq smoothquant moves ranges from norms to weights, which "
                "rot-residual folds into one; expected a scheme without it (rot has it)",
                quant::to_string(*handle.plan.scheme));
    return smooth_model(handle.base, handle.adapters, windows, options.smooth_alpha, parallel,
                        processes);
  }
  quant::PlanSpec spec = handle.plan;
  if (!options.bit_widths.empty())
    spec = quant::parse_plan(std::to_string(options.bit_widths.front()));
  spec.scheme = handle.plan.scheme;
  const quant::PrecisionPlan plan = quant::resolve(spec, handle.base->target());
  QALOF_CHECK(plan.scheme.kind == quant::CodeKind::kUniform && !plan.scheme.nested,
              ErrorKind::kUsage,
              "--scheme {}: --ptq gptq makes codes of scheme minmax or of groups, not nested",
              quant::to_string(plan.scheme));
  return gptq_model(handle.base, handle.adapters, plan, windows, parallel, processes);
}

}  // namespace

PtqMethod parse_ptq_method(const std::string& name) {
  const std::map<std::string, PtqMethod> methods = {
      {"minmax", PtqMethod::kMinMax},    {"int8", PtqMethod::kInt8},
      {"llm_int8", PtqMethod::kLlmInt8}, {"nf4", PtqMethod::kNf4},
      {"fp4", PtqMethod::kFp4},          {"smoothquant", PtqMethod::kSmoothQuant},
      {"gptq", PtqMethod::kGptq}};
  const auto found = methods.find(name);
  QALOF_CHECK(found != methods.end(), ErrorKind::kUsage,
              "--ptq: found {:.40}, expected minmax, int8, llm_int8, nf4, fp4, smoothquant or "
              "gptq",
              name);
  return found->second;
}

QuantizeResult run_quantize(const QuantizeOptions& given, const Processes& processes) {
  Observer& observer = processes.observer();
  QuantizeOptions options = given;
  check_options(options);
  QALOF_CHECK(processes.count() == 1 || !options.calibration.data.file.empty(), ErrorKind::kUsage,
              "quantize: runs in one process, and the launcher started {}; what several share is "
              "the calibration of --ptq smoothquant and gptq",
              processes.count());
  options.model.model = local_path(options.model.model, io::HubUse::kModel, observer);
  options.model.adapter = local_path(options.model.adapter, io::HubUse::kAdapter, observer);
  if (const MethodDefaults method = defaults_of(options); !method.scheme.empty()) {
    QALOF_CHECK(options.model.scheme.empty() || options.model.scheme == method.scheme,
                ErrorKind::kUsage, "--scheme {}: contradicts --ptq, whose scheme is {}",
                options.model.scheme, method.scheme);
    options.model.scheme = method.scheme;
    if (options.bit_widths.empty() && options.model.precision.empty())
      options.model.precision = method.precision;
  }
  QALOF_CHECK(!options.output.empty(), ErrorKind::kUsage, "--output is missing");
  check_output_is_no_input(options.output,
                           {options.model.model, options.model.adapter, options.model.precision,
                            options.calibration.data.file});
  if (options.bit_widths.empty() && options.model.precision.empty()) {
    if (options.ptq == PtqMethod::kSmoothQuant) options.model.precision = "w8a8";
    if (options.ptq == PtqMethod::kGptq) options.model.precision = "w4a16";
  }
  QALOF_CHECK(!options.bit_widths.empty() || !options.model.precision.empty(), ErrorKind::kUsage,
              "give --bit_widths (e.g. 8 4) or --precision (a plan)");
  QALOF_CHECK(!path_exists(options.model.model) || is_directory(options.model.model),
              ErrorKind::kUsage, "{}: quantize reads a model directory with float weights",
              options.model.model);
  options.model.shared_memory = processes.shared_memory();
  const ModelHandle handle = open_model(options.model, observer);
  weights::PackRequest request;
  request.base = handle.base;
  request.adapters = handle.adapters;
  request.widths = options.bit_widths;
  if (!options.model.precision.empty()) request.plan = handle.plan;
  request.scheme = *handle.plan.scheme;
  request.lm_head_bits = options.lm_head_bits;
  request.tokenizer_directory = options.model.model;
  ThreadPool pool(choose_threads(options.model.threads));
  QuantizeResult result;
  if (!options.calibration.data.file.empty()) {
    check_same_inputs(processes, handle, "calibration_file", options.calibration.data.file);
    const text::TextEncoder encoder = open_encoder(handle, observer);
    result.special_tokens = encoder.description(
        options.calibration.tasks.at(options.calibration.task, tasks::Use::kCalibrate)
            .reads_pairs());
    PostTrained trained = calibrate(options, handle, encoder, pool, processes);
    request.base = std::move(trained.base);
    request.adapters = std::move(trained.adapters);
    request.method = options.ptq == PtqMethod::kGptq ? "gptq" : "smoothquant";
    result.layers = std::move(trained.layers);
  }
  if (!processes.lead()) {
    processes.wait_for_all();
    return result;
  }
  request.on_linear = [&](std::size_t done, std::size_t total) {
    observer.progress("linears packed", done, total, "");
    if (done == total) observer.status("writing " + options.output);
  };
  result.summary = weights::write_packed_file(options.output, request, pool);
  processes.wait_for_all();
  observer.status("");
  result.output = options.output;
  result.scheme = quant::to_string(request.scheme);
  return result;
}

}  // namespace qalof::app
