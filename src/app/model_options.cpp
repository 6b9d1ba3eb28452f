// The options that choose a model and its precision, as they are listed for every command.
#include "app/generate.h"
#include "app/model_handle.h"

namespace qalof::app {

void list_model_options(OptionList& list, ModelOptions& options, bool with_precision) {
  list.group("model");
  list.option("--model_name_or_path", options.model,
              "model directory or packed file, or org/name[@revision] on the hub")
      ->required();
  list.option("--adapter", options.adapter,
              "training output directory or one PEFT directory, or org/name[@revision] on the hub");
  list.group("precision");
  if (with_precision) {
    list.option(
        "--precision,--sp_config", options.precision,
        "8, w4a8kv8, ... or a plan file; default: the adapter's or packed file's plan, else 32");
  }
  list.option("--scheme", options.scheme,
              "tuned, or parts joined by +: minmax, g32, g64, g128, g32-asym, ... (weights), mse "
              "(their ranges), nested (8 bits whose upper half is 4 bits), aasym, ag32, ag64, "
              "ag128 (activations), rot (both rotated; in part: rot-residual, rot-heads, rot-mlp); "
              "or int8, llm_int8, nf4, fp4; "
              "default: the plan's, packed file's or adapter's, else minmax");
  list.group("machine");
  list.option("--threads", options.threads, "threads; 0 = QALOF_THREADS, else all");
}

void list_run_options(OptionList& list, ModelOptions& options) {
  list.group("precision");
  list.option("--kv_bits", options.kv_bits,
              "keys and values of every layer: 2..8, 16 or 32; 0 = as the plan says");
  list.option("--kv_scheme", options.kv_scheme,
              "what shares a scale of K and V: token or head (a token and head)");
  list.option("--lm_head_bits", options.lm_head_bits,
              "weights of the LM head: 4, 8, 16 or 32; 0 = the embedding's width");
}

void list_text_options(OptionList& list, ModelOptions& options) {
  list.group("data");
  list.flag("--parse_special", options.parse_special,
            "special tokens written in texts count as themselves, not as text; those that the "
            "tokenizer's own files put around texts are always there")
      ->incidental();
}

void list_random_options(OptionList& list, ModelOptions& options) {
  options.takes_random = true;
  list.group("precision");
  list.option("--random_widths", options.random_widths,
              "--precision random:4,5,6,7,8 draws one of these widths for each request, or with "
              "layer for each of its layers");
}

void list_generation_options(OptionList& list, runtime::GenerateOptions& options) {
  list.group("method");
  list.option("--max_new_tokens", options.max_new_tokens, "most tokens to add");
  list.option("--temperature", options.sampling.temperature, "0 = the most likely token");
  list.option("--top_k", options.sampling.top_k, "choose among the k most likely; 0 = all");
  list.option("--top_p", options.sampling.top_p,
              "choose among the fewest most likely that have this probability together");
  list.option("--stop", options.stop_strings, "texts that end the generation");
}

}  // namespace qalof::app
