// The shipped nano model with adapters trained here: the runtime and the ATen graph, two
// implementations of one network, must agree in scores and in distributions.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "app/model_handle.h"
#include "app/train/data.h"
#include "core/file.h"
#include "runtime/decoder.h"
#include "text/squad.h"
#include "text/squad_metric.h"
#include "text/squad_postprocess.h"
#include "train/torch/graph.h"
#include "train/trainer.h"

namespace qalof::app {
namespace nano_agreement_test {

constexpr std::size_t kQuestions = 400;

struct Question {
  text::SquadQuestion question;
  std::string context;
  std::vector<text::SpanWindow> windows;
};

struct Agreement {
  double exact[2] = {0, 0}, f1[2] = {0, 0};  // runtime, ATen; 0-100
  std::vector<double> divergences;           // KL(runtime | ATen) of start and end by window, nats

  // The mean without the largest hundredth: two float orders may put an activation on two sides of
  // a 4-bit rounding boundary, and now and then that turns one window's answer.
  double trimmed_divergence() const {
    std::vector<double> sorted = divergences;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t kept = sorted.size() - sorted.size() / 100;
    return std::accumulate(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(kept),
                           0.0) /
           static_cast<double>(kept);
  }
};

// KL between two rows of logits with `stride`.
double divergence(const float* a, const float* b, std::size_t count) {
  auto log_sum = [&](const float* x) {
    double top = -INFINITY, sum = 0;
    for (std::size_t i = 0; i < count; ++i) top = std::max(top, double{x[2 * i]});
    for (std::size_t i = 0; i < count; ++i) sum += std::exp(double{x[2 * i]} - top);
    return top + std::log(sum);
  };
  const double log_a = log_sum(a), log_b = log_sum(b);
  double result = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double log_p = double{a[2 * i]} - log_a;
    result += std::exp(log_p) * (log_p - (double{b[2 * i]} - log_b));
  }
  return result;
}

class NanoAgreement : public ::testing::Test {
 protected:
  NanoAgreement() : pool_(2), encoder_(open()) {
    at::set_num_threads(1);
    const std::string data = std::string(QALOF_SOURCE_DIR) + "/assets/nano/data/";
    text::SpanFeatureOptions features;
    features.max_seq_length = 256;
    tasks::DataOptions training;
    training.file = data + "train.json";
    training.max_seq_length = 256;
    train::TrainOptions options;
    options.method = train::Method::kSwitch;
    options.schedule.max_steps = 120;
    options.schedule.learning_rate = 5e-3;
    options.threads = 2;
    weights_ =
        train::train(handle_.base, options,
                     tasks::Qa().examples(make_reading(handle_, encoder_, silent_), training), {})
            .weights;
    scaling_ = options.adapters.lora_alpha / static_cast<double>(options.adapters.lora_r);
    text::read_squad(data + "validation.json", [&](text::SquadParagraph&& paragraph) {
      const text::EncodedContext encoded = text::encode_context(encoder_, paragraph.context);
      for (text::SquadQuestion& question : paragraph.questions) {
        bool was_cut = false;
        auto windows = text::make_windows(encoder_, question.question, encoded, features, &was_cut);
        questions_.push_back({std::move(question), paragraph.context, std::move(windows)});
      }
      return questions_.size() < kQuestions;
    });
  }

  text::TextEncoder open() {
    ModelOptions options;
    options.model = std::string(QALOF_SOURCE_DIR) + "/assets/nano/model";
    handle_ = open_model(options, silent_);
    return open_encoder(handle_, silent_);
  }

  train::NetworkView view_of(const weights::Adapter& adapter) const {
    train::NetworkView view;
    view.lora_scaling = scaling_;
    const auto rank = static_cast<std::int64_t>(adapter.rank);
    for (std::size_t i = 0; i < adapter.linears.size(); ++i) {
      const model::LinearSpec& spec = handle_.base->linears()[i];
      view.lora.push_back(
          {train::to_tensor(adapter.linears[i]->a(), {rank, static_cast<std::int64_t>(spec.in)}),
           train::to_tensor(adapter.linears[i]->b(), {static_cast<std::int64_t>(spec.out), rank})});
    }
    const auto hidden = static_cast<std::int64_t>(handle_.base->config().hidden);
    view.head = {train::to_tensor(adapter.qa_head->weight, {2, hidden}),
                 train::to_tensor(adapter.qa_head->bias, {2})};
    return view;
  }

  Agreement compare(int width) {
    const auto set = train::make_adapter_set(weights_);
    const quant::PrecisionPlan plan =
        quant::resolve(quant::parse_plan(std::to_string(width)), handle_.base->target());
    const auto execution = runtime::Execution::create(handle_.base, plan, set, pool_);
    const auto aten = train::make_aten_graph(handle_.base->config(),
                                             train::load_base_params(*handle_.base, at::kCPU));
    const train::GraphPlan graph_plan(plan, 0);
    const train::NetworkView view = view_of(*set->by_width.at(width));
    const at::NoGradGuard no_grad;
    runtime::DecoderWorkspace workspace;
    text::SpanDecoder decoder{text::SpanDecodeOptions{}};
    Agreement result;
    for (const Question& question : questions_) {
      std::vector<std::vector<float>> logits[2];
      for (const text::SpanWindow& window : question.windows) {
        const std::size_t tokens = window.ids.size(), hidden = handle_.base->config().hidden;
        std::vector<float> rows(tokens * hidden), out(tokens * 2);
        const runtime::Sequence sequence{window.ids};
        runtime::forward(*execution, {&sequence, 1}, workspace, rows.data(), pool_);
        runtime::apply_head(*execution->head(weights::HeadKind::kSpan), rows.data(), tokens, hidden,
                            out.data(), pool_);
        train::PackedBatch batch;
        train::Example example;
        example.ids = window.ids;
        batch.add(example);
        const std::vector<float> other =
            train::to_vector(aten->head_logits(aten->hidden(batch, graph_plan, view), view.head));
        result.divergences.push_back(
            (divergence(&out[0], &other[0], tokens) + divergence(&out[1], &other[1], tokens)) / 2);
        logits[0].push_back(out);
        logits[1].push_back(other);
      }
      for (const std::size_t side : {0, 1}) {
        for (std::size_t w = 0; w < question.windows.size(); ++w)
          decoder.add(question.windows[w], logits[side][w]);
        const text::QuestionScore score =
            text::score_v1(decoder.finish(question.context).text, question.question.answers);
        result.exact[side] += 100.0 * score.exact / static_cast<double>(questions_.size());
        result.f1[side] += 100.0 * score.f1 / static_cast<double>(questions_.size());
      }
    }
    return result;
  }

  Observer silent_;  // the base class says nothing
  ThreadPool pool_;
  ModelHandle handle_;
  text::TextEncoder encoder_;
  train::TrainedWeights weights_;
  double scaling_ = 1;
  std::vector<Question> questions_;
};

TEST_F(NanoAgreement, ScoresAndDistributionsAtTheTrainedWidths) {
  for (const int width : {8, 4}) {
    const Agreement found = compare(width);
    EXPECT_GT(found.f1[0], 5) << width;  // something was learned, so that scores can differ
    EXPECT_LE(std::abs(found.exact[0] - found.exact[1]), 0.3) << width;
    EXPECT_LE(std::abs(found.f1[0] - found.f1[1]), 0.3) << width;
    EXPECT_LE(found.trimmed_divergence(), 1e-3) << width;
    RecordProperty("divergence", std::to_string(found.trimmed_divergence()));
    std::printf("width %d: F1 %.2f and %.2f, KL %.2e\n", width, found.f1[0], found.f1[1],
                found.trimmed_divergence());
  }
}

}  // namespace nano_agreement_test
}  // namespace qalof::app
