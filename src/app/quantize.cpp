#include "app/quantize.h"

#include "core/error.h"
#include "core/file.h"

namespace qalof::app {

QuantizeResult run_quantize(const QuantizeOptions& options, Observer& observer) {
  QALOF_CHECK(!options.output.empty(), ErrorKind::kUsage, "--output is missing");
  QALOF_CHECK(!options.bit_widths.empty() || !options.model.precision.empty(), ErrorKind::kUsage,
              "give --bit_widths (e.g. 8 4) or --precision (a plan)");
  QALOF_CHECK(!path_exists(options.model.model) || is_directory(options.model.model),
              ErrorKind::kUsage, "{}: quantize reads a model directory with float weights",
              options.model.model);
  const ModelHandle handle = open_model(options.model, observer);
  runtime::PackRequest request;
  request.base = handle.base;
  request.adapters = handle.adapters;
  request.widths = options.bit_widths;
  if (!options.model.precision.empty()) request.plan = handle.plan;
  request.scheme = *handle.plan.scheme;
  request.lm_head_bits = options.lm_head_bits;
  request.tokenizer_directory = options.model.model;
  ThreadPool pool(choose_threads(options.model.threads));
  return {runtime::write_packed_file(options.output, request, pool), options.output,
          quant::to_string(request.scheme)};
}

}  // namespace qalof::app
