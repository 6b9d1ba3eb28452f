// Runs the passes of a step batch by batch: teachers, adversarial embeddings, losses, backward, and
// the update.
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "core/error.h"
#include "train/adapter_form.h"
#include "train/torch/adversarial.h"
#include "train/torch/feature_loss.h"
#include "train/torch/step.h"

namespace qalof::train {

namespace {

class Stopwatch {
 public:
  // Seconds since the last call or construction.
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

PassOutput detached(const PassOutput& output) {
  PassOutput copy = output;
  if (copy.logits.defined()) copy.logits = copy.logits.detach();
  if (copy.hidden.defined()) copy.hidden = copy.hidden.detach();
  for (at::Tensor& block : copy.blocks) block = block.detach();
  return copy;
}

void add_to(PassRecord& sums, const PassRecord& part) {
  sums.loss += part.loss;
  sums.hard_loss += part.hard_loss;
  sums.distillation += part.distillation;
  sums.hidden_loss += part.hidden_loss;
  sums.contrastive_loss += part.contrastive_loss;
  sums.accuracy += part.accuracy;
  sums.tokens += part.tokens;
}

}  // namespace

StepRunner::StepRunner(const StepContext& context)
    : context_(context),
      wanted_(context.options),
      perturbations_(context.options.seed, "adversarial " + context.phase.name),
      phase_teacher_(wanted_, cache_limit(context.options, context.graph.device())),
      gradients_(context.parameters.flat().gradients()) {
  const TrainOptions& options = context_.options;
  // The logits of a trained teacher are far from a student's at first, so that their squared error
  // would dominate the label loss; hence kl, except among the widths of a joint run.
  const bool among_widths = options.method == Method::kJoint && !options.teacher;
  const KdLoss usual = among_widths ? KdLoss::kMse : KdLoss::kKl;
  distillation_ = {options.distillation.kd_alpha, options.distillation.kd_temperature,
                   options.distillation.kd_loss.value_or(usual), options.distillation.kd_beta};
}

StepRunner::Normalizers StepRunner::compute_normalizers(
    std::span<const std::uint32_t> windows) const {
  Normalizers result{0, 0};
  const bool is_lm = context_.options.head_kind == weights::HeadKind::kLm;
  for (const std::uint32_t window : windows) {
    const Example example = context_.examples[window];
    result.tokens += static_cast<double>(example.ids.size());
    result.loss += is_lm ? static_cast<double>(tasks::num_predicted(example)) : 1;
  }
  return result;
}

StepRunner::Student StepRunner::make_student(const StepPass& pass) const {
  return {pass.network,
          std::make_shared<GraphPlan>(pass.network.plan, context_.options.quantizers.ste_clip),
          context_.parameters.view(pass.network)};
}

PassOutput StepRunner::forward(const PackedBatch& batch, const Student& student,
                               const at::Tensor& embedded) {
  return run_network(context_.graph, student.plan, student.view, batch, wanted_, embedded);
}

at::Tensor StepRunner::adversarial_embeddings(const PackedBatch& batch, const Student& student,
                                              const Normalizers& normalizers, std::int64_t step,
                                              std::size_t pass, std::size_t first_token) {
  const AdversarialOptions& options = context_.options.adversarial;
  const at::Tensor embedded = context_.graph.embed(batch, *student.plan);
  at::Tensor start = start_of_perturbation(perturbations_, options, step, pass, first_token,
                                           embedded.size(0), embedded.size(1))
                         .to(embedded.device());
  return embedded +
         compute_perturbation(embedded, std::move(start), options, [&](const at::Tensor& moved) {
           LossParts parts;  // of the labels only, without teachers
           return compute_task_loss(forward(batch, student, moved), {}, batch, normalizers.loss,
                                    parts);
         });
}

PassOutput StepRunner::teach(const TeacherReference& teacher,
                             std::span<const std::uint32_t> windows, const PackedBatch& batch,
                             const std::vector<PassOutput>& passes) {
  if (teacher.kind == TeacherKind::kEarlierPass) return passes[teacher.index];
  if (teacher.kind == TeacherKind::kModel)
    return context_.teacher->outputs(context_.examples, windows);
  const at::NoGradGuard no_grad;
  Student network;
  if (teacher.kind == TeacherKind::kPhase) {
    network.network = context_.phases[teacher.index].networks.front();
    network.view = view_of(context_.finished, network.network, context_.options);
  } else {
    network.network = context_.phase.networks[teacher.index];
    network.view = context_.parameters.view(network.network);
  }
  network.plan = std::make_shared<GraphPlan>(network.network.plan, /*clip=*/0);
  if (teacher.kind == TeacherKind::kNetwork) return forward(batch, network);
  return phase_teacher_.outputs(context_.examples, windows, [&](const PackedBatch& missing) {
    return forward(missing, network);
  });
}

at::Tensor StepRunner::compute_task_loss(const PassOutput& student,
                                         const std::vector<PassOutput>& teachers,
                                         const PackedBatch& batch, double normalizer,
                                         LossParts& parts) {
  if (wanted_.logits) {
    std::vector<at::Tensor> logits;
    for (const PassOutput& teacher : teachers) logits.push_back(teacher.logits);
    const auto loss = context_.options.head_kind == weights::HeadKind::kSpan ? compute_span_loss
                                                                             : compute_class_loss;
    return loss(student.logits, logits, batch, distillation_, normalizer, &parts);
  }
  LmLossInputs inputs;
  inputs.graph = student.graph;
  inputs.plan = student.plan.get();
  inputs.batch = &batch;
  for (const PassOutput& teacher : teachers)
    inputs.teachers.push_back({teacher.hidden, teacher.graph, teacher.plan.get()});
  inputs.distillation = distillation_;
  inputs.normalizer = normalizer;
  return compute_lm_loss(student.hidden, inputs, &parts);
}

at::Tensor StepRunner::compute_loss(const PassOutput& student,
                                    const std::vector<PassOutput>& teachers,
                                    const PackedBatch& batch, const Normalizers& normalizers,
                                    LossParts& parts) {
  const TrainOptions& options = context_.options;
  at::Tensor loss = compute_task_loss(student, teachers, batch, normalizers.loss, parts);
  if (teachers.empty()) return loss;
  if (options.distillation.hidden_kd > 0) {
    std::vector<const std::vector<at::Tensor>*> blocks;
    for (const PassOutput& teacher : teachers) blocks.push_back(&teacher.blocks);
    loss = loss + compute_hidden_loss(student.blocks, blocks, normalizers.tokens, &parts.hidden) *
                      options.distillation.hidden_kd;
  }
  if (options.distillation.contrastive > 0) {
    std::vector<at::Tensor> hidden;
    for (const PassOutput& teacher : teachers) hidden.push_back(teacher.hidden);
    const double part = static_cast<double>(batch.tokens()) / normalizers.tokens;
    loss = loss + compute_contrastive_loss(student.hidden, hidden,
                                           options.distillation.contrastive_temperature, part,
                                           &parts.contrastive) *
                      options.distillation.contrastive;
  }
  parts.total += options.distillation.hidden_kd * parts.hidden +
                 options.distillation.contrastive * parts.contrastive;
  return loss;
}

void StepRunner::tell(const StepRecord& record, const std::string& network,
                      const char* what) const {
  if (!context_.on_part) return;
  std::string text =
      fmt::format("step {} of {}: {} {}", record.step, record.total_steps, network, what);
  if (batches_ > 1) text += fmt::format(", batch {} of {}", batch_, batches_);
  context_.on_part(text);
}

void StepRunner::check_teachers(const StepPass& pass, const std::vector<PassOutput>& teachers,
                                std::span<const std::uint32_t> windows,
                                const StepRecord& record) const {
  const auto finite = [](const at::Tensor& tensor) {
    return !tensor.defined() || at::isfinite(tensor).all().item<bool>();
  };
  // Of language models only the states are kept; logits are recomputed from them in parts.
  const auto logits_finite = [&](const PassOutput& teacher) {
    if (wanted_.logits) return finite(teacher.logits);
    const at::NoGradGuard no_grad;
    for (const at::Tensor& rows : teacher.hidden.split(512)) {
      if (!finite(teacher.graph->lm_logits(rows, *teacher.plan))) return false;
    }
    return true;
  };
  for (std::size_t i = 0; i < teachers.size(); ++i) {
    if (pass.teachers[i].kind != TeacherKind::kModel) continue;
    const bool states =
        finite(teachers[i].hidden) && std::ranges::all_of(teachers[i].blocks, finite);
    if (states && logits_finite(teachers[i])) continue;
    fail(ErrorKind::kDiverged,
         "--teacher {}: its {} of window {} (and {} more) are not finite in step {}; it or the "
         "precision it runs at is broken",
         context_.options.teacher->name, states ? "logits" : "states", windows.front() + 1,
         windows.size() - 1, record.step);
  }
}

std::vector<PassRecord> StepRunner::run_batch(const StepPlan& plan,
                                              const std::vector<Student>& students,
                                              std::span<const std::uint32_t> windows,
                                              const Normalizers& normalizers,
                                              std::size_t first_token, StepRecord& record) {
  Stopwatch watch;
  PackedBatch batch;
  for (const std::uint32_t index : windows) batch.add(context_.examples[index]);
  std::vector<PassRecord> passes(plan.passes.size());
  std::vector<PassOutput> outputs;  // without gradient
  for (std::size_t i = 0; i < plan.passes.size(); ++i) {
    const StepPass& pass = plan.passes[i];
    tell(record, pass.network.name, "forward");
    std::vector<PassOutput> teachers;
    for (const TeacherReference& teacher : pass.teachers)
      teachers.push_back(teach(teacher, windows, batch, outputs));
    at::Tensor embedded;  // undefined: the batch's own
    if (context_.options.adversarial.steps > 0) {
      embedded =
          adversarial_embeddings(batch, students[i], normalizers, record.step - 1, i, first_token);
    }
    const PassOutput output = forward(batch, students[i], embedded);
    LossParts parts;
    at::Tensor loss = compute_loss(output, teachers, batch, normalizers, parts);
    const double total = parts.total;
    record.times.forward += watch.lap();
    tell(record, pass.network.name, "backward");
    if (!std::isfinite(total)) check_teachers(pass, teachers, windows, record);
    if (std::isfinite(total)) (pass.weight == 1 ? loss : loss * pass.weight).backward();
    record.times.backward += watch.lap();
    PassRecord& numbers = passes[i];
    numbers.loss = total;
    numbers.hard_loss = parts.hard / normalizers.loss;
    numbers.distillation = parts.distillation / normalizers.loss;
    numbers.hidden_loss = parts.hidden;
    numbers.contrastive_loss = parts.contrastive;
    if (const int labels = labels_per_window(context_.options.head_kind); labels > 0)
      numbers.accuracy = static_cast<double>(parts.hits) / (labels * normalizers.loss);
    numbers.tokens = batch.tokens();
    outputs.push_back(detached(output));
  }
  return passes;
}

StepRunner::Share StepRunner::share_of(std::size_t windows) const {
  const ScheduleOptions& schedule = context_.options.schedule;
  const std::size_t ranks = context_.group != nullptr ? context_.group->size() : 1;
  const std::size_t rank = context_.group != nullptr ? context_.group->rank() : 0;
  Share share;
  share.count = (windows + schedule.batch_size - 1) / schedule.batch_size;
  share.each = schedule.gradient_accumulation_steps / ranks;
  share.first = std::min(rank * share.each, share.count);
  share.end = std::min(share.first + share.each, share.count);
  share.contributors = (share.count + share.each - 1) / share.each;
  return share;
}

std::vector<std::vector<PassRecord>> StepRunner::run_share(const StepPlan& plan,
                                                           const std::vector<Student>& students,
                                                           std::span<const std::uint32_t> windows,
                                                           const Share& share, std::int64_t step,
                                                           StepRecord& record) {
  const std::size_t size = context_.options.schedule.batch_size;
  const Normalizers normalizers = compute_normalizers(windows);
  at::Tensor& gradients = context_.parameters.flat().gradients();
  std::size_t first_token = 0;
  for (const std::uint32_t window : windows.first(share.first * size))
    first_token += context_.examples.length(window);
  batches_ = share.end - share.first;
  batch_ = 0;
  std::vector<std::vector<PassRecord>> batches;
  gradients.zero_();
  for (std::size_t i = share.first; i < share.end; ++i) {
    const auto part = windows.subspan(i * size, std::min(size, windows.size() - i * size));
    ++batch_;
    context_.graph.begin_batch(step, i);
    batches.push_back(run_batch(plan, students, part, normalizers, first_token, record));
    for (const std::uint32_t window : part) first_token += context_.examples.length(window);
    if (batches_ == 1) return batches;
    gradients_.add();
    gradients.zero_();
  }
  gradients_.finish();
  return batches;
}

bool StepRunner::exchange(const Share& share, std::size_t passes, bool wants_stop,
                          std::vector<std::vector<PassRecord>>& batches) {
  if (context_.group == nullptr || context_.group->size() == 1) return wants_stop;
  ProcessGroup& group = *context_.group;
  at::Tensor& gradients = context_.parameters.flat().gradients();
  const auto numbers = static_cast<std::size_t>(gradients.numel());
  if (!gradients.is_cpu() && group.sums_on_devices()) {
    group.device_sum({gradients.mutable_data_ptr<float>(), numbers}, share.contributors);
  } else {
    at::Tensor host = gradients.to(at::kCPU);
    group.sum({host.mutable_data_ptr<float>(), numbers}, share.contributors);
    if (!gradients.is_cpu()) gradients.copy_(host);
  }
  // Per process: whether it wants to stop, then the numbers of as many micro-batches as any has.
  constexpr std::size_t kNumbers = 7;
  const std::size_t count = 1 + share.each * passes * kNumbers;
  std::vector<double> own = {wants_stop ? 1.0 : 0.0};
  for (const std::vector<PassRecord>& batch : batches) {
    for (const PassRecord& pass : batch) {
      own.insert(own.end(),
                 {pass.loss, pass.hard_loss, pass.distillation, pass.hidden_loss,
                  pass.contrastive_loss, pass.accuracy, static_cast<double>(pass.tokens)});
    }
  }
  own.resize(count);
  std::vector<double> all(count * group.size());
  group.gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all)));
  bool stops = false;
  for (std::size_t rank = 0; rank < group.size(); ++rank) stops |= all[rank * count] != 0;
  batches.assign(share.count, std::vector<PassRecord>(passes));
  for (std::size_t i = 0; i < share.count; ++i) {
    const double* from = &all[i / share.each * count + 1 + i % share.each * passes * kNumbers];
    for (PassRecord& pass : batches[i]) {
      pass.loss = from[0];
      pass.hard_loss = from[1];
      pass.distillation = from[2];
      pass.hidden_loss = from[3];
      pass.contrastive_loss = from[4];
      pass.accuracy = from[5];
      pass.tokens = static_cast<std::uint64_t>(from[6]);
      from += kNumbers;
    }
  }
  return stops;
}

bool StepRunner::run(const StepPlan& plan, std::span<const std::uint32_t> windows,
                     std::int64_t step, bool wants_stop, AdamW& optimizer, StepRecord& record) {
  const TrainOptions& options = context_.options;
  FlatParameters& flat = context_.parameters.flat();
  std::vector<Student> students;
  std::set<std::size_t> groups;
  for (const StepPass& pass : plan.passes) {
    students.push_back(make_student(pass));
    record.passes.emplace_back().network = pass.network.name;
    for (const std::size_t group : context_.parameters.groups(pass.network)) groups.insert(group);
  }
  const Share share = share_of(windows.size());
  auto batches = run_share(plan, students, windows, share, step, record);
  Stopwatch watch;
  const bool stops = exchange(share, plan.passes.size(), wants_stop, batches);
  record.times.exchange = watch.lap();
  for (const std::vector<PassRecord>& batch : batches) {
    for (std::size_t i = 0; i < batch.size(); ++i) add_to(record.passes[i], batch[i]);
  }
  for (std::size_t i = 0; i < plan.passes.size(); ++i) {
    record.loss += plan.passes[i].weight * record.passes[i].loss;
    record.hard_loss += plan.passes[i].weight * record.passes[i].hard_loss;
    record.distillation += plan.passes[i].weight * record.passes[i].distillation;
    record.hidden_loss += plan.passes[i].weight * record.passes[i].hidden_loss;
    record.contrastive_loss += plan.passes[i].weight * record.passes[i].contrastive_loss;
    record.tokens += record.passes[i].tokens;
  }
  if (context_.on_gradients) context_.on_gradients(flat.gradients());
  record.grad_norm = clip_gradients(flat.gradients(), options.schedule.max_grad_norm);
  record.skipped = !std::isfinite(record.loss) || !std::isfinite(record.grad_norm);
  if (!record.skipped) {
    optimizer.step(record.learning_rate, std::vector<std::size_t>(groups.begin(), groups.end()));
    context_.parameters.project();
    context_.graph.weights_changed();
  }
  record.times.optimizer = watch.lap();
  return stops;
}

}  // namespace qalof::train
