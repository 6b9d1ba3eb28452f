// Models whose LM head is a matrix of its own, and those that have none: both graphs use the head,
// full fine-tuning trains it for language modelling and leaves it out otherwise.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "support/error_of.h"
#include "tensor_test_util.h"
#include "train/torch/graph.h"
#include "train/torch/loss.h"
#include "train/trained_weights.h"
#include "train/trainer.h"
#include "train_test_util.h"

namespace qalof::train {
namespace own_lm_head_test {

// One sum in another order.
constexpr double kFloatTolerance = 1e-4;

// with_head: lm_head.weight stands in the file; else the model is a span model without one.
std::shared_ptr<const weights::BaseModel> untied_base(Family family, bool with_head = true) {
  Json raw =
      family == Family::kGpt2 ? qalof::testing::tiny_config() : qalof::testing::tiny_llama_config();
  raw["tie_word_embeddings"] = false;
  if (!with_head) raw["architectures"] = {"GPT2ForQuestionAnswering"};
  const qalof::testing::TempDir dir;
  qalof::testing::write_model(dir.path(), raw);
  if (with_head) {
    const std::size_t hidden = model::parse_model_config(raw, "test").hidden;
    const std::vector<float> head = qalof::testing::tensor_values("head", 97 * hidden, 0.2F);
    const auto file = io::SafetensorsFile::open(dir.file("model.safetensors"));
    std::vector<io::TensorToWrite> tensors;
    for (const auto& [name, view] : file.tensors())
      tensors.push_back({name, view.dtype, view.shape, view.bytes});
    tensors.push_back({model::kLmHeadTensor,
                       io::DType::kF32,
                       {97, hidden},
                       std::as_bytes(std::span<const float>(head))});
    io::write_safetensors(dir.file("all"), tensors, {});
    std::filesystem::rename(dir.file("all"), dir.file("model.safetensors"));
  }
  return weights::BaseModel::load_directory(dir.path());
}

TrainOptions full_run(weights::HeadKind head_kind) {
  TrainOptions options;
  options.method = Method::kFull;
  options.head_kind = head_kind;
  options.schedule.max_steps = 3;
  options.schedule.batch_size = 3;
  options.schedule.learning_rate = 5e-3;
  options.threads = 2;
  return options;
}

class OwnLmHead : public ::testing::TestWithParam<Family> {
 protected:
  OwnLmHead() : pool_(2) { at::set_num_threads(1); }
  ThreadPool pool_;
};
INSTANTIATE_TEST_SUITE_P(Families, OwnLmHead, ::testing::Values(Family::kGpt2, Family::kLlama),
                         family_name);

TEST_P(OwnLmHead, GivesTheLogitsOfBothGraphs) {
  const auto base = untied_base(GetParam());
  const auto hidden = static_cast<std::int64_t>(base->config().hidden);
  const at::Tensor head = to_tensor(*base->source().tensor_f32(model::kLmHeadTensor), {97, hidden});
  const at::Tensor states =
      to_tensor(qalof::testing::tensor_values("states", static_cast<std::size_t>(5 * hidden), 1.0F),
                {5, hidden});
  const at::Tensor dlogits =
      to_tensor(qalof::testing::tensor_values("dlogits", 5 * 97, 1.0F), {5, 97});
  const GraphPlan plan(plan_of("32", *base), 0);
  for (const auto& graph :
       {make_kernel_graph(base, nullptr, pool_), make_aten_graph(base, at::kCPU, pool_)}) {
    EXPECT_LE(relative_error(graph->lm_logits(states, plan), states.mm(head.t())), kFloatTolerance);
    EXPECT_LE(relative_error(graph->lm_hidden_gradient(dlogits, plan), dlogits.mm(head)),
              kFloatTolerance);
    EXPECT_FALSE(graph->lm_head_parameter().defined());
  }
}

TEST_P(OwnLmHead, GradientsOfEveryTensorAgreeBetweenTheGraphs) {
  const auto base = untied_base(GetParam());
  FlatParameters flat;
  const TrainableBase trainable(*base, flat);
  flat.build(at::kCPU);
  const BaseParams params = trainable.bind(flat);
  PackedBatch batch;
  for (const Example& example : tiny_examples(5, /*shortest=*/2)) batch.add(example);
  const auto kernel = make_kernel_graph(base, &params, pool_);
  const auto aten = make_aten_graph(base->config(), params);
  const GraphPlan plan(plan_of("32", *base), 0);
  std::vector<at::Tensor> all, heads, embeddings;
  for (Graph* graph : {kernel.get(), aten.get()}) {
    EXPECT_TRUE(graph->lm_head_parameter().is_same(params.lm_head));
    flat.gradients().zero_();
    LmLossInputs inputs;
    inputs.graph = graph;
    inputs.plan = &plan;
    inputs.batch = &batch;
    LossParts parts;
    compute_lm_loss(graph->hidden(batch, plan, {}), inputs, &parts).backward();
    all.push_back(flat.gradients().clone());
    heads.push_back(params.lm_head.grad().clone());
    embeddings.push_back(params.wte.grad().clone());
  }
  EXPECT_GT(heads[1].abs().max().item<double>(), 0.0);
  EXPECT_LE(relative_error(all[0], all[1]), kFloatTolerance);
  EXPECT_LE(relative_error(heads[0], heads[1]), kFloatTolerance);
  EXPECT_LE(relative_error(embeddings[0], embeddings[1]), kFloatTolerance);
}

TEST_P(OwnLmHead, TrainsForLanguageModellingAndIsLeftOutOtherwise) {
  const auto base = untied_base(GetParam());
  const auto examples = tiny_examples(8, /*shortest=*/2);
  const auto lm = train(base, full_run(weights::HeadKind::kLm), examples, {}).weights.tensors;
  ASSERT_TRUE(lm.contains(model::kLmHeadTensor));
  EXPECT_NE(lm.at(model::kLmHeadTensor).values, *base->source().tensor_f32(model::kLmHeadTensor));
  const auto trained = make_base(*base, lm);
  EXPECT_EQ(trained->config().lm_head, model::LmHead::kOwn);
  EXPECT_EQ(*trained->source().tensor_f32(model::kLmHeadTensor),
            lm.at(model::kLmHeadTensor).values);

  const auto qa = train(base, full_run(weights::HeadKind::kSpan), examples, {}).weights.tensors;
  EXPECT_FALSE(qa.contains(model::kLmHeadTensor));
  EXPECT_EQ(make_base(*base, qa)->config().lm_head, model::LmHead::kNone);
}

TEST_P(OwnLmHead, IsNeededForLanguageModellingAlone) {
  const auto base = untied_base(GetParam(), /*with_head=*/false);
  const auto examples = tiny_examples(8, /*shortest=*/2);
  for (const Method method : {Method::kFull, Method::kLora}) {
    TrainOptions options = full_run(weights::HeadKind::kSpan);
    options.method = method;
    options.adapters.lora_r = 3;
    EXPECT_NO_THROW(train(base, options, examples, {}));
    options.head_kind = weights::HeadKind::kLm;
    const auto error = qalof::testing::error_of([&] { train(base, options, examples, {}); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
    EXPECT_NE(error.message.find("has no LM head"), std::string::npos) << error.message;
  }
}

}  // namespace own_lm_head_test
}  // namespace qalof::train
