// `qalof quantize`: options, and sizes of the packed file by width.
#include "app/quantize.h"
#include "app/run_journal.h"
#include "cli/commands.h"
#include "cli/format.h"

namespace qalof::cli {

void run_quantize(std::vector<std::string> arguments) {
  const std::vector<std::string> given = arguments;
  app::QuantizeOptions options;
  app::ProcessOptions process_options;
  std::string ptq = "minmax";
  float threshold = 6.0F;
  CommandLine line(
      "quantize",
      "Writes a packed file: a model at given widths with adapters, heads and tokenizer.",
      "  qalof quantize --model_name_or_path gpt2 --adapter out --bit_widths 8 4 --output "
      "gpt2.qalof\n"
      "  qalof quantize --model_name_or_path gpt2 --precision plan.json --output "
      "gpt2-hybrid.qalof\n"
      "  qalof quantize --model_name_or_path gpt2 --ptq nf4 --double_quant --output "
      "gpt2-nf4.qalof\n",
      std::move(arguments));
  app::list_model_options(line, options.model);
  line.group("method");
  line.option("--bit_widths", options.bit_widths, "weight widths to store, each for every linear")
      ->delimiter(',');
  line.option("--lm_head_bits", options.lm_head_bits,
              "LM heads to store: 4, 8, 16, 32, the first runs by default; none: a head of the "
              "embedding's bfloat16 is made when the file is opened")
      ->delimiter(',');
  line.option("--ptq", ptq,
              "post-training method: minmax (the scheme's own codes); int8 (8 bits a row, w8a8), "
              "llm_int8 (the same, large activations stay floats), nf4, fp4 (4-bit codebooks, "
              "w4a16), smoothquant (ranges move from activations to weights), gptq (errors fed "
              "forward)");
  line.flag("--double_quant", options.double_quant, "nf4, fp4: scales in 8 bits");
  Option* given_threshold = line.option("--threshold", threshold,
                                        "llm_int8: activations of at least this size stay floats");
  line.group("data");
  line.option("--calibration_file", options.calibration.data.file,
              "smoothquant, gptq: a file of --task");
  line.option("--calibration_samples", options.calibration.samples, "windows of it, the first");
  line.option("--max_seq_length", options.calibration.data.max_seq_length,
              "window in tokens, at most the model's positions", "384");
  options.calibration.tasks.list(line, options.calibration.task, tasks::Use::kCalibrate);
  app::list_text_options(line, options.model);
  line.group("method");
  line.option("--smooth_alpha", options.smooth_alpha,
              "smoothquant: 0 leaves ranges to activations, 1 moves all to weights");
  line.group("output");
  line.option("--output", options.output, "file to write")->required();
  process_options.list(line);
  line.parse();
  options.ptq = app::parse_ptq_method(ptq);
  if (given_threshold->count() > 0) options.outlier_threshold = threshold;
  const app::Processes processes =
      command_processes("quantize", given, process_options, options.model.threads, line.observer());
  app::QuantizeResult result;
  run_together(processes, [&] {
    processes.check_same({{"arguments", given}}, app::member_difference);
    result = app::run_quantize(options, processes);
  });
  if (!processes.lead()) return;
  const weights::PackSummary& summary = result.summary;
  const auto width_json = [](const weights::PackSummary::Width& width) {
    return Json{
        {"bits", width.bits}, {"stored_bits", width.container_bits}, {"bytes", width.bytes}};
  };
  Json widths = Json::array(), lm_head = Json::array();
  std::vector<std::vector<std::string>> rows = {{"width", "stored as", "bytes"}};
  for (const auto& width : summary.widths) {
    widths.push_back(width_json(width));
    const bool is_part = width.container_bits < width.bits;  // nested codes
    rows.push_back({fmt::format("{} bits", width.bits),
                    fmt::format("{} bits{}", width.container_bits, is_part ? " more" : ""),
                    bytes_text(width.bytes)});
  }
  for (const auto& width : summary.lm_head) {
    lm_head.push_back(width_json(width));
    rows.push_back({fmt::format("LM head {} bits", width.bits),
                    fmt::format("{} bits", width.container_bits), bytes_text(width.bytes)});
  }
  Json layers = Json::array();
  std::vector<std::vector<std::string>> errors = {{"linear", "nearest", "gptq"}};
  for (const app::LayerError& layer : result.layers) {
    layers.push_back(
        {{"name", layer.name}, {"nearest_error", layer.nearest}, {"error", layer.error}});
    errors.push_back(
        {layer.name, fmt::format("{:.6f}", layer.nearest), fmt::format("{:.6f}", layer.error)});
  }
  Json json = {{"bytes", summary.bytes},
               {"layers", layers},
               {"bits_per_weight", summary.bits_per_weight},
               {"weights", summary.weights},
               {"widths", widths},
               {"lm_head", lm_head},
               {"scheme", result.scheme},
               {"output", result.output}};
  if (!result.special_tokens.is_null()) json["special_tokens"] = result.special_tokens;
  line.print(
      json,
      fmt::format("{}: {}, scheme {}, {:.2f} stored bits per linear weight (scales included)\n{}{}",
                  result.output, bytes_text(summary.bytes), result.scheme, summary.bits_per_weight,
                  table_text(rows, {2}), layers.empty() ? "" : table_text(errors, {1, 2})));
}

}  // namespace qalof::cli
