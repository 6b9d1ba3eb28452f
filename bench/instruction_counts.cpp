// Runs one hot path a fixed number of times, for scripts/check_instructions to count instructions
// of. One thread and fixed inputs: the count is the same in every run. Not for: speed, which
// depends on caches and memory too (gemm_bench.cpp, kernels_bench.cpp).
//
//   instruction_counts PATH NANO_DIR     NANO_DIR: assets/nano
//
// Exit status: 0, or 1 where something could not be read, 2 for an unknown path.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "core/threads.h"
#include "kernels/gemm.h"
#include "kernels/ops.h"
#include "kernels/quantize.h"
#include "text/bpe_tokenizer.h"

// What is counted: callgrind collects between entering and leaving this function, by its name.
extern "C" __attribute__((noinline)) void qalof_counted(const std::function<void()>& path) {
  path();
}

namespace qalof {
namespace {

// Numbers in [0, 1) that depend on nothing of the machine or the library (Knuth's MMIX generator).
class Numbers {
 public:
  double next() {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }

 private:
  std::uint64_t state_ = 1;
};

std::vector<float> floats(std::size_t count, float low, float high) {
  Numbers numbers;
  std::vector<float> result(count);
  for (float& value : result) value = low + static_cast<float>(numbers.next()) * (high - low);
  return result;
}

// Codes in -level..level.
std::vector<std::int8_t> codes(std::size_t count, int level) {
  Numbers numbers;
  std::vector<std::int8_t> result(count);
  for (std::int8_t& code : result)
    code = static_cast<std::int8_t>(static_cast<int>(numbers.next() * (2 * level + 1)) - level);
  return result;
}

// A product with weights of n x k integers, groups of `group` or 0.
void count_product(kernels::WeightFormat format, std::size_t m, std::size_t n, std::size_t k,
                   std::size_t group, int repetitions) {
  SerialFor serial;
  const std::size_t groups = kernels::num_groups(k, group);
  const auto w = codes(n * k, format == kernels::WeightFormat::kInt4 ? 7 : 127);
  const auto x = codes(m * k, 127);
  const auto x_scales = floats(m, 0.01F, 0.02F), bias = floats(n, -1.0F, 1.0F);
  const auto w_scales = floats(kernels::grouped_count(n, groups), 0.01F, 0.02F);
  std::vector<std::int32_t> sums(kernels::grouped_count(n, groups));
  std::vector<std::uint8_t> panels(kernels::packed_matrix_bytes(format, n, k));
  if (group == 0) {
    kernels::pack_codes(w.data(), n, k, format, panels.data(), sums.data(), serial);
  } else {
    kernels::pack_codes(w.data(), n, k, format, group, panels.data(), sums.data(), serial);
  }
  const kernels::PackedMatrix matrix{format,          n,           k,    panels.data(),
                                     w_scales.data(), sums.data(), group};
  std::vector<float> y(m * n);
  qalof_counted([&] {
    for (int i = 0; i < repetitions; ++i)
      kernels::gemm_int(x.data(), x_scales.data(), m, matrix, bias.data(), y.data(), serial);
  });
}

void count_int8_prefill() {
  count_product(kernels::WeightFormat::kInt8, /*m=*/64, /*n=*/768, /*k=*/768, /*group=*/0,
                /*repetitions=*/2);
}

void count_int4_decode() {
  count_product(kernels::WeightFormat::kInt4, /*m=*/1, /*n=*/3072, /*k=*/768, /*group=*/64,
                /*repetitions=*/8);
}

void count_quantize_tokens() {
  constexpr std::size_t kTokens = 64, kWidth = 3072;
  SerialFor serial;
  const auto x = floats(kTokens * kWidth, -3.0F, 3.0F);
  std::vector<std::int8_t> result(kTokens * kWidth);
  std::vector<float> scales(kTokens);
  qalof_counted([&] {
    for (int i = 0; i < 8; ++i) {
      kernels::quantize_rows(x.data(), kTokens, kWidth, /*bits=*/8, result.data(), scales.data(),
                             serial);
    }
  });
}

// One token after 511 others in 12 heads of 64, keys in bytes and values in nibbles.
void count_attention_stored_kv() {
  constexpr std::size_t kTokens = 512, kHeads = 12, kDim = 64, kHidden = kHeads * kDim;
  SerialFor serial;
  const auto q = floats(kHidden, -1.0F, 1.0F), scales = floats(kTokens, 0.01F, 0.02F);
  const auto bytes = codes(kTokens * kDim, 127);  // as nibbles: 1..15, and 0, which is as good
  std::vector<kernels::StoredKv> k(kHeads), v(kHeads);
  for (std::size_t head = 0; head < kHeads; ++head) {
    using enum kernels::KvFormat;
    k[head] = {bytes.data(), scales.data(), kernels::stored_row_bytes(kInt8, kDim), kInt8};
    v[head] = {bytes.data(), scales.data(), kernels::stored_row_bytes(kInt4, kDim), kInt4};
  }
  std::vector<float> out(kHidden);
  const kernels::AttentionShape shape{kHeads,  kHeads,  kDim,    kHidden,
                                      kHidden, kHidden, kHidden, /*scale=*/0.125F};
  const kernels::AttentionSequence sequence{q.data(),    nullptr,     nullptr,  out.data(), nullptr,
                                            /*q_len=*/1, kTokens - 1, k.data(), v.data()};
  qalof_counted([&] {
    for (int i = 0; i < 8; ++i) kernels::attention(shape, &sequence, 1, serial);
  });
}

void count_bpe_encode(const std::string& nano) {
  const auto tokenizer = text::BpeTokenizer::load(nano + "/model");
  std::ifstream file(nano + "/data/text.txt", std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  text.resize(text.find('\n', 16384));
  qalof_counted([&] { tokenizer.encode(text); });
}

int run(std::string_view path, const std::string& nano) {
  if (path == "int8_prefill") {
    count_int8_prefill();
  } else if (path == "int4_decode") {
    count_int4_decode();
  } else if (path == "quantize_tokens") {
    count_quantize_tokens();
  } else if (path == "attention_stored_kv") {
    count_attention_stored_kv();
  } else if (path == "bpe_encode") {
    count_bpe_encode(nano);
  } else {
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace qalof

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    return qalof::run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "instruction_counts: %s\n", error.what());
    return 1;
  }
}
