// Opens teachers and the adapters that a run starts from. See teacher.h.
#include "app/train/teacher.h"

#include "core/error.h"
#include "core/file.h"
#include "io/adapter_dir.h"
#include "train/phases.h"

namespace qalof::app {

void check_same_tokens(const std::string& where, const text::BpeTokenizer& other,
                       const text::BpeTokenizer& model) {
  const auto count = static_cast<std::int32_t>(model.vocab_size());
  QALOF_CHECK(other.vocab_size() == model.vocab_size(), ErrorKind::kBadInput,
              "{}: its tokenizer has {} tokens, the model's has {}", where, other.vocab_size(),
              model.vocab_size());
  for (std::int32_t id = 0; id < count; ++id) {
    QALOF_CHECK(other.piece(id) == model.piece(id), ErrorKind::kBadInput,
                "{}: its tokenizer differs from the model's at token {}", where, id);
  }
}

std::shared_ptr<const train::TeacherModel> open_teacher(const TrainRunOptions& options,
                                                        const ModelHandle& student,
                                                        Observer& observer) {
  const std::string& path = options.teacher;
  QALOF_CHECK(is_directory(path), ErrorKind::kNotFound,
              "--teacher {}: expected self or a directory of a model or of adapters", path);
  const bool has_adapters = io::holds_adapters(path);
  ModelOptions model;
  model.shared_memory = options.model.shared_memory;
  model.model = has_adapters ? options.model.model : path;
  if (has_adapters) model.adapter = path;
  const ModelHandle handle = open_model(model, observer);
  auto teacher = std::make_shared<train::TeacherModel>();
  teacher->name = path;
  teacher->base = has_adapters ? student.base : handle.base;
  teacher->adapters = handle.adapters;
  teacher->plan = quant::resolve(handle.plan, teacher->base->target());
  teacher->plan.scheme = *handle.plan.scheme;
  if (!has_adapters)
    check_same_tokens("--teacher " + path, open_tokenizer(handle), open_tokenizer(student));
  if (has_adapters && handle.adapters->separator != task_of(options).pair_separator()) {
    observer.warn(
        fmt::format("--teacher {}: was trained with another --separator than this run has", path));
  }
  train::TrainOptions with_teacher = options.train;
  with_teacher.teacher = teacher;
  train::check_teacher(with_teacher, student.base->config());
  observer.info(
      fmt::format("teacher {}: {}", path, quant::describe(teacher->plan, teacher->base->target())));
  return teacher;
}

std::shared_ptr<const weights::AdapterSet> open_start(const TrainRunOptions& options,
                                                      const ModelHandle& model,
                                                      Observer& observer) {
  QALOF_CHECK(is_directory(options.adapter), ErrorKind::kNotFound,
              "--adapter {}: expected a directory of adapters", options.adapter);
  check_adapter_path(options.adapter);
  auto set = std::make_shared<weights::AdapterSet>(
      weights::load_adapters(options.adapter, model.base->config()));
  QALOF_CHECK(!set->by_width.empty(), ErrorKind::kBadInput, "--adapter {}: holds no adapter",
              options.adapter);
  const std::string sha256 = model.base->source().sha256();
  if (!set->base_sha256.empty() && set->base_sha256 != sha256)
    observer.warn(fmt::format("--adapter {}: was trained on another base", options.adapter));
  if (set->separator != task_of(options).pair_separator() && task_of(options).reads_pairs())
    observer.warn(fmt::format(
        "--adapter {}: was trained with another --separator than this run has", options.adapter));
  return set;
}

Json teacher_identity(const TrainRunOptions& options) {
  if (options.train.teacher_self) return kTeacherSelf;
  if (!options.train.teacher) return {};
  const train::TeacherModel& teacher = *options.train.teacher;
  return {{"base_sha256", teacher.base->source().sha256()},
          {"adapters_sha256",
           teacher.adapters != nullptr ? Json(adapters_sha256(*teacher.adapters)) : Json()},
          {"precision", quant::describe(teacher.plan, teacher.base->target())},
          {"scheme", quant::to_string(teacher.plan.scheme)}};
}

}  // namespace qalof::app
