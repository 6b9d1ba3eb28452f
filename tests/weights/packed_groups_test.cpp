// Group schemes and stored LM heads: the runtime's products are those of dequantized weights, and a
// packed file gives the bits of the directory it came from.
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>

#include "core/crc32c.h"
#include "io/safetensors.h"
#include "kernels/quantize.h"
#include "support/error_of.h"
#include "support/tiny_runtime.h"
#include "weights/linear_op.h"
#include "weights/packed_file.h"
#include "weights/packed_layout.h"

namespace qalof::runtime {
namespace packed_groups_test {

using qalof::testing::error_of;
using qalof::testing::same_bytes;
using qalof::testing::TempDir;
using qalof::testing::TinyRuntime;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<std::string> kSchemes = {
    "g32", "g64", "g128", "g32-asym", "g64-asym", "g64-asym+aasym+ag64+mse", "g32+ag32"};

Json wide_config() {
  Json config = qalof::testing::tiny_config();
  config["n_embd"] = 72;  // c_fc has a last group of 8 at g32 and g64, one short group at g128
  config["n_layer"] = 1;
  return config;
}

class PackedGroupsTest : public ::testing::Test {
 protected:
  std::shared_ptr<const Execution> execution(const std::shared_ptr<const weights::BaseModel>& base,
                                             const std::string& precision,
                                             const std::string& scheme,
                                             std::optional<int> lm_head = std::nullopt) {
    quant::PlanSpec spec = quant::parse_plan(precision);
    spec.scheme = quant::parse_scheme(scheme, "test");
    ExecutionOptions options;
    if (lm_head) options.lm_head = quant::BitWidth{*lm_head};
    return Execution::create(base, quant::resolve(spec, base->target()), nullptr, serial_, options);
  }
  std::vector<float> hidden(const Execution& execution) {
    return tiny_.run(execution, tiny_.ids(20), 0, serial_);
  }
  std::vector<float> logits(const Execution& execution) {
    const std::vector<float> states = hidden(execution);
    std::vector<float> result(20 * tiny_.config().vocab_size);
    lm_logits(execution, states.data(), 20, result.data(), serial_);
    return result;
  }
  weights::PackSummary pack(std::vector<int> widths, const std::string& scheme,
                            std::vector<int> lm_head_bits = {}) {
    weights::PackRequest request;
    request.base = tiny_.base();
    request.widths = std::move(widths);
    request.scheme = quant::parse_scheme(scheme, "test");
    request.lm_head_bits = std::move(lm_head_bits);
    return weights::write_packed_file(path_, request, serial_);
  }

  SerialFor serial_;
  ThreadPool two_threads_{2};
  TinyRuntime tiny_{wide_config()};
  TempDir dir_;
  const std::string path_ = dir_.file("model.qalof");
};

TEST_F(PackedGroupsTest, ProductsOfFloatsAreThoseOfDequantizedWeights) {
  const std::size_t index = 2;
  const model::LinearSpec& spec = tiny_.base()->linears()[index];
  const std::vector<float> weights = tiny_.base()->source().linear_f32(index);
  const quant::Precision precision{{4}, {32}};
  for (const bool asymmetric : {false, true}) {
    const std::size_t groups = kernels::num_groups(spec.in, 64);
    std::vector<std::int8_t> codes(weights.size()), zeros(spec.out * groups, 0);
    std::vector<float> scales(spec.out * groups), reals(weights.size());
    std::int8_t* zero_points = asymmetric ? zeros.data() : nullptr;
    kernels::quantize_groups(weights.data(), spec.out, spec.in, 4, 64, codes.data(), scales.data(),
                             zero_points, serial_);
    kernels::dequantize_groups(codes.data(), scales.data(), zero_points, spec.out, spec.in, 64,
                               reals.data(), serial_);
    const kernels::PackedMatrix& floats =
        tiny_.base()->packed(index, precision, {64, asymmetric}, serial_);
    const kernels::PackedMatrix& integers =
        tiny_.base()->packed(index, {{4}, {8}}, {64, asymmetric}, serial_);
    EXPECT_EQ(integers.zeros != nullptr, asymmetric);
    EXPECT_EQ(weights::unpack_reals(integers, serial_), reals);
    const auto expected =
        weights::pack_weights(reals, spec.out, spec.in, {{32}, {32}}, {}, serial_);
    EXPECT_EQ(std::memcmp(floats.panels, expected->view.panels, expected->panels.size()), 0);
    EXPECT_EQ(floats.scales, nullptr);
  }
}

TEST_F(PackedGroupsTest, EverySchemeAndWidthGivesItsOwnNumbers) {
  std::vector<std::vector<float>> seen;
  for (const char* precision : {"8", "4"}) {
    seen.push_back(hidden(*execution(tiny_.base(), precision, "seed")));
    for (const std::string& scheme : kSchemes)
      seen.push_back(hidden(*execution(tiny_.base(), precision, scheme)));
  }
  for (std::size_t i = 0; i < seen.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(seen[i], seen[j]) << i << ", " << j;
  }
}

TEST_F(PackedGroupsTest, AGroupOfFourBitsIsNearerToTheFloatsThanARow) {
  const std::vector<float> exact = hidden(*execution(tiny_.base(), "32", "seed"));
  const auto error_of_scheme = [&](const std::string& scheme) {
    const std::vector<float> found = hidden(*execution(tiny_.base(), "w4a32kv32", scheme));
    double error = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const double difference = static_cast<double>(found[i]) - static_cast<double>(exact[i]);
      error += difference * difference;
    }
    return error;
  };
  const double row = error_of_scheme("seed"), group = error_of_scheme("g32");
  EXPECT_LT(group, row);
  EXPECT_LT(error_of_scheme("g32-asym"), group);
}

TEST_F(PackedGroupsTest, PackedFilesGiveTheDirectorysBits) {
  for (const std::string& scheme : kSchemes) {
    pack({8, 5, 4, 3, 2}, scheme);
    const weights::PackedModel packed = weights::open_packed_file(path_, two_threads_);
    EXPECT_EQ(packed.plan.scheme, quant::parse_scheme(scheme, "test"));
    for (const char* precision :
         {"8", "5", "4", "3", "2", "w3a8kv4", "w2a8kv4", "w8a32kv16", "w2a16kv16"}) {
      SCOPED_TRACE(scheme + " " + precision);
      EXPECT_TRUE(same_bytes(logits(*execution(packed.base, precision, scheme)),
                             logits(*execution(tiny_.base(), precision, scheme))));
    }
  }
}

TEST_F(PackedGroupsTest, AnotherSchemeThanTheStoredOneIsAnError) {
  pack({4}, "g64");
  const weights::PackedModel packed = weights::open_packed_file(path_);
  for (const char* scheme : {"seed", "g32", "g64-asym"}) {
    const auto error = error_of([&] { execution(packed.base, "4", scheme); });
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
    EXPECT_THAT(error.message, HasSubstr("is packed in scheme g64, not in " + std::string(scheme)));
  }
  EXPECT_NO_THROW(execution(packed.base, "4", "g64"));
  weights::PackRequest request;
  request.base = tiny_.base();
  request.plan = quant::parse_plan("4");
  request.plan->scheme = quant::QuantScheme{32, false};
  const auto contradiction = error_of([&] { weights::write_packed_file(path_, request, serial_); });
  EXPECT_EQ(contradiction.kind, ErrorKind::kUsage);
}

TEST_F(PackedGroupsTest, BitsPerWeightCountScalesZerosAndSums) {
  const auto expected = [&](kernels::WeightFormat format, std::size_t bytes_of_group) {
    std::size_t bytes = 0, weights = 0;
    for (const model::LinearSpec& spec : tiny_.base()->linears()) {
      weights += spec.in * spec.out;
      bytes += kernels::packed_matrix_bytes(format, spec.out, spec.in);
      bytes += bytes_of_group * kernels::grouped_count(spec.out, kernels::num_groups(spec.in, 32));
    }
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
  };
  using kernels::WeightFormat;
  EXPECT_DOUBLE_EQ(pack({4}, "g32").bits_per_weight, expected(WeightFormat::kInt4, 2));
  EXPECT_DOUBLE_EQ(pack({4}, "g32-asym").bits_per_weight, expected(WeightFormat::kInt4, 3));
  EXPECT_DOUBLE_EQ(pack({3}, "g32").bits_per_weight, expected(WeightFormat::kInt3, 2));
  EXPECT_DOUBLE_EQ(pack({2}, "g32-asym").bits_per_weight, expected(WeightFormat::kInt2, 3));
  EXPECT_DOUBLE_EQ(pack({8}, "g32").bits_per_weight, expected(WeightFormat::kInt8, 4));
  EXPECT_DOUBLE_EQ(pack({8}, "g32-asym").bits_per_weight, expected(WeightFormat::kInt8, 5));
}

// Layers of four groups: scales, zeros and panels without padding.
TEST_F(PackedGroupsTest, TwoAndThreeBitsTakeTwoAndThreeBitsAndTheirScales) {
  Json config = wide_config();
  config["n_embd"] = 256;
  const TinyRuntime tiny(config);
  for (const int bits : {2, 3, 4}) {
    weights::PackRequest request;
    request.base = tiny.base();
    request.widths = {bits};
    request.scheme = quant::parse_scheme("g64", "test");
    const weights::PackSummary summary = weights::write_packed_file(path_, request, serial_);
    EXPECT_EQ(summary.widths.at(0).container_bits, bits);
    EXPECT_DOUBLE_EQ(summary.bits_per_weight, bits + 16.0 / 64);
  }
}

TEST_F(PackedGroupsTest, FewBitsGiveTheNumbersOfTheirCodesInNibbles) {
  for (const char* scheme : {"seed", "g64", "g32-asym"}) {
    const quant::QuantScheme parsed = quant::parse_scheme(scheme, "test");
    const model::LinearSpec& spec = tiny_.base()->linears()[2];
    const std::vector<float> weights = tiny_.base()->source().linear_f32(2);
    const std::vector<float> x = qalof::testing::tensor_values("x", 5 * spec.in, 1.0F);
    for (const int bits : {2, 3}) {
      const weights::RowCodes codes =
          weights::quantize_weights(weights, spec.out, spec.in, bits, parsed, serial_);
      std::vector<std::vector<float>> results;
      for (const int stored : {bits, 4}) {
        const auto packed = weights::pack_codes(codes, {{stored}, {8}}, serial_);
        EXPECT_EQ(kernels::code_layout(packed->view.format).bits, stored);
        weights::LinearWorkspace workspace;
        results.emplace_back(5 * spec.out);
        weights::LinearCall call;
        call.precision = {{bits}, {8}};
        call.weight = packed->view;
        weights::run_linear(call, x.data(), 5, results.back().data(), workspace, serial_);
      }
      EXPECT_TRUE(same_bytes(results[0], results[1])) << scheme << ", " << bits << " bits";
    }
  }
}

// Written by the program of 29 November 2026:
//   quantize --model_name_or_path gpt2/f32 --bit_widths 2,3 --scheme g32-asym
TEST_F(PackedGroupsTest, FilesWithTwoAndThreeBitsInNibblesAreStillRead) {
  const std::string tests = QALOF_SOURCE_DIR "/tests/";
  const auto packed = weights::open_packed_file(tests + "weights/data/nibbles_v2.qalof");
  const auto base = weights::BaseModel::load_directory(tests + "runtime/data/gpt2/f32");
  for (const int bits : {2, 3}) {
    const quant::QuantScheme scheme{32, true};
    const auto& old = packed.base->packed(1, {{bits}, {8}}, scheme, serial_);
    EXPECT_EQ(old.format, kernels::WeightFormat::kInt4);
    const auto& fresh = base->packed(1, {{bits}, {8}}, scheme, serial_);
    EXPECT_EQ(kernels::code_layout(fresh.format).bits, bits);
    EXPECT_EQ(weights::unpack_reals(old, serial_), weights::unpack_reals(fresh, serial_));
  }
}

const std::vector<std::string> kNested = {"nested", "g64+nested", "g32-asym+nested+aasym"};

TEST_F(PackedGroupsTest, ANestedFileGivesTheDirectorysBitsAtBothWidths) {
  for (const std::string& scheme : kNested) {
    const weights::PackSummary both = pack({8}, scheme);
    const weights::PackedModel packed = weights::open_packed_file(path_, two_threads_);
    EXPECT_THAT(packed.base->source().widths(), ElementsAre(4, 8));
    std::vector<std::vector<float>> seen;
    for (const char* precision : {"8", "4", "w4a8kv4", "w8a32kv16", "w4a16kv16"}) {
      SCOPED_TRACE(scheme + " " + precision);
      seen.push_back(logits(*execution(packed.base, precision, scheme)));
      EXPECT_TRUE(same_bytes(seen.back(), logits(*execution(tiny_.base(), precision, scheme))));
    }
    EXPECT_NE(seen[0], seen[1]);
    // The file of one width holds the other.
    EXPECT_EQ(pack({4}, scheme).bytes, both.bytes);
    EXPECT_EQ(both.widths[0].container_bits + both.widths[1].container_bits, 8);
    // Nothing is stored twice.
    const std::string alone = scheme.substr(0, scheme.find('+'));
    const auto eight = pack({8}, alone == "nested" ? "seed" : alone);
    EXPECT_LE(both.bits_per_weight, eight.bits_per_weight);
  }
}

TEST_F(PackedGroupsTest, NestedSchemesRefuseOtherWidthsByName) {
  for (const char* precision : {"5", "2", "w3a8kv8"}) {
    const auto error = error_of([&] { execution(tiny_.base(), precision, "g64+nested"); });
    EXPECT_EQ(error.kind, ErrorKind::kUsage);
    EXPECT_THAT(error.message, HasSubstr("scheme g64+nested has weights of 8 and of 4 bits"));
  }
  EXPECT_EQ(error_of([&] { pack({5}, "nested"); }).kind, ErrorKind::kUsage);
}

// The formulas of docs/numerics.md, "Nested codes".
TEST_F(PackedGroupsTest, FourBitsAreTheRoundedUpperHalfOfEightBits) {
  const model::LinearSpec& spec = tiny_.base()->linears()[2];
  const std::vector<float> weights = tiny_.base()->source().linear_f32(2);
  for (const std::string& scheme : kNested) {
    const quant::QuantScheme parsed = quant::parse_scheme(scheme, "test").weights();
    const auto eight = weights::quantize_weights(weights, spec.out, spec.in, 8, parsed, serial_);
    const auto four = weights::quantize_weights(weights, spec.out, spec.in, 4, parsed, serial_);
    for (std::size_t i = 0; i < eight.codes.size(); ++i) {
      ASSERT_GE(eight.codes[i], parsed.asymmetric ? -127 : -119);
      ASSERT_LE(eight.codes[i], 119);
      ASSERT_EQ(four.codes[i], std::floor((eight.codes[i] + 8) / 16.0)) << scheme;
      ASSERT_LE(std::abs(eight.codes[i] - 16 * four.codes[i]), 8);
      const std::size_t row = i / spec.in, column = i % spec.in;
      const std::size_t at = row * eight.groups() + (parsed.group == 0 ? 0 : column / parsed.group);
      const int zero = parsed.asymmetric ? eight.zeros[at] : 0;
      // Half a step, and what the scale's rounding to bfloat16 (2^-9 of 119 steps) cuts off.
      const float real = static_cast<float>(eight.codes[i] - zero) * eight.scales[at];
      ASSERT_LE(std::fabs(real - weights[i]), 0.8F * eight.scales[at]) << scheme << " at " << i;
    }
    for (std::size_t i = 0; i < eight.scales.size(); ++i) {
      ASSERT_EQ(four.scales[i], 16 * eight.scales[i]);
      if (parsed.asymmetric) {
        ASSERT_EQ(16 * four.zeros[i], eight.zeros[i]);
      }
    }
  }
}

TEST_F(PackedGroupsTest, StoredHeadsGiveTheDirectorysBitsAndTheFirstIsTheDefault) {
  const weights::PackSummary summary = pack({8}, "g64", {8, 4, 16, 32, 8});
  ASSERT_EQ(summary.lm_head.size(), 4U);
  const weights::PackedModel packed = weights::open_packed_file(path_);
  EXPECT_THAT(packed.lm_head_bits, ElementsAre(8, 4, 16, 32));
  for (const int bits : {8, 4, 16, 32}) {
    SCOPED_TRACE(bits);
    EXPECT_TRUE(same_bytes(logits(*execution(packed.base, "8", "g64", bits)),
                           logits(*execution(tiny_.base(), "8", "g64", bits))));
  }
  // What is used lies in the file, not in memory of its own.
  const auto file = io::SafetensorsFile::open(path_);
  const kernels::PackedMatrix& head = packed.base->lm_head({8}, serial_);
  EXPECT_EQ(std::memcmp(head.panels, file.tensors().at("lm_head.w8.panels").bytes.data(), 64), 0);
}

TEST_F(PackedGroupsTest, HeadsThatAreNotStoredAreMadeOrRefused) {
  pack({8}, "seed");
  const weights::PackedModel packed = weights::open_packed_file(path_);
  EXPECT_TRUE(packed.lm_head_bits.empty());
  for (const int bits : {16, 8, 4}) {
    EXPECT_TRUE(same_bytes(logits(*execution(packed.base, "8", "seed", bits)),
                           logits(*execution(tiny_.base(), "8", "seed", bits))));
  }
  const auto run = execution(packed.base, "8", "seed", 32);
  const auto head = error_of([&] { logits(*run); });
  EXPECT_EQ(head.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(head.message, HasSubstr("holds no LM head of 32 bits"));
  quant::PlanSpec spec = quant::parse_plan("32");
  spec.rules.push_back({".*", {{8}, {8}}});
  const auto embedding = error_of([&] {
    Execution::create(packed.base, quant::resolve(spec, packed.base->target()), nullptr, serial_);
  });
  EXPECT_EQ(embedding.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(embedding.message, HasSubstr("embeddings are stored in 16 bits"));
  EXPECT_EQ(error_of([&] { pack({8}, "seed", {5}); }).kind, ErrorKind::kUsage);
}

TEST_F(PackedGroupsTest, TensorsLieAtCacheLines) {
  pack({8, 4}, "g64-asym", {8});
  const auto file = io::SafetensorsFile::open(path_);
  std::size_t paddings = 0;
  for (const auto& [name, view] : file.tensors()) {
    if (name.starts_with(io::kPaddingPrefix)) {
      ++paddings;
    } else {
      EXPECT_EQ((view.bytes.data() - file.file_bytes().data()) % 64, 0) << name;
    }
  }
  EXPECT_GT(paddings, 0U);
}

// Version 1 as it was written: no heads, no padding, scheme seed.
TEST_F(PackedGroupsTest, FilesOfVersionOneAreRead) {
  pack({8, 4}, "seed");
  const auto file = io::SafetensorsFile::open(path_);
  Json header = Json::parse(file.metadata().at(weights::kPackedMetadataKey));
  header["format_version"] = 1;
  header.erase("lm_head");
  header["plan"].erase("scheme");
  std::vector<io::TensorToWrite> tensors;
  for (const auto& [name, view] : file.tensors()) {
    if (!name.starts_with(io::kPaddingPrefix))
      tensors.push_back({name, view.dtype, view.shape, view.bytes});
  }
  const std::string old = dir_.file("old.qalof");
  io::write_safetensors(old, tensors, {{weights::kPackedMetadataKey, header.dump()}});
  const weights::PackedModel packed = weights::open_packed_file(old);
  for (const char* precision : {"8", "4"}) {
    EXPECT_TRUE(same_bytes(logits(*execution(packed.base, precision, "seed")),
                           logits(*execution(tiny_.base(), precision, "seed"))));
  }
}

TEST_F(PackedGroupsTest, DamageToGroupsAndHeadsIsFound) {
  pack({8}, "g64-asym", {8});
  const auto file = io::SafetensorsFile::open(path_);
  const std::string damaged = dir_.file("damaged.qalof");
  const auto use_with = [&](const std::string& name, bool remove, const std::string& padding) {
    std::vector<std::byte> bytes;
    std::vector<io::TensorToWrite> tensors;
    for (const auto& [other, view] : file.tensors()) {
      if (other == name && remove) continue;
      tensors.push_back({other, view.dtype, view.shape, view.bytes});
      if (other != name) continue;
      bytes.assign(view.bytes.begin(), view.bytes.end());
      bytes[bytes.size() / 2] ^= std::byte{4};
      tensors.back().bytes = bytes;
    }
    const std::vector<std::byte> zeros(64, std::byte{1});
    if (!padding.empty()) tensors.push_back({padding, io::DType::kU8, {64}, zeros});
    io::write_safetensors(
        damaged, tensors,
        {{weights::kPackedMetadataKey, file.metadata().at(weights::kPackedMetadataKey)}});
    return error_of([&] {
      logits(*execution(weights::open_packed_file(damaged, two_threads_).base, "8", "g64-asym", 8));
    });
  };
  for (const char* name :
       {"h.0.mlp.c_fc.w8.panels", "h.0.mlp.c_fc.w8.scales", "h.0.mlp.c_fc.w8.zeros",
        "h.0.mlp.c_fc.w8.code_sums", "lm_head.w8.panels", "lm_head.w8.scales",
        "lm_head.w8.code_sums", "wte.weight"}) {
    for (const bool remove : {false, true}) {
      const auto error = use_with(name, remove, "");
      EXPECT_EQ(error.kind, ErrorKind::kCorruptFile) << name << ": " << error.message;
      EXPECT_THAT(error.message, HasSubstr(name));
      EXPECT_THAT(error.message, HasSubstr(remove ? "is missing" : "is damaged: crc32c"));
    }
  }
  EXPECT_THAT(use_with("", false, "padding.999").message,
              HasSubstr("tensor padding.999 is damaged"));
}

TEST(PackedLayout, NamesOfWidthsAreReadBack) {
  const std::string stored = weights::width_prefix("h.0.attn.c_attn", 4) + "zeros";
  const auto parts = weights::parse_width_tensor(stored);
  ASSERT_TRUE(parts);
  EXPECT_EQ(parts->matrix, "h.0.attn.c_attn");
  EXPECT_EQ(parts->bits, 4);
  EXPECT_EQ(parts->part, "zeros");
  EXPECT_EQ(weights::parse_width_tensor("lm_head.w32.panels")->bits, 32);
  for (const char* name :
       {"", ".", "..", "wte.weight", "a.w.b", "a.w4x.b", "h.0.ln_1.weight", "a.w99999999999.b"}) {
    EXPECT_FALSE(weights::parse_width_tensor(name)) << name;
  }
}

}  // namespace packed_groups_test
}  // namespace qalof::runtime
