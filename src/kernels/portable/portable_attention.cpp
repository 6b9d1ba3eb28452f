// Attention on cached keys and values without vector code: the loops of dot_rows and weigh_rows
// (portable_kernels.cpp) with elements read from the cache, in equal order.
#include "kernels/bf16.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

// Calls body with a function (row, element) -> float that reads the cache's format.
template <typename Body>
void with_reader(const StoredKv& stored, const Body& body) {
  const auto* bytes = static_cast<const std::uint8_t*>(stored.rows);
  const std::size_t stride = stored.row_bytes;
  const float* scales = stored.scales;
  switch (stored.format) {
    case KvFormat::kF32:
      return body([bytes, stride](std::size_t row, std::size_t d) {
        return reinterpret_cast<const float*>(bytes + row * stride)[d];
      });
    case KvFormat::kBf16:
      return body([bytes, stride](std::size_t row, std::size_t d) {
        return float_from_bf16(reinterpret_cast<const std::uint16_t*>(bytes + row * stride)[d]);
      });
    case KvFormat::kInt8:
      return body([bytes, stride, scales](std::size_t row, std::size_t d) {
        return static_cast<float>(static_cast<std::int8_t>(bytes[row * stride + d])) * scales[row];
      });
    case KvFormat::kInt4:
      return body([bytes, stride, scales](std::size_t row, std::size_t d) {
        const int code = ((bytes[row * stride + d / 2] >> (d % 2 * 4)) & 15) - 8;
        return static_cast<float>(code) * scales[row];
      });
  }
}

}  // namespace

void portable_dot_stored(const float* a, std::size_t a_rows, std::size_t a_stride,
                         const StoredKv& b, std::size_t b_rows, std::size_t dim, float scale,
                         float* dst, std::size_t dst_stride) {
  with_reader(b, [&](auto read) {
    for (std::size_t i = 0; i < a_rows; ++i) {
      for (std::size_t j = 0; j < b_rows; ++j) {
        float sum = 0.0F;
        for (std::size_t d = 0; d < dim; ++d) sum += a[i * a_stride + d] * read(j, d);
        dst[i * dst_stride + j] = sum * scale;
      }
    }
  });
}

void portable_weigh_stored(const WeighRows& work, const StoredKv& values) {
  with_reader(values, [&](auto read) {
    for (std::size_t row = 0; row < work.rows; ++row) {
      float* out = work.out + row * work.out_stride;
      const float* weights = work.weights + row * work.row_stride;
      const std::size_t count = work.first_count + row * work.count_step;
      for (std::size_t j = 0; j < count; ++j) {
        const float weight = weights[j * work.column_stride];
        for (std::size_t d = 0; d < work.dim; ++d) out[d] += weight * read(j, d);
      }
    }
  });
}

}  // namespace qalof::kernels
