// One optimizer step: the passes of a step plan over its windows, their losses and gradients, and
// one update.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/process_group.h"
#include "core/random.h"
#include "train/step_plan.h"
#include "train/torch/graph.h"
#include "train/torch/loss.h"
#include "train/torch/optimizer.h"
#include "train/torch/parameters.h"
#include "train/torch/sum_tree.h"
#include "train/torch/teacher.h"

namespace qalof::train {

/// Everything that the steps of a phase need. References must outlive it.
struct StepContext {
  const TrainOptions& options;
  Windows examples;
  const std::vector<Phase>& phases;
  const Phase& phase;
  const std::map<int, AdapterParams>& finished;  // of earlier phases
  PhaseParameters& parameters;
  Graph& graph;
  OutsideTeacher* teacher;                                  // null: none
  ProcessGroup* group;                                      // null: this process is alone
  std::function<void(at::Tensor& gradients)> on_gradients;  // before clipping; may be empty
  /// Called with the current part of a step, for progress: "step 3 of 9: w8 forward". May be empty.
  std::function<void(const std::string& what)> on_part = {};
};

/// Runs the steps of one phase. Not thread-safe.
class StepRunner {
 public:
  explicit StepRunner(const StepContext& context);
  /// Sums the gradients of every pass, over all processes, clips them and updates what was trained,
  /// unless loss or gradient is not finite. Fills the numbers of record. step: 0-based, of all
  /// phases. wants_stop: of this process; returns whether any of them wants to stop.
  bool run(const StepPlan& plan, std::span<const std::uint32_t> windows, std::int64_t step,
           bool wants_stop, AdamW& optimizer, StepRecord& record);

 private:
  struct Student {
    Network network;
    std::shared_ptr<const GraphPlan> plan;
    NetworkView view;
  };
  // Denominators over all windows of the step.
  struct Normalizers {
    double loss = 1;    // windows, or predicted tokens (lm)
    double tokens = 1;  // of all windows
  };
  Normalizers compute_normalizers(std::span<const std::uint32_t> windows) const;
  Student make_student(const StepPass& pass) const;
  // The micro-batches of a step that this process runs.
  struct Share {
    std::size_t count = 0;           // of all processes
    std::size_t first = 0, end = 0;  // its own
    std::size_t each = 0;            // of every process but the last that has some
    std::size_t contributors = 1;    // processes that have some
  };
  Share share_of(std::size_t windows) const;
  // Its passes; their losses are parts of the step's. first_token: index of its first token in the
  // step.
  std::vector<PassRecord> run_batch(const StepPlan& plan, const std::vector<Student>& students,
                                    std::span<const std::uint32_t> windows,
                                    const Normalizers& normalizers, std::size_t first_token,
                                    StepRecord& record);
  // Runs this process's micro-batches and leaves the sum of their gradients in place.
  std::vector<std::vector<PassRecord>> run_share(const StepPlan& plan,
                                                 const std::vector<Student>& students,
                                                 std::span<const std::uint32_t> windows,
                                                 const Share& share, std::int64_t step,
                                                 StepRecord& record);
  // Sums gradients and collects the passes of all micro-batches; true where a process wants to
  // stop.
  bool exchange(const Share& share, std::size_t passes, bool wants_stop,
                std::vector<std::vector<PassRecord>>& batches);
  void tell(const StepRecord& record, const std::string& network, const char* what) const;
  // Error{kDiverged} where an outside teacher caused a loss that is not finite.
  void check_teachers(const StepPass& pass, const std::vector<PassOutput>& teachers,
                      std::span<const std::uint32_t> windows, const StepRecord& record) const;
  PassOutput teach(const TeacherReference& teacher, std::span<const std::uint32_t> windows,
                   const PackedBatch& batch, const std::vector<PassOutput>& passes);
  PassOutput forward(const PackedBatch& batch, const Student& student,
                     const at::Tensor& embedded = {});
  // Embeddings [tokens, hidden] of the batch, perturbed against the student. step: 0-based.
  at::Tensor adversarial_embeddings(const PackedBatch& batch, const Student& student,
                                    const Normalizers& normalizers, std::int64_t step,
                                    std::size_t pass, std::size_t first_token);
  at::Tensor compute_loss(const PassOutput& student, const std::vector<PassOutput>& teachers,
                          const PackedBatch& batch, const Normalizers& normalizers,
                          LossParts& parts);
  at::Tensor compute_task_loss(const PassOutput& student, const std::vector<PassOutput>& teachers,
                               const PackedBatch& batch, double normalizer, LossParts& parts);

  StepContext context_;
  Distillation distillation_;
  WantedOutputs wanted_;
  RandomStream perturbations_;
  std::size_t batch_ = 0, batches_ = 1;  // of the current step
  TeacherCache phase_teacher_;           // a finished phase's network does not change
  SumTree gradients_;
};

}  // namespace qalof::train
