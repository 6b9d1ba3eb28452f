// Rotated models: the same function at 32 bits, smaller errors at 4, packed files with the
// directory's bits, and gradients of the map of adapters.
#include "weights/rotation.h"

#include <gmock/gmock.h>

#include <cmath>

#include "support/error_of.h"
#include "support/tiny_runtime.h"
#include "weights/derived_model.h"
#include "weights/packed_file.h"

namespace qalof::runtime {
namespace rotation_test {

using qalof::testing::error_of;
using qalof::testing::random_adapters;
using qalof::testing::same_bytes;
using qalof::testing::TempDir;
using qalof::testing::tensor_values;
using qalof::testing::TinyRuntime;
using ::testing::HasSubstr;

// Two families; the second GPT-2 has sizes that hold a twelve.
Json config_of(const std::string& name) {
  if (name == "Llama") {
    Json config = qalof::testing::tiny_llama_config();
    config["intermediate_size"] = 96;
    return config;
  }
  Json config = qalof::testing::tiny_config();
  if (name == "Gpt2Twelve") {
    config["n_embd"] = 48;
    config["n_head"] = 3;
  }
  return config;
}

constexpr const char* kRotations[] = {"rot", "rot-residual", "rot-heads", "rot-mlp",
                                      "rot-heads+rot-mlp"};

class RotationTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<const Execution> execution(
      const std::shared_ptr<const weights::BaseModel>& base, const std::string& precision,
      const std::string& scheme, std::shared_ptr<const weights::AdapterSet> adapters = nullptr) {
    quant::PlanSpec spec = quant::parse_plan(precision);
    spec.scheme = quant::parse_scheme(scheme, "test");
    return Execution::create(base, quant::resolve(spec, base->target()), std::move(adapters),
                             serial_);
  }
  std::vector<float> logits(const Execution& execution, std::size_t chunk = 0) {
    const std::vector<float> hidden = tiny_.run(execution, tiny_.ids(30, 23), chunk, serial_);
    std::vector<float> result(30 * tiny_.config().vocab_size);
    lm_logits(execution, hidden.data(), 30, result.data(), serial_);
    return result;
  }
  // Of two lists, the largest difference over the largest number of the first; NaN stays.
  static double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
    double largest = 0, scale = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      scale = std::max(scale, std::fabs(static_cast<double>(a[i])));
      const double difference = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
      if (!(difference <= largest)) largest = difference;
    }
    return a.size() == b.size() ? largest / scale : INFINITY;
  }
  static double error(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
      sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    return sum;
  }

  SerialFor serial_;
  ThreadPool two_threads_{2};
  TinyRuntime tiny_{config_of(GetParam())};
  TempDir dir_;
};

INSTANTIATE_TEST_SUITE_P(Models, RotationTest, ::testing::Values("Gpt2", "Gpt2Twelve", "Llama"),
                         [](const auto& test) { return test.param; });

TEST_P(RotationTest, TheFunctionStaysAt32BitsWithAndWithoutAdapters) {
  for (const bool with_adapters : {false, true}) {
    const auto adapters = with_adapters ? random_adapters(tiny_.config(), {32}) : nullptr;
    const std::vector<float> plain = logits(*execution(tiny_.base(), "32", "seed", adapters));
    for (const char* scheme : kRotations) {
      SCOPED_TRACE(scheme);
      const auto rotated = execution(tiny_.base(), "32", scheme, adapters);
      EXPECT_NE(&rotated->base(), tiny_.base().get());
      const std::vector<float> found = logits(*rotated);
      EXPECT_LE(relative_difference(plain, found), 1e-4) << with_adapters;
      EXPECT_FALSE(same_bytes(plain, found));
      // Adapters matter: nothing of the map is lost in rounding.
      if (with_adapters) {
        EXPECT_GT(relative_difference(plain, logits(*execution(tiny_.base(), "32", scheme))), 0.01);
      }
    }
  }
}

TEST_P(RotationTest, AtEightBitsItIsNearTheFloats) {
  const auto adapters = random_adapters(tiny_.config(), {8});
  const std::vector<float> exact = logits(*execution(tiny_.base(), "32", "seed", adapters));
  EXPECT_LE(relative_difference(exact, logits(*execution(tiny_.base(), "8", "rot", adapters))),
            0.05);
}

TEST_P(RotationTest, ChunksThreadsAndNeighboursChangeNoBit) {
  const auto run = execution(tiny_.base(), "4", "rot", random_adapters(tiny_.config(), {4}));
  const std::vector<std::int32_t> ids = tiny_.ids(30, 23), other = tiny_.ids(9, 5);
  const std::vector<float> alone = tiny_.run(*run, ids, 0, serial_);
  for (const std::size_t chunk : {1, 7})
    EXPECT_TRUE(same_bytes(tiny_.run(*run, ids, chunk, serial_), alone)) << chunk;
  EXPECT_TRUE(same_bytes(tiny_.run(*run, ids, 0, two_threads_), alone));
  DecoderWorkspace workspace;
  const std::size_t hidden = tiny_.config().hidden;
  std::vector<float> both((ids.size() + other.size()) * hidden);
  const Sequence sequences[] = {{other}, {ids}};
  forward(*run, sequences, workspace, both.data(), two_threads_);
  EXPECT_TRUE(same_bytes(std::span(both).subspan(other.size() * hidden), alone));
}

// Gains of a few channels grow and the weights that read them shrink: the same function.
TEST_P(RotationTest, FourBitErrorsOfAModelWithOutliersFall) {
  weights::DerivedWeights weights;
  const model::TensorNames names = model::tensor_names(tiny_.config());
  const std::size_t hidden = tiny_.config().hidden;
  constexpr float kFactor = 30.0F;
  const auto is_outlier = [](std::size_t channel) { return channel == 3 || channel == 17; };
  for (const auto* norms : {&names.attention_norms, &names.mlp_norms}) {
    for (const std::string& norm : *norms) {
      for (const char* part : {".weight", ".bias"}) {
        auto values = tiny_.base()->source().tensor_f32(norm + part);
        if (!values) continue;
        for (std::size_t i = 0; i < hidden; ++i) (*values)[i] *= is_outlier(i) ? kFactor : 1.0F;
        weights.vectors[norm + part] = *values;
      }
    }
  }
  for (std::size_t i = 0; i < tiny_.base()->linears().size(); ++i) {
    const model::LinearRole role = tiny_.base()->linears()[i].role;
    if (role == model::LinearRole::kAttentionOut || role == model::LinearRole::kDown) continue;
    std::vector<float> values = tiny_.base()->source().linear_f32(i);
    for (std::size_t at = 0; at < values.size(); ++at)
      values[at] /= is_outlier(at % hidden) ? kFactor : 1.0F;
    weights.linears[i] = std::move(values);
  }
  const auto outliers = weights::derive_model(tiny_.base(), std::move(weights));
  const std::vector<float> exact = logits(*execution(outliers, "32", "seed"));
  EXPECT_LE(relative_difference(logits(*execution(tiny_.base(), "32", "seed")), exact), 1e-4);
  const double seed = error(exact, logits(*execution(outliers, "w4a4kv32", "seed")));
  const double rotated = error(exact, logits(*execution(outliers, "w4a4kv32", "rot")));
  EXPECT_LT(rotated, 0.5 * seed);
}

TEST_P(RotationTest, PackedFilesGiveTheDirectorysBitsWithAdaptersOfTheBase) {
  const auto adapters = random_adapters(tiny_.config(), {8, 4});
  for (const char* scheme :
       {"rot", "rot-residual", "rot-heads", "rot-mlp", "g32-asym+aasym+ag32+mse+rot"}) {
    weights::PackRequest request;
    request.base = tiny_.base();
    request.adapters = adapters;
    request.widths = {8, 4};
    request.scheme = quant::parse_scheme(scheme, "test");
    const std::string path = dir_.file("model.qalof");
    weights::write_packed_file(path, request, serial_);
    const weights::PackedModel packed = weights::open_packed_file(path, two_threads_);
    for (const char* precision : {"8", "4", "w4a8kv4", "w8a16kv16"}) {
      SCOPED_TRACE(std::string(scheme) + " " + precision);
      const std::vector<float> expected =
          logits(*execution(tiny_.base(), precision, scheme, adapters));
      EXPECT_TRUE(same_bytes(logits(*execution(packed.base, precision, scheme, packed.adapters)),
                             expected));
      EXPECT_TRUE(
          same_bytes(logits(*execution(packed.base, precision, scheme, adapters)), expected));
      EXPECT_TRUE(same_bytes(logits(*execution(packed.base, precision, scheme)),
                             logits(*execution(tiny_.base(), precision, scheme))));
    }
    const auto plain = error_of([&] { execution(packed.base, "4", "seed"); });
    EXPECT_EQ(plain.kind, ErrorKind::kUnsupported);
    EXPECT_THAT(plain.message, HasSubstr("is packed in scheme"));
  }
}

TEST_P(RotationTest, APackedFileWithoutRotationIsRefused) {
  weights::PackRequest request;
  request.base = tiny_.base();
  request.widths = {4};
  const std::string path = dir_.file("model.qalof");
  weights::write_packed_file(path, request, serial_);
  const weights::PackedModel packed = weights::open_packed_file(path);
  EXPECT_EQ(error_of([&] { execution(packed.base, "4", "rot"); }).kind, ErrorKind::kUnsupported);
}

TEST_P(RotationTest, IsMadeOnceAndOutlivesItsBase) {
  std::shared_ptr<const weights::BaseModel> base = weights::derive_model(tiny_.base(), {});
  const auto run = execution(base, "8", "rot");
  EXPECT_EQ(&run->base(), &execution(base, "4", "g32+rot")->base());
  EXPECT_NE(&run->base(), &execution(base, "8", "rot-heads")->base());
  const std::vector<float> before = logits(*run);
  base.reset();
  EXPECT_TRUE(same_bytes(logits(*run), before));
}

// What gptq does: codes of a rotated base are not rotated again.
TEST_P(RotationTest, AModelDerivedFromARotatedOneIsThatOne) {
  const auto adapters = random_adapters(tiny_.config(), {4});
  const auto derived = weights::derive_model(tiny_.base()->rotated(quant::kAllRotations), {});
  const auto run = execution(derived, "4", "rot", adapters);
  EXPECT_EQ(&run->base(), derived.get());
  EXPECT_TRUE(same_bytes(logits(*run), logits(*execution(tiny_.base(), "4", "rot", adapters))));
  weights::PackRequest request;
  request.base = derived;
  request.widths = {4};
  request.scheme = quant::parse_scheme("rot", "test");
  const std::string path = dir_.file("model.qalof");
  weights::write_packed_file(path, request, serial_);
  EXPECT_TRUE(
      same_bytes(logits(*execution(weights::open_packed_file(path).base, "4", "rot", adapters)),
                 logits(*run)));
}

// The map is linear in each of a and b, so that differences of any step are derivatives.
void check_gradients(const weights::BaseModel& base, const weights::Rotation& rotation) {
  constexpr std::size_t kRank = 3;
  constexpr float kScaling = 0.7F;
  for (std::size_t i = 0; i < base.linears().size(); ++i) {
    const model::LinearSpec& spec = base.linears()[i];
    SCOPED_TRACE(spec.name);
    std::vector<float> a = tensor_values("a", kRank * spec.in, 1.0F);
    std::vector<float> b = tensor_values("b", kRank * spec.out, 1.0F);
    std::vector<float> da = tensor_values("da", a.size(), 1.0F);
    std::vector<float> db = tensor_values("db", b.size(), 1.0F);
    const std::vector<float> dbias = tensor_values("dbias", spec.out, 1.0F);
    const std::vector<float> da0 = da, db0 = db;
    const auto value = [&] {
      const weights::RotatedPair pair =
          rotation.rotate_pair(i, a.data(), b.data(), kRank, kScaling);
      double sum = 0;
      const auto add = [&](const std::vector<float>& x, const std::vector<float>& weights) {
        for (std::size_t at = 0; at < x.size(); ++at)
          sum += static_cast<double>(x[at]) * static_cast<double>(weights[at]);
      };
      add(pair.a, da0);
      add(pair.b, db0);
      add(pair.bias, dbias);
      return sum;
    };
    const weights::RotatedPair pair = rotation.rotate_pair(i, a.data(), b.data(), kRank, kScaling);
    EXPECT_EQ(pair.bias.empty(), base.bias(i).empty());
    rotation.rotate_pair_backward(i, a.data(), pair.b.data(), kRank, kScaling, dbias.data(),
                                  da.data(), db.data());
    const auto check = [&](std::vector<float>& values, const std::vector<float>& gradient) {
      for (std::size_t at = 0; at < values.size(); at += 1 + values.size() / 23) {
        const float kept = values[at];
        values[at] = kept + 8.0F;
        const double above = value();
        values[at] = kept - 8.0F;
        const double below = value();
        values[at] = kept;
        // Sums of hundreds of f32 numbers of size 10, each rounded.
        EXPECT_NEAR((above - below) / 16, static_cast<double>(gradient[at]), 2e-4) << at;
      }
    };
    check(a, da);
    check(b, db);
  }
}

TEST_P(RotationTest, GradientsOfTheMapAreDifferences) {
  for (const char* scheme : kRotations) {
    SCOPED_TRACE(scheme);
    const quant::Rotations parts = quant::parse_scheme(scheme, "test").rotations;
    check_gradients(*tiny_.base(), *tiny_.base()->rotated(parts)->rotation());
  }
}

TEST(Rotation, SizesThatNothingSpreadsAreNamed) {
  Json inner = qalof::testing::tiny_llama_config();
  inner["intermediate_size"] = 100;
  Json head = qalof::testing::tiny_config();
  head["n_embd"] = 96;
  head["n_head"] = 16;
  Json hidden = qalof::testing::tiny_config();
  hidden["n_embd"] = 100;
  hidden["n_head"] = 5;
  for (const auto& [config, text] :
       {std::pair{inner, "the MLP's inner size is 100, which only blocks of 4"},
        {head, "the size of a head is 6"},
        {hidden, "the hidden size is 100"}}) {
    const TinyRuntime tiny(config);
    const auto error = error_of([&] { tiny.base()->rotated(quant::kAllRotations); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
    EXPECT_THAT(error.message, HasSubstr(text));
  }
}

}  // namespace rotation_test
}  // namespace qalof::runtime
