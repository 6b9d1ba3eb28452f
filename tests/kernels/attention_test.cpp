// Attention and its gradients against doubles at every size, and bitwise equality across chunks,
// threads, instruction sets and stored K and V.
#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/bf16.h"
#include "kernels/kernel_test_util.h"
#include "kernels/ops.h"

namespace qalof::kernels {
namespace attention_test {

class AttentionTest : public IsaTest {};
INSTANTIATE_TEST_SUITE_P(Isas, AttentionTest, testing::ValuesIn(available_isas()), isa_name);

// One sequence with strides wider than needed.
struct Problem {
  std::size_t length, heads, kv_heads, head_dim;
  AttentionShape shape;
  std::vector<float> q, k, v, out, lse, dout;

  Problem(std::size_t length_, std::size_t heads_, std::size_t kv_heads_, std::size_t head_dim_,
          std::mt19937& random)
      : length(length_), heads(heads_), kv_heads(kv_heads_), head_dim(head_dim_) {
    const std::size_t q_stride = heads * head_dim + 3, kv_stride = kv_heads * head_dim + 5;
    shape = {heads,
             kv_heads,
             head_dim,
             q_stride,
             kv_stride,
             kv_stride + 1,
             heads * head_dim + 2,
             1.0F / std::sqrt(static_cast<float>(head_dim))};
    q = random_floats(length * shape.q_stride, random);
    k = random_floats(length * shape.k_stride, random);
    v = random_floats(length * shape.v_stride, random);
    dout = random_floats(length * shape.out_stride, random);
    out.assign(length * shape.out_stride, -77.0F);
    lse.assign(length * heads, -77.0F);
  }

  AttentionSequence rows(std::size_t begin, std::size_t end) {
    return {q.data() + begin * shape.q_stride,
            k.data(),
            v.data(),
            out.data() + begin * shape.out_stride,
            lse.data() + begin * heads,
            end - begin,
            begin};
  }
};

struct Reference {
  std::vector<double> out, lse, dq, dk, dv;
};

Reference reference(const Problem& p) {
  const AttentionShape& s = p.shape;
  Reference r;
  r.out.assign(p.out.size(), -77.0);
  r.lse.assign(p.lse.size(), 0.0);
  r.dq.assign(p.q.size(), -77.0);
  r.dk.assign(p.k.size(), -77.0);
  r.dv.assign(p.v.size(), -77.0);
  const auto zero = [&](std::vector<double>& x, std::size_t stride, std::size_t cols) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % stride < cols ? 0.0 : x[i];
  };
  zero(r.out, s.out_stride, p.heads * p.head_dim);
  zero(r.dq, s.q_stride, p.heads * p.head_dim);
  zero(r.dk, s.k_stride, p.kv_heads * p.head_dim);
  zero(r.dv, s.v_stride, p.kv_heads * p.head_dim);
  for (std::size_t h = 0; h < p.heads; ++h) {
    const std::size_t kv = h / (p.heads / p.kv_heads) * p.head_dim, at = h * p.head_dim;
    for (std::size_t i = 0; i < p.length; ++i) {
      std::vector<double> w(i + 1);
      double max = -1e300, sum = 0.0, shift = 0.0;
      for (std::size_t j = 0; j <= i; ++j) {
        for (std::size_t d = 0; d < p.head_dim; ++d) {
          w[j] += double{p.q[i * s.q_stride + at + d]} * p.k[j * s.k_stride + kv + d];
        }
        w[j] *= s.scale;
        max = std::max(max, w[j]);
      }
      for (double& x : w) sum += x = std::exp(x - max);
      for (double& x : w) x /= sum;
      r.lse[i * p.heads + h] = max + std::log(sum);
      for (std::size_t d = 0; d < p.head_dim; ++d) {
        double value = 0.0;
        for (std::size_t j = 0; j <= i; ++j) value += w[j] * p.v[j * s.v_stride + kv + d];
        r.out[i * s.out_stride + at + d] = value;
        shift += value * p.dout[i * s.out_stride + at + d];
      }
      for (std::size_t j = 0; j <= i; ++j) {
        double dp = 0.0;
        for (std::size_t d = 0; d < p.head_dim; ++d) {
          const double g = p.dout[i * s.out_stride + at + d];
          dp += g * p.v[j * s.v_stride + kv + d];
          r.dv[j * s.v_stride + kv + d] += w[j] * g;
        }
        const double ds = s.scale * w[j] * (dp - shift);
        for (std::size_t d = 0; d < p.head_dim; ++d) {
          r.dq[i * s.q_stride + at + d] += ds * p.k[j * s.k_stride + kv + d];
          r.dk[j * s.k_stride + kv + d] += ds * p.q[i * s.q_stride + at + d];
        }
      }
    }
  }
  return r;
}

constexpr double kTolerance = 2e-5;  // about 100 roundings of sums whose terms are of order 1 to 4

TEST_P(AttentionTest, OutputAndGradientsAgreeWithDoublesAtEverySize) {
  struct Heads {
    std::size_t heads, kv_heads;
  };
  for (const Heads h : {Heads{1, 1}, Heads{4, 4}, Heads{6, 2}}) {
    for (const std::size_t length : kSizes) {
      for (const std::size_t head_dim : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 72}) {
        Problem p(length, h.heads, h.kv_heads, head_dim, random_);
        const AttentionSequence sequence = p.rows(0, length);
        attention(p.shape, &sequence, 1, two_threads_);
        const Reference expected = reference(p);
        const std::string what =
            "length " + std::to_string(length) + " head_dim " + std::to_string(head_dim);
        expect_close(p.out, expected.out, kTolerance, kTolerance, what + " out");
        expect_close(p.lse, expected.lse, kTolerance, kTolerance, what + " log_sum_exp");
        // Gaps between rows must stay as they are.
        std::vector<float> dq(p.q.size(), -77.0F), dk(p.k.size(), -77.0F), dv(p.v.size(), -77.0F);
        const AttentionGradient gradient{p.dout.data(), dq.data(), dk.data(), dv.data()};
        attention_backward(p.shape, &sequence, &gradient, 1, two_threads_);
        expect_close(dq, expected.dq, 5 * kTolerance, kTolerance, what + " dq");
        expect_close(dk, expected.dk, 5 * kTolerance, kTolerance, what + " dk");
        expect_close(dv, expected.dv, 5 * kTolerance, kTolerance, what + " dv");
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(AttentionTest, ChunksAndThreadsGiveTheBitsOfTheWhole) {
  for (const std::size_t head_dim : {5, 64}) {
    Problem whole(150, 4, 2, head_dim, random_);
    Problem chunks = whole;
    const AttentionSequence sequence = whole.rows(0, 150);
    attention(whole.shape, &sequence, 1, serial_);
    const std::size_t cuts[] = {0, 1, 2, 30, 71, 72, 149, 150};
    for (std::size_t i = 0; i + 1 < std::size(cuts); ++i) {
      const AttentionSequence part = chunks.rows(cuts[i], cuts[i + 1]);
      attention(chunks.shape, &part, 1,
                i % 2 == 0 ? static_cast<ParallelFor&>(two_threads_) : serial_);
    }
    ASSERT_EQ(whole.out, chunks.out);
    ASSERT_EQ(whole.lse, chunks.lse);
  }
}

// Rows of one kv head in a cache, and the real values they stand for.
struct Stored {
  std::vector<std::vector<std::uint8_t>> bytes;
  std::vector<std::vector<float>> scales;
  std::vector<StoredKv> heads;
  std::vector<float> real;  // [tokens, stride]

  Stored(KvFormat format, std::size_t tokens, std::size_t kv_heads, std::size_t head_dim,
         std::size_t stride, std::mt19937& random)
      : real(tokens * stride, -77.0F) {
    const std::size_t row_bytes = stored_row_bytes(format, head_dim);
    for (std::size_t h = 0; h < kv_heads; ++h) {
      std::vector<std::uint8_t> rows(tokens * row_bytes, format == KvFormat::kInt4 ? 0x88 : 0);
      std::vector<float> scale = random_floats(tokens, random);
      for (float& value : scale) value = std::abs(value) + 0.01F;
      for (std::size_t t = 0; t < tokens; ++t) {
        std::uint8_t* row = rows.data() + t * row_bytes;
        const std::vector<float> values = random_floats(head_dim, random);
        const std::vector<std::int8_t> codes =
            random_codes(head_dim, format == KvFormat::kInt4 ? -7 : -127,
                         format == KvFormat::kInt4 ? 7 : 127, random);
        for (std::size_t d = 0; d < head_dim; ++d) {
          float& value = real[t * stride + h * head_dim + d];
          value = static_cast<float>(codes[d]) * scale[t];
          if (format == KvFormat::kF32) {
            value = values[d];
            std::memcpy(row + 4 * d, &value, 4);
          } else if (format == KvFormat::kBf16) {
            const std::uint16_t half = bf16_from_float(values[d]);
            value = float_from_bf16(half);
            std::memcpy(row + 2 * d, &half, 2);
          } else if (format == KvFormat::kInt8) {
            row[d] = static_cast<std::uint8_t>(codes[d]);
          } else {
            const int shift = d % 2 == 0 ? 0 : 4;
            row[d / 2] = static_cast<std::uint8_t>((row[d / 2] & ~(15 << shift)) |
                                                   ((codes[d] + 8) << shift));
          }
        }
      }
      bytes.push_back(std::move(rows));
      scales.push_back(std::move(scale));
      heads.push_back({bytes.back().data(), scales.back().data(), row_bytes, format});
    }
  }
};

TEST_P(AttentionTest, StoredKeysAndValuesGiveTheBitsOfTheirRealValues) {
  for (const KvFormat k_format :
       {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8, KvFormat::kInt4}) {
    for (const KvFormat v_format :
         {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8, KvFormat::kInt4}) {
      for (const std::size_t head_dim : {1, 3, 8, 13, 32, 64, 72}) {
        Problem p(75, 4, 2, head_dim, random_);
        const Stored k(k_format, 75, 2, head_dim, p.shape.k_stride, random_);
        const Stored v(v_format, 75, 2, head_dim, p.shape.v_stride, random_);
        p.k = k.real;
        p.v = v.real;
        const AttentionSequence whole = p.rows(0, 75);
        attention(p.shape, &whole, 1, serial_);
        const std::vector<float> out = p.out, lse = p.lse;
        std::fill(p.out.begin(), p.out.end(), -77.0F);
        for (const auto& [begin, end] : {std::pair{0, 30}, {30, 74}, {74, 75}}) {
          AttentionSequence part =
              p.rows(static_cast<std::size_t>(begin), static_cast<std::size_t>(end));
          part.k = part.v = nullptr;
          part.stored_k = k.heads.data();
          part.stored_v = v.heads.data();
          attention(p.shape, &part, 1, two_threads_);
        }
        ASSERT_EQ(out, p.out) << head_dim;
        ASSERT_EQ(lse, p.lse) << head_dim;
      }
    }
  }
}

// A problem whose keys and values are codes.
struct CodeProblem {
  Problem p;
  Stored k, v;
  CodeProblem(KvFormat k_format, KvFormat v_format, std::size_t length, std::size_t heads,
              std::size_t head_dim, std::mt19937& random)
      : p(length, heads, 2, head_dim, random),
        k(k_format, length, 2, head_dim, p.shape.k_stride, random),
        v(v_format, length, 2, head_dim, p.shape.v_stride, random) {
    p.k = k.real;
    p.v = v.real;
  }
  AttentionSequence rows(std::size_t begin, std::size_t end) {
    AttentionSequence part = p.rows(begin, end);
    part.k = part.v = nullptr;
    part.log_sum_exp = nullptr;
    part.stored_k = k.heads.data();
    part.stored_v = v.heads.data();
    part.multiplies_codes = true;
    return part;
  }
};

// What rounding of queries and weights to 24 bits moves the output of one query and head by, at
// most: a query by half a step of its largest element, so a score by that times the key's size, and
// a probability by twice that, relative; a weight by half a step of the largest.
std::vector<double> rounding_bounds(const CodeProblem& c, const Reference& exact, std::size_t i,
                                    std::size_t h) {
  const AttentionShape& s = c.p.shape;
  const std::size_t kv_head = h / (s.heads / s.kv_heads), kv = kv_head * s.head_dim;
  const float* q = c.p.q.data() + i * s.q_stride + h * s.head_dim;
  constexpr double kHalfStep = 0.5 / 8355700 * 1.01;
  double largest_q = 0, largest_key = 0, largest_weight = 0;
  for (std::size_t d = 0; d < s.head_dim; ++d)
    largest_q = std::max(largest_q, std::abs(double{q[d]}));
  std::vector<double> p(i + 1);
  for (std::size_t j = 0; j <= i; ++j) {
    double size = 0;
    for (std::size_t d = 0; d < s.head_dim; ++d) {
      const double key = c.p.k[j * s.k_stride + kv + d];
      p[j] += q[d] * key * s.scale;
      size += std::abs(key) * s.scale;
    }
    p[j] = std::exp(p[j] - exact.lse[i * s.heads + h]);
    largest_key = std::max(largest_key, size);
    largest_weight = std::max(largest_weight, p[j] * std::abs(c.v.scales[kv_head][j]));
  }
  const double relative = std::expm1(2 * kHalfStep * largest_q * largest_key);
  std::vector<double> bounds(s.head_dim, kTolerance);
  for (std::size_t d = 0; d < s.head_dim; ++d) {
    for (std::size_t j = 0; j <= i; ++j) {
      const double value = std::abs(double{c.p.v[j * s.v_stride + kv + d]});
      const double code = value / std::abs(c.v.scales[kv_head][j]);
      bounds[d] += relative * p[j] * value + kHalfStep * (1 + relative) * largest_weight * code;
    }
  }
  return bounds;
}

TEST_P(AttentionTest, ProductsOfCodesAreWithinTheirRoundingOfDoubles) {
  for (const KvFormat format : {KvFormat::kInt8, KvFormat::kInt4}) {
    for (const std::size_t heads : {2, 6}) {
      for (const std::size_t length : {1, 2, 7, 33, 64, 150}) {
        for (const std::size_t head_dim : {1, 3, 8, 16, 31, 33, 64, 72, 128}) {
          CodeProblem c(format, KvFormat::kInt8, length, heads, head_dim, random_);
          const AttentionShape& s = c.p.shape;
          // Scores of order 1: codes of 8 bits are up to 127 times their scale.
          c.p.shape.scale /= format == KvFormat::kInt8 ? 100.0F : 5.0F;
          if (!can_multiply_codes(s)) GTEST_SKIP() << "the set does not multiply codes";
          const AttentionSequence sequence = c.rows(0, length);
          attention(s, &sequence, 1, two_threads_);
          const Reference exact = reference(c.p);
          for (std::size_t i = 0; i < length; ++i) {
            for (std::size_t h = 0; h < heads; ++h) {
              const std::vector<double> bounds = rounding_bounds(c, exact, i, h);
              for (std::size_t d = 0; d < head_dim; ++d) {
                const std::size_t at = i * s.out_stride + h * head_dim + d;
                ASSERT_LE(std::abs(c.p.out[at] - exact.out[at]),
                          bounds[d] + kTolerance * std::abs(exact.out[at]))
                    << "length " << length << " head_dim " << head_dim << " query " << i;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(AttentionTest, NumbersThatAreNotFiniteStayVisibleInAttentionOnCodes) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const int where : {0, 1, 2}) {
      CodeProblem c(KvFormat::kInt8, KvFormat::kInt8, 40, 2, 64, random_);
      if (!can_multiply_codes(c.p.shape)) GTEST_SKIP() << "the set does not multiply codes";
      if (where == 0) c.p.q[39 * c.p.shape.q_stride + 5] = bad;
      // An infinite scale may give a score of minus infinity, which counts for nothing.
      if (where == 1) c.k.scales[0][17] = std::numeric_limits<float>::quiet_NaN();
      if (where == 2) c.v.scales[0][17] = bad;
      const AttentionSequence sequence = c.rows(0, 40);
      attention(c.p.shape, &sequence, 1, serial_);
      EXPECT_FALSE(std::isfinite(c.p.out[39 * c.p.shape.out_stride])) << bad << " in " << where;
    }
  }
}

TEST_P(AttentionTest, ChunksOfCodesGiveTheBitsOfTheWhole) {
  for (const KvFormat k_format : {KvFormat::kInt8, KvFormat::kInt4}) {
    for (const KvFormat v_format : {KvFormat::kInt8, KvFormat::kInt4}) {
      for (const std::size_t heads : {2, 6}) {
        for (const std::size_t head_dim : {5, 40, 64, 72}) {
          constexpr std::size_t kLength = 150;
          CodeProblem c(k_format, v_format, kLength, heads, head_dim, random_);
          c.p.shape.scale /= 100.0F;
          if (!can_multiply_codes(c.p.shape)) GTEST_SKIP() << "the set does not multiply codes";
          const AttentionSequence whole = c.rows(0, kLength);
          attention(c.p.shape, &whole, 1, serial_);
          const std::vector<float> out = c.p.out;
          std::fill(c.p.out.begin(), c.p.out.end(), -77.0F);
          const std::size_t cuts[] = {0, 1, 2, 30, 71, 72, 149, 150};
          for (std::size_t i = 0; i + 1 < std::size(cuts); ++i) {
            const AttentionSequence part = c.rows(cuts[i], cuts[i + 1]);
            attention(c.p.shape, &part, 1,
                      i % 2 == 0 ? static_cast<ParallelFor&>(two_threads_) : serial_);
          }
          for (std::size_t i = 0; i < out.size(); ++i) {
            if (i % c.p.shape.out_stride >= heads * head_dim) continue;
            ASSERT_EQ(out[i], c.p.out[i]) << head_dim << " at " << i;
          }
        }
      }
    }
  }
}

TEST_P(AttentionTest, VectorSetsGiveTheSameBits) {
  const std::vector<Isa> available = available_isas();
  if (available.size() < 2 || GetParam() <= available[1])
    GTEST_SKIP() << "compares wider sets with the first that has vectors";
  for (const std::size_t length : {1, 5, 8, 33, 150}) {
    for (const std::size_t head_dim : {1, 7, 8, 13, 16, 33, 64, 72, 264}) {
      Problem p(length, 4, 2, head_dim, random_);
      const AttentionSequence sequence = p.rows(0, length);
      std::vector<std::vector<float>> results[2];
      for (int set = 0; set < 2; ++set) {
        force_isa(set == 0 ? available[1] : GetParam());
        std::vector<float> dq(p.q.size()), dk(p.k.size()), dv(p.v.size());
        const AttentionGradient gradient{p.dout.data(), dq.data(), dk.data(), dv.data()};
        attention(p.shape, &sequence, 1, two_threads_);
        attention_backward(p.shape, &sequence, &gradient, 1, two_threads_);
        results[set] = {p.out, p.lse, dq, dk, dv};
      }
      ASSERT_EQ(results[0], results[1]) << "length " << length << " head_dim " << head_dim;
    }
  }
}

TEST_P(AttentionTest, SequencesOfABatchAreIndependent) {
  std::vector<Problem> problems;
  std::vector<AttentionSequence> sequences;
  std::vector<AttentionGradient> gradients;
  std::vector<std::vector<float>> together, alone;
  for (const std::size_t length : {1, 40, 0, 7, 90})
    problems.emplace_back(length, 2, 1, 16, random_);
  for (Problem& p : problems) {
    sequences.push_back(p.rows(0, p.length));
    for (const std::vector<float>* x : {&p.q, &p.k, &p.v}) together.emplace_back(x->size());
  }
  alone = together;
  for (std::size_t i = 0; i < problems.size(); ++i) {
    gradients.push_back({problems[i].dout.data(), together[i * 3].data(),
                         together[i * 3 + 1].data(), together[i * 3 + 2].data()});
  }
  const AttentionShape shape = problems[0].shape;
  attention(shape, sequences.data(), sequences.size(), two_threads_);
  attention_backward(shape, sequences.data(), gradients.data(), sequences.size(), two_threads_);
  for (std::size_t i = 0; i < problems.size(); ++i) {
    Problem p = problems[i];
    const std::vector<float> expected = p.out;
    p.out.assign(p.out.size(), -77.0F);
    const AttentionSequence sequence = p.rows(0, p.length);
    attention(shape, &sequence, 1, serial_);
    ASSERT_EQ(p.out, expected);
    const AttentionGradient gradient{p.dout.data(), alone[i * 3].data(), alone[i * 3 + 1].data(),
                                     alone[i * 3 + 2].data()};
    attention_backward(shape, &sequence, &gradient, 1, serial_);
  }
  EXPECT_EQ(together, alone);
}

TEST_P(AttentionTest, FutureKeysAreNotRead) {
  Problem p(33, 2, 2, 16, random_);
  const AttentionSequence sequence = p.rows(0, 33);
  attention(p.shape, &sequence, 1, serial_);
  const std::vector<float> clean = p.out;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t i = 30 * p.shape.k_stride; i < p.k.size(); ++i) p.k[i] = nan;
  for (std::size_t i = 30 * p.shape.v_stride; i < p.v.size(); ++i) p.v[i] = nan;
  attention(p.shape, &sequence, 1, serial_);
  const auto seen = static_cast<std::ptrdiff_t>(30 * p.shape.out_stride);
  EXPECT_TRUE(std::equal(clean.begin(), clean.begin() + seen, p.out.begin()));
  EXPECT_TRUE(std::isnan(p.out[30 * p.shape.out_stride]));
}

TEST_P(AttentionTest, LargeScoresNeitherOverflowNorVanish) {
  Problem p(20, 1, 1, 8, random_);
  for (float& value : p.q) value *= 1e4F;
  const AttentionSequence sequence = p.rows(0, 20);
  attention(p.shape, &sequence, 1, serial_);
  for (std::size_t i = 0; i < 20; ++i) {
    for (std::size_t d = 0; d < 8; ++d)
      EXPECT_TRUE(std::isfinite(p.out[i * p.shape.out_stride + d]));
  }
}

// With two keys and v = (0, 1), out is exp(s) / (1 + exp(s)): the exponential itself, against
// doubles.
TEST_P(AttentionTest, ExponentialIsAccurateToThreeUlpOverItsRange) {
  constexpr std::size_t kCount = 4000;
  const AttentionShape shape{1, 1, 1, 1, 1, 1, 1, 1.0F};
  for (std::size_t i = 0; i < kCount; ++i) {
    const float score = -static_cast<float>(i) * 0.0217F;  // down to -86.8
    const float q[] = {0.0F, 1.0F}, k[] = {0.0F, score}, v[] = {0.0F, 1.0F};
    float out[2];
    const AttentionSequence sequence{q, k, v, out, nullptr, 2, 0};
    attention(shape, &sequence, 1, serial_);
    const double expected = std::exp(double{score}) / (1.0 + std::exp(double{score}));
    ASSERT_LE(std::fabs(out[1] - expected), 3.0 * 0x1p-23 * expected) << score;
  }
}

}  // namespace attention_test
}  // namespace qalof::kernels
