// The model, adapters, samples and threads of measurements on the packed runtime, opened once.
#pragma once

#include <memory>

#include "app/sensitivity/sensitivity.h"
#include "core/threads.h"
#include "text/text_encoder.h"

namespace qalof::app {

/// Everything opened for one analysis. Not thread-safe; the pool parallelizes inside calls.
class EvaluationSession {
 public:
  /// Error{kUsage}, {kNotFound} or {kBadInput} for options that cannot be measured. The observer
  /// must outlive this object.
  EvaluationSession(const SensitivityOptions& options, Observer& observer);
  /// The options given, with the adapters' separator.
  const SensitivityOptions& options() const { return options_; }
  const ModelHandle& handle() const { return handle_; }
  /// text::TextEncoder's description.
  Json special_tokens() const { return encoder_.description(task().reads_pairs()); }
  ThreadPool& pool() { return pool_; }
  /// Everything that scores of a plan depend on, except the plan.
  Json identity() const;
  /// The head of the task. Error{kBadInput} where neither model nor adapter holds one.
  const weights::Head& head(const runtime::Execution& execution) const;
  std::unique_ptr<tasks::SampleReader> reader(const weights::Head& head) const;
  /// Tokens per batch such that the states before every block fit the memory set aside for them.
  std::size_t batch_tokens() const;

 private:
  const tasks::Task& task() const { return options_.tasks.at(options_.task, tasks::Use::kAnalyse); }
  tasks::Reading reading() const { return make_reading(handle_, encoder_, observer_); }

  SensitivityOptions options_;
  Observer& observer_;
  ModelHandle handle_;
  text::TextEncoder encoder_;
  ThreadPool pool_;
};

}  // namespace qalof::app
