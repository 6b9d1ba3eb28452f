// Activation checkpointing as an autograd function. See checkpointed.h.
#include "train/torch/checkpointed.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace qalof::train {

namespace {

struct HeldPart final : torch::CustomClassHolder {
  explicit HeldPart(NetworkPart function) : part(std::move(function)) {}
  NetworkPart part;
};

class CheckpointFunction : public torch::autograd::Function<CheckpointFunction> {
 public:
  using Context = torch::autograd::AutogradContext;
  using Tensors = torch::autograd::variable_list;

  // tensors: num_inputs inputs of the part, then its parameters. Autograd sees those of an
  // ArrayRef, but not of a vector.
  static Tensors forward(Context* ctx, at::TensorList tensors, std::size_t num_inputs,
                         NetworkPart part) {
    Tensors outputs = part(tensors.slice(0, num_inputs).vec());
    ctx->save_for_backward(tensors.vec());
    // A gradient that is not there stays so: the part's own functions decide what stands for it.
    ctx->set_materialize_grads(false);
    ctx->saved_data["num_inputs"] = static_cast<std::int64_t>(num_inputs);
    ctx->saved_data["part"] =
        c10::IValue::make_capsule(c10::make_intrusive<HeldPart>(std::move(part)));
    return outputs;
  }

  static Tensors backward(Context* ctx, const Tensors& gradients) {
    const Tensors saved = ctx->get_saved_variables();
    const auto num_inputs = static_cast<std::size_t>(ctx->saved_data["num_inputs"].toInt());
    const auto held = ctx->saved_data["part"].toCapsule();
    // Only what this backward pass asks for: a pass for the inputs leaves parameters alone.
    Tensors sources = saved, wanted;
    const at::AutoGradMode with_gradient(true);
    for (std::size_t i = 0; i < saved.size(); ++i) {
      if (i < num_inputs) sources[i] = saved[i].detach().set_requires_grad(needs(ctx, i));
      if (needs(ctx, i)) wanted.push_back(sources[i]);
    }
    const Tensors outputs = static_cast<const HeldPart&>(*held).part(
        {sources.begin(), sources.begin() + to_offset(num_inputs)});
    Tensors ends, end_gradients;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!gradients[i].defined() || !outputs[i].requires_grad()) continue;
      ends.push_back(outputs[i]);
      end_gradients.push_back(gradients[i]);
    }
    Tensors found;
    if (!wanted.empty() && !ends.empty()) {
      found = torch::autograd::grad(ends, wanted, end_gradients, /*retain_graph=*/std::nullopt,
                                    /*create_graph=*/false, /*allow_unused=*/true);
    }
    Tensors result(saved.size() + 2);  // none for num_inputs and part
    for (std::size_t i = 0, next = 0; i < saved.size(); ++i) {
      if (needs(ctx, i) && !found.empty()) result[i] = found[next++];
    }
    return result;
  }

 private:
  static std::ptrdiff_t to_offset(std::size_t count) { return static_cast<std::ptrdiff_t>(count); }
  static bool needs(const Context* ctx, std::size_t index) { return ctx->needs_input_grad(index); }
};

}  // namespace

std::vector<at::Tensor> checkpointed(NetworkPart part, const std::vector<at::Tensor>& inputs,
                                     const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> tensors = inputs;
  for (const at::Tensor& parameter : parameters) {
    if (parameter.defined() && parameter.requires_grad()) tensors.push_back(parameter);
  }
  return CheckpointFunction::apply(at::TensorList(tensors), inputs.size(), std::move(part));
}

std::vector<at::Tensor> block_parameters(std::size_t layer, const model::LayerSteps& steps,
                                         const NetworkView& view, const BaseParams& params) {
  std::vector<std::size_t> linears = steps.attention_in;
  linears.push_back(steps.attention_out);
  linears.insert(linears.end(), steps.mlp_in.begin(), steps.mlp_in.end());
  linears.push_back(steps.mlp_out);
  std::vector<at::Tensor> all;
  for (const std::size_t index : linears) {
    if (!view.lora.empty()) all.insert(all.end(), {view.lora[index].a, view.lora[index].b});
    if (!view.quantizers.empty())
      all.insert(all.end(), {view.quantizers[index].steps, view.quantizers[index].clip});
    if (!params.weights.empty()) all.push_back(params.weights[index]);
    if (!params.biases.empty()) all.push_back(params.biases[index]);
  }
  const auto add = [&](const NormParams& norm) { all.insert(all.end(), {norm.gamma, norm.beta}); };
  for (const auto* norms : {&params.attention_norms, &params.mlp_norms, &params.attention_out_norms,
                            &params.mlp_out_norms, &params.q_norms, &params.k_norms}) {
    if (layer < norms->size()) add((*norms)[layer]);
  }
  // A block may end with the norm that the next one begins with.
  if (layer + 1 < params.attention_norms.size()) add(params.attention_norms[layer + 1]);
  add(params.final_norm);
  return all;
}

}  // namespace qalof::train
