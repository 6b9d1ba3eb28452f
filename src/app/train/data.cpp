// Reads, or has the model write, what a run trains on. See data.h.
#include "app/train/data.h"

#include <algorithm>

#include "app/train/self_text.h"
#include "core/error.h"

namespace qalof::app {

namespace {

std::vector<tasks::Example> load_self_examples(const TrainRunOptions& options,
                                               const ModelHandle& handle,
                                               const text::TextEncoder& encoder,
                                               Observer& observer) {
  SelfTextOptions text;
  text.tokens = options.self_tokens;
  text.max_length = options.max_seq_length;
  text.seed = options.train.seed;
  text.num_choices = std::min(handle.base->config().vocab_size, encoder.tokenizer().vocab_size());
  text.before = encoder.text_template().before;
  text.should_stop = options.should_stop;
  Json identity = {{"base_sha256", handle.base->source().sha256()},
                   {"tokens", text.tokens},
                   {"max_length", text.max_length},
                   {"seed", text.seed}};
  if (!text.before.empty()) identity["before"] = text.before;
  const std::string path = options.output_dir + "/" + kSelfTextFile;
  auto documents = read_self_text(path, identity);
  if (!documents) {
    ThreadPool pool(choose_threads(options.model.threads));
    const auto execution = runtime::Execution::create(
        handle.base, quant::resolve(quant::parse_plan("32"), handle.base->target()), nullptr, pool);
    documents = generate_self_text(*execution, text, pool, observer);
    if (options.group == nullptr || options.group->rank() == 0)
      write_self_text(path, identity, *documents);
  }
  if (options.max_train_samples > 0 && options.max_train_samples < documents->size())
    documents->resize(options.max_train_samples);
  std::vector<tasks::Example> examples;
  for (std::vector<std::int32_t>& ids : *documents) examples.emplace_back().ids = std::move(ids);
  return examples;
}

}  // namespace

void load_windows(const TrainRunOptions& options, const ModelHandle& handle,
                  const text::TextEncoder& encoder, Observer& observer,
                  tasks::WindowFile& windows) {
  if (options.train_file == kTrainFileSelf) {
    for (const tasks::Example& example : load_self_examples(options, handle, encoder, observer))
      windows.add(example);
    return;
  }
  tasks::DataOptions data;
  data.file = options.train_file;
  data.max_samples = options.max_train_samples;
  data.max_seq_length = options.max_seq_length;
  task_of(options).each_example({encoder, handle.base->config().max_positions, observer}, data,
                                [&](tasks::Example&& example) { windows.add(example); });
}

}  // namespace qalof::app
