// Runs teachers in evaluation form, and caches their outputs window by window.
#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "runtime/execution.h"
#include "train/torch/loss.h"
#include "train/torch/teacher.h"

namespace qalof::train {

NetworkView frozen_view(const TeacherModel& teacher, weights::HeadKind head_kind,
                        std::size_t num_labels, const std::string& where, at::Device device) {
  NetworkView view;
  const weights::BaseModel& base = *teacher.base;
  const std::vector<model::LinearSpec>& linears = base.linears();
  std::optional<float> scaling;  // of the first pair; pairs with another have their B rescaled
  for (std::size_t i = 0; teacher.adapters != nullptr && i < linears.size(); ++i) {
    LoraParams& params = view.lora.emplace_back();
    const auto serving = teacher.adapters->serving_width(teacher.plan.linears[i].weight.bits);
    if (!serving) continue;
    const weights::Adapter& adapter = *teacher.adapters->by_width.at(*serving);
    QALOF_CHECK(!weights::owns_weights(adapter), ErrorKind::kUnsupported,
                "{}: its adapter w{} has weights or quantizers of its own, expected a separate "
                "adapter without learned values",
                where, *serving);
    if (adapter.linears.empty() || !adapter.linears[i]) continue;
    const weights::LoraLinear& pair = *adapter.linears[i];
    if (!scaling) scaling = pair.view().scaling;
    std::vector<float> b = pair.b();
    if (pair.view().scaling != *scaling) {
      for (float& value : b) value *= pair.view().scaling / *scaling;
    }
    const auto rank = static_cast<std::int64_t>(pair.rank());
    params.a = to_tensor(pair.a(), {rank, static_cast<std::int64_t>(linears[i].in)}).to(device);
    params.b = to_tensor(b, {static_cast<std::int64_t>(linears[i].out), rank}).to(device);
  }
  view.lora_scaling = static_cast<double>(scaling.value_or(1));
  if (head_kind == weights::HeadKind::kLm) return view;
  const bool is_qa = head_kind == weights::HeadKind::kSpan;
  const weights::Head* head = runtime::serving_head(
      base, teacher.adapters.get(), teacher.plan.head_width(base.target()).bits, head_kind);
  QALOF_CHECK(head != nullptr, ErrorKind::kBadInput, "{}: has no {}, which --task {} needs", where,
              is_qa ? "span head (qa_outputs)" : "classification head (score)",
              to_string(head_kind));
  QALOF_CHECK(is_qa || head->outputs == num_labels, ErrorKind::kBadInput,
              "{}: its head has {} classes, the data {}", where, head->outputs, num_labels);
  const auto outputs = static_cast<std::int64_t>(head->outputs);
  view.head.weight =
      to_tensor(head->weight, {outputs, static_cast<std::int64_t>(base.config().hidden)})
          .to(device);
  view.head.bias = head->bias.empty() ? at::zeros({outputs}, at::device(device))
                                      : to_tensor(head->bias, {outputs}).to(device);
  return view;
}

namespace {

std::unique_ptr<Graph> graph_of(const TeacherModel& teacher, at::Device device,
                                ParallelFor& parallel) {
  if (device.is_cpu()) return make_kernel_graph(teacher.base, nullptr, parallel, {.bits = 0});
  return make_aten_graph(teacher.base, device, parallel);
}

}  // namespace

WantedOutputs::WantedOutputs(const TrainOptions& options)
    : logits(options.head_kind != weights::HeadKind::kLm),
      hidden(!logits || options.distillation.contrastive > 0),
      blocks(options.distillation.hidden_kd > 0),
      last_logits(options.head_kind == weights::HeadKind::kClass) {}

PassOutput run_network(Graph& graph, std::shared_ptr<const GraphPlan> plan, const NetworkView& view,
                       const PackedBatch& batch, const WantedOutputs& wanted,
                       const at::Tensor& embedded) {
  PassOutput output;
  output.hidden = graph.decode(embedded.defined() ? embedded : graph.embed(batch, *plan), batch,
                               *plan, view, wanted.blocks ? &output.blocks : nullptr);
  if (wanted.logits) {
    output.logits = graph.head_logits(
        wanted.last_logits ? last_rows(output.hidden, batch) : output.hidden, view.head);
  }
  output.graph = &graph;
  output.plan = std::move(plan);
  return output;
}

TeacherCache::Tensors TeacherCache::wanted_of(const PassOutput& output) const {
  Tensors tensors = output.blocks;
  if (wanted_.hidden) tensors.push_back(output.hidden);
  if (wanted_.logits) tensors.push_back(output.logits);
  return tensors;
}

void TeacherCache::keep(std::uint32_t window, const Tensors& rows) {
  std::uint64_t bytes = 0;
  for (const at::Tensor& tensor : rows) bytes += tensor.nbytes();
  if (bytes_ + bytes > max_bytes_) return;
  bytes_ += bytes;
  Tensors& kept = kept_[window];
  for (const at::Tensor& tensor : rows) kept.push_back(tensor.clone());
}

PassOutput TeacherCache::outputs(const Windows& examples, std::span<const std::uint32_t> windows,
                                 const Forward& forward) {
  PackedBatch missing;
  for (const std::uint32_t window : windows) {
    if (!kept_.contains(window)) missing.add(examples[window]);
  }
  std::map<std::uint32_t, Tensors> fresh;
  if (missing.windows() > 0) {
    const PassOutput output = forward(missing);
    const Tensors tensors = wanted_of(output);
    std::size_t next = 0;
    for (const std::uint32_t window : windows) {
      if (kept_.contains(window)) continue;
      const auto first = static_cast<std::int64_t>(missing.offsets[next]);
      const auto rows = static_cast<std::int64_t>(examples.length(window));
      for (const at::Tensor& tensor : tensors) {
        // Logits come last; a classifier's have one row per window.
        const bool has_window_rows = wanted_.last_logits && &tensor == &tensors.back();
        fresh[window].push_back(has_window_rows
                                    ? tensor.narrow(0, static_cast<std::int64_t>(next), 1)
                                    : tensor.narrow(0, first, rows));
      }
      ++next;
    }
    last_.graph = output.graph;
    last_.plan = output.plan;
    for (const auto& [window, rows] : fresh) keep(window, rows);
    if (missing.windows() == windows.size()) return output;
  }
  std::vector<Tensors> columns;  // [output][window]
  for (const std::uint32_t window : windows) {
    const Tensors& rows = fresh.contains(window) ? fresh.at(window) : kept_.at(window);
    columns.resize(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) columns[i].push_back(rows[i]);
  }
  PassOutput result = last_;
  for (const Tensors& column : columns) result.blocks.push_back(at::cat(column, 0));
  const auto take_last = [&](bool wanted, at::Tensor& tensor) {
    if (!wanted) return;
    tensor = result.blocks.back();
    result.blocks.pop_back();
  };
  take_last(wanted_.logits, result.logits);
  take_last(wanted_.hidden, result.hidden);
  return result;
}

OutsideTeacher::OutsideTeacher(const TrainOptions& options, at::Device device,
                               ParallelFor& parallel)
    : model_(options.teacher),
      graph_(graph_of(*model_, device, parallel)),
      plan_(std::make_shared<GraphPlan>(model_->plan, /*clip=*/0)),
      view_(frozen_view(*model_, options.head_kind, options.num_labels, "--teacher " + model_->name,
                        device)),
      wanted_(options),
      cache_(wanted_, cache_limit(options, device)) {}

PassOutput OutsideTeacher::outputs(const Windows& examples,
                                   std::span<const std::uint32_t> windows) {
  const at::NoGradGuard no_grad;
  return cache_.outputs(examples, windows, [&](const PackedBatch& batch) {
    return run_network(*graph_, plan_, view_, batch, wanted_);
  });
}

std::uint64_t cache_limit(const TrainOptions& options, at::Device device) {
  return device.is_cpu() ? options.distillation.teacher_cache_bytes : 0;
}

}  // namespace qalof::train
