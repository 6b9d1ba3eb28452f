// Quantizes weights into row codes, packs codes or floats into panels, and reads panels back.
#include "weights/weight_packing.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/bf16.h"
#include "kernels/codebook.h"
#include "kernels/quantize.h"
#include "weights/codebook_weights.h"
#include "weights/linear_op.h"

namespace qalof::weights {

namespace {

// Codes of 8 bits become those of 4 bits.
void take_high_part(RowCodes& rows) {
  for (std::int8_t& code : rows.codes) code = static_cast<std::int8_t>(kernels::nested_high(code));
  for (float& scale : rows.scales) scale *= 16.0F;
  for (std::int8_t& zero : rows.zeros) zero = static_cast<std::int8_t>(zero / 16);
}

}  // namespace

RowCodes quantize_weights(const std::vector<float>& weights, std::size_t out, std::size_t in,
                          int bits, quant::QuantScheme scheme, ParallelFor& parallel) {
  QALOF_CHECK(weights.size() == out * in && !scheme.is_codebook(), ErrorKind::kInternal,
              "quantize_weights: {} weights for [{}, {}], scheme {}", weights.size(), out, in,
              quant::to_string(scheme));
  RowCodes rows{out, in, scheme.group, std::vector<std::int8_t>(out * in), {}, {}};
  rows.scales.resize(out * rows.groups());
  if (scheme.nested) {
    QALOF_CHECK(bits == 8 || bits == 4, ErrorKind::kInternal, "quantize_weights: {} nested bits",
                bits);
    if (scheme.asymmetric) rows.zeros.resize(rows.scales.size());
    kernels::quantize_nested(weights.data(), out, in, scheme.group, rows.codes.data(),
                             rows.scales.data(), scheme.asymmetric ? rows.zeros.data() : nullptr,
                             parallel);
    if (bits == 4) take_high_part(rows);
    return rows;
  }
  if (scheme.kind == quant::CodeKind::kInt8) {
    kernels::quantize_vectorwise(weights.data(), out, in, rows.codes.data(), rows.scales.data(),
                                 parallel);
    for (float& scale : rows.scales) scale *= 1.0F / 127.0F;
    return rows;
  }
  if (scheme.group == 0) {
    if (scheme.mse) {
      kernels::quantize_rows_least_error(weights.data(), out, in, bits, rows.codes.data(),
                                         rows.scales.data(), parallel);
    } else {
      kernels::quantize_rows(weights.data(), out, in, bits, rows.codes.data(), rows.scales.data(),
                             parallel);
    }
    return rows;
  }
  if (scheme.asymmetric) rows.zeros.resize(rows.scales.size());
  const auto make = scheme.mse ? kernels::quantize_groups_least_error : kernels::quantize_groups;
  make(weights.data(), out, in, bits, scheme.group, rows.codes.data(), rows.scales.data(),
       scheme.asymmetric ? rows.zeros.data() : nullptr, parallel);
  return rows;
}

namespace {

template <typename T>
std::vector<T> unpack_groups(const T* src, std::size_t n, std::size_t groups) {
  std::vector<T> dst(n * groups);
  constexpr std::size_t kRows = kernels::kPanelRows;
  for (std::size_t row = 0; row < n; ++row) {
    for (std::size_t group = 0; group < groups; ++group)
      dst[row * groups + group] = src[(row / kRows * groups + group) * kRows + row % kRows];
  }
  return dst;
}

RowCodes unpack(const kernels::PackedMatrix& w) {
  RowCodes rows{w.n, w.k, w.group, std::vector<std::int8_t>(w.n * w.k), {}, {}};
  kernels::unpack_codes(w, rows.codes.data());
  if (w.group == 0) {
    rows.scales.assign(w.scales, w.scales + w.n);
  } else {
    rows.scales = unpack_groups(w.scales, w.n, rows.groups());
    if (w.zeros != nullptr) rows.zeros = unpack_groups(w.zeros, w.n, rows.groups());
  }
  return rows;
}

std::vector<float> unpack_floats(const kernels::PackedMatrix& w) {
  std::vector<float> dense(w.n * w.k);
  constexpr std::size_t kPanel = kernels::kPanelRows;
  const std::size_t pairs = (w.k + 1) / 2;
  for (std::size_t row = 0; row < w.n; ++row) {
    const std::size_t panel = row / kPanel, lane = row % kPanel;
    const float scale = w.scales != nullptr ? w.scales[row] : 1.0F;
    for (std::size_t col = 0; col < w.k; ++col) {
      float value = 0;
      if (w.format == kernels::WeightFormat::kF32) {
        value = static_cast<const float*>(w.panels)[(panel * w.k + col) * kPanel + lane];
      } else {
        const std::size_t at = ((panel * pairs + col / 2) * kPanel + lane) * 2 + col % 2;
        value = kernels::float_from_bf16(static_cast<const std::uint16_t*>(w.panels)[at]);
      }
      dense[row * w.k + col] = value * scale;
    }
  }
  return dense;
}

}  // namespace

std::vector<float> dequantize_codes(const RowCodes& rows, ParallelFor& parallel) {
  std::vector<float> reals(rows.codes.size());
  if (rows.group == 0) {
    kernels::dequantize_rows(rows.codes.data(), rows.scales.data(), rows.n, rows.k, reals.data(),
                             parallel);
  } else {
    kernels::dequantize_groups(rows.codes.data(), rows.scales.data(),
                               rows.zeros.empty() ? nullptr : rows.zeros.data(), rows.n, rows.k,
                               rows.group, reals.data(), parallel);
  }
  return reals;
}

namespace {

std::unique_ptr<OwnedMatrix> make_owned(kernels::WeightFormat format, std::size_t n,
                                        std::size_t k) {
  auto owned = std::make_unique<OwnedMatrix>();
  owned->view.format = format;
  owned->view.n = n;
  owned->view.k = k;
  owned->panels.resize(kernels::packed_matrix_bytes(format, n, k));
  owned->view.panels = owned->panels.data();
  return owned;
}

// Float panels for float activations. Codes are small integers and exact as floats: with one scale
// per row the panels hold the codes and the product is scaled; with groups they hold dequantized
// values.
std::unique_ptr<OwnedMatrix> pack_as_floats(const RowCodes& rows, ParallelFor& parallel) {
  auto owned = make_owned(kernels::WeightFormat::kF32, rows.n, rows.k);
  const std::vector<float> values = rows.group == 0
                                        ? std::vector<float>(rows.codes.begin(), rows.codes.end())
                                        : dequantize_codes(rows, parallel);
  kernels::pack_f32(values.data(), rows.n, rows.k, rows.k, /*transposed=*/false,
                    reinterpret_cast<float*>(owned->panels.data()), parallel);
  if (rows.group == 0) owned->scales = rows.scales;
  owned->update_view();
  return owned;
}

std::unique_ptr<OwnedMatrix> pack_as_integers(const RowCodes& rows, kernels::WeightFormat format,
                                              ParallelFor& parallel) {
  auto owned = make_owned(format, rows.n, rows.k);
  if (rows.group == 0) {
    owned->scales = rows.scales;
    owned->code_sums.resize(rows.n);
    kernels::pack_codes(rows.codes.data(), rows.n, rows.k, format, owned->panels.data(),
                        owned->code_sums.data(), parallel);
  } else {
    const std::size_t count = kernels::grouped_count(rows.n, rows.groups());
    owned->view.group = rows.group;
    owned->scales.resize(count);
    owned->code_sums.resize(count);
    kernels::pack_codes(rows.codes.data(), rows.n, rows.k, format, rows.group, owned->panels.data(),
                        owned->code_sums.data(), parallel);
    kernels::pack_groups(rows.scales.data(), rows.n, rows.groups(), owned->scales.data());
    if (!rows.zeros.empty()) {
      owned->zeros.resize(count);
      kernels::pack_groups(rows.zeros.data(), rows.n, rows.groups(), owned->zeros.data());
    }
  }
  owned->update_view();
  return owned;
}

}  // namespace

void OwnedMatrix::update_view() {
  view.scales = scales.empty() ? nullptr : scales.data();
  view.code_sums = code_sums.empty() ? nullptr : code_sums.data();
  view.zeros = zeros.empty() ? nullptr : zeros.data();
}

namespace {

constexpr std::size_t kAlignment = 64;

// Before the arrays, each of which begins at a multiple of kAlignment.
struct MatrixHeader {
  kernels::PackedMatrix view;
  std::size_t panels, scales, code_sums, zeros;  // bytes
};

std::size_t aligned(std::size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

std::vector<std::byte> to_bytes(const OwnedMatrix& matrix) {
  const std::span<const std::byte> arrays[] = {
      matrix.panels, std::as_bytes(std::span(matrix.scales)),
      std::as_bytes(std::span(matrix.code_sums)), std::as_bytes(std::span(matrix.zeros))};
  const MatrixHeader header{matrix.view, arrays[0].size(), arrays[1].size(), arrays[2].size(),
                            arrays[3].size()};
  std::size_t size = aligned(sizeof header);
  for (const auto& array : arrays) size += aligned(array.size());
  std::vector<std::byte> bytes(size);
  std::memcpy(bytes.data(), &header, sizeof header);
  std::byte* to = bytes.data() + aligned(sizeof header);
  for (const auto& array : arrays) {
    if (!array.empty()) std::memcpy(to, array.data(), array.size());
    to += aligned(array.size());
  }
  return bytes;
}

std::unique_ptr<OwnedMatrix> matrix_in(std::span<const std::byte> bytes) {
  MatrixHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  auto matrix = std::make_unique<OwnedMatrix>();
  matrix->view = header.view;
  const std::byte* from = bytes.data() + aligned(sizeof header);
  const auto next = [&](std::size_t size) {
    const std::byte* at = size == 0 ? nullptr : from;
    from += aligned(size);
    return at;
  };
  matrix->view.panels = next(header.panels);
  matrix->view.scales = reinterpret_cast<const float*>(next(header.scales));
  matrix->view.code_sums = reinterpret_cast<const std::int32_t*>(next(header.code_sums));
  matrix->view.zeros = reinterpret_cast<const std::int8_t*>(next(header.zeros));
  return matrix;
}

std::unique_ptr<OwnedMatrix> pack_codes(const RowCodes& rows, quant::Precision precision,
                                        ParallelFor& parallel) {
  const kernels::WeightFormat format = weight_format(precision);
  return format == kernels::WeightFormat::kF32 ? pack_as_floats(rows, parallel)
                                               : pack_as_integers(rows, format, parallel);
}

RowCodes unpack_nested(const kernels::PackedMatrix& high, const kernels::PackedMatrix& low) {
  RowCodes rows = unpack(low);
  std::vector<std::int8_t> upper(rows.codes.size());
  kernels::unpack_codes(high, upper.data());
  for (std::size_t i = 0; i < upper.size(); ++i)
    rows.codes[i] = static_cast<std::int8_t>(std::max(-128, 16 * upper[i] + rows.codes[i]));
  return rows;
}

NestedMatrix pack_nested(const kernels::PackedMatrix& w, ParallelFor& parallel) {
  RowCodes rows = unpack(w), low = rows;
  for (std::int8_t& code : low.codes) code = static_cast<std::int8_t>(kernels::nested_low(code));
  take_high_part(rows);
  constexpr auto kFormat = kernels::WeightFormat::kInt4;
  return {pack_as_integers(rows, kFormat, parallel), pack_as_integers(low, kFormat, parallel)};
}

std::unique_ptr<OwnedMatrix> pack_weights(const std::vector<float>& weights, std::size_t out,
                                          std::size_t in, quant::Precision precision,
                                          quant::QuantScheme scheme, ParallelFor& parallel) {
  QALOF_CHECK(weights.size() == out * in, ErrorKind::kInternal,
              "pack_weights: {} weights for [{}, {}]", weights.size(), out, in);
  if (precision.weight.is_integer() && scheme.is_codebook()) {
    return pack_codebook(quantize_with_codebook(weights, out, in, scheme, parallel),
                         precision.activation, parallel);
  }
  const kernels::WeightFormat format = weight_format(precision);
  if (precision.weight.is_integer()) {
    return pack_codes(quantize_weights(weights, out, in, precision.weight.bits, scheme, parallel),
                      precision, parallel);
  }
  return pack_floats(weights, out, in, format, parallel);
}

std::unique_ptr<OwnedMatrix> pack_floats(const std::vector<float>& weights, std::size_t out,
                                         std::size_t in, kernels::WeightFormat format,
                                         ParallelFor& parallel) {
  auto owned = make_owned(format, out, in);
  if (format == kernels::WeightFormat::kBf16) {
    kernels::pack_bf16(weights.data(), out, in,
                       reinterpret_cast<std::uint16_t*>(owned->panels.data()), parallel);
  } else {
    kernels::pack_f32(weights.data(), out, in, in, /*transposed=*/false,
                      reinterpret_cast<float*>(owned->panels.data()), parallel);
  }
  return owned;
}

std::unique_ptr<OwnedMatrix> pack_rows(
    const std::function<void(std::size_t, std::span<float>)>& fill, std::size_t out, std::size_t in,
    quant::Precision precision, ParallelFor& parallel) {
  constexpr std::size_t kPartValues = std::size_t{1} << 20;
  constexpr std::size_t kPanel = kernels::kPanelRows;
  const std::size_t part = std::max<std::size_t>(1, kPartValues / in / kPanel) * kPanel;
  auto whole = make_owned(weight_format(precision), out, in);
  std::vector<float> values;
  for (std::size_t row = 0; row < out; row += part) {
    values.resize(std::min(part, out - row) * in);
    fill(row, values);
    const auto rows = pack_weights(values, values.size() / in, in, precision, {}, parallel);
    // A part is a whole number of panels, and panels are contiguous.
    std::copy(rows->panels.begin(), rows->panels.end(),
              whole->panels.begin() + static_cast<std::ptrdiff_t>(kernels::packed_matrix_bytes(
                                          whole->view.format, row, in)));
    whole->scales.insert(whole->scales.end(), rows->scales.begin(), rows->scales.end());
    whole->code_sums.insert(whole->code_sums.end(), rows->code_sums.begin(), rows->code_sums.end());
  }
  whole->update_view();
  return whole;
}

std::vector<float> unpack_reals(const kernels::PackedMatrix& packed, ParallelFor& parallel) {
  if (kernels::is_integer(packed.format)) return dequantize_codes(unpack(packed), parallel);
  return unpack_floats(packed);
}

std::unique_ptr<OwnedMatrix> pack_for_floats(const kernels::PackedMatrix& integers,
                                             ParallelFor& parallel) {
  return pack_as_floats(unpack(integers), parallel);
}

}  // namespace qalof::weights
