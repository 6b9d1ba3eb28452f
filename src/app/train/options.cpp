// The options of `qalof train` as they are listed for the command line. See run.h.
#include "app/train/run.h"

namespace qalof::app {

namespace {

constexpr Named<bool> kSaveTypes[] = {{"f32", false}, {"bf16", true}};
constexpr Named<bool> kReports[] = {{"none", false}, {"tensorboard", true}};

}  // namespace

void TrainRunOptions::list(OptionList& list) {
  list.group("model");
  list.option("--model_name_or_path", model.model,
              "model directory, or org/name[@revision] on the hub")
      ->required()
      ->incidental();
  list.option("--adapter", adapter,
              "directory of adapters, or org/name on the hub, to start from: each width begins as "
              "the adapter and head that would serve it (default: fresh adapters)")
      ->incidental();
  list.option("--teacher", teacher,
              "a fine-tuned model, or adapters on the model (a directory, or org/name on the hub): "
              "teaches every width; self: cpt, random, curriculum learn from a higher width")
      ->incidental();
  list.group("data");
  list.option(
          "--train_file", train_file,
          tasks.file_kinds(tasks::Use::kTrain) + ", or self: the model in full precision writes it")
      ->required()
      ->incidental();
  list.option("--self_tokens", self_tokens, "--train_file self: tokens, at least");
  list.option("--validation_file", validation_file,
              "scored after each phase and every --eval_steps")
      ->incidental();
  list.option("--max_train_samples", max_train_samples,
              "the first N questions, windows or texts; 0 = all");
  list.option("--max_eval_samples", max_eval_samples, "the first N questions or texts; 0 = all")
      ->incidental();
  list.option("--max_seq_length", max_seq_length,
              "window in tokens; classification: longer texts are cut");
  tasks.list(list, task, tasks::Use::kTrain);
  list_text_options(list, model);
  list.group("precision");
  list.option("--precision,--sp_config", model.precision,
              "the precision or plan to train in; methods of several widths train around it")
      ->incidental();
  list.option("--scheme", model.scheme,
              "tuned, or parts joined by +: minmax, g32, g64, g128, g32-asym, ... (weights), mse "
              "(their ranges), nested (8 bits whose upper half is 4 bits), aasym, ag32, ag64, "
              "ag128 (activations), rot (both rotated; in part: rot-residual, rot-heads, rot-mlp); "
              "default: the plan's, else minmax");
  train.list(list);
  list.group("checkpoints");
  list.option("--save_total_limit", save_total_limit,
              "checkpoints that are kept, the newest; 0 = all")
      ->incidental();
  list.option("--resume_from_checkpoint", resume_from_checkpoint,
              "a checkpoint directory, or auto for the newest in --output_dir; without it the same "
              "command resumes by itself")
      ->incidental();
  list.group("output");
  list.option("--output_dir", output_dir, "directory to write")->required()->incidental();
  list.flag("--overwrite_output_dir", overwrite_output_dir,
            "replace what an earlier run wrote there")
      ->incidental();
  list.choice("--save_dtype", save_bf16, kSaveTypes, "full: type of the weights on disk");
  list.choice("--report_to", log_events, kReports, "tensorboard: an event file in --logging_dir")
      ->incidental();
  list.option("--logging_dir", logging_dir, "default: runs in --output_dir")->incidental();
  list.group("machine");
  list.option("--threads", model.threads,
              "threads; 0 = QALOF_THREADS, else all, shared by the processes of a machine")
      ->incidental();
  processes.list(list);
}

}  // namespace qalof::app
