// Adds neighbours in a binary tree over the segments' numbers, here and among processes. See
// segment_sums.h.
#include "core/segment_sums.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace qalof {

namespace {

// Numbers exchanged at a time, so that few of the other processes' are held.
constexpr std::size_t kExchanged = std::size_t{1} << 16;

}  // namespace

// The second of two halves of a subtree is added to the first.
void SegmentSums::append(std::vector<Part>& parts, Part part) {
  parts.push_back(std::move(part));
  while (parts.size() > 1) {
    Part& left = parts[parts.size() - 2];
    const Part& right = parts.back();
    if (left.count != right.count || left.first % (2 * left.count) != 0) return;
    for (std::size_t i = 0; i < left.values.size(); ++i) left.values[i] += right.values[i];
    left.count *= 2;
    parts.pop_back();
  }
}

void SegmentSums::add(std::size_t segment, std::vector<double> values) {
  QALOF_CHECK(values.size() == size_, ErrorKind::kInternal, "segment {} has {} sums, expected {}",
              segment, values.size(), size_);
  append(parts_, {segment, 1, std::move(values)});
}

std::vector<double> SegmentSums::finish(ProcessGroup* group) {
  std::vector<Part> parts = std::exchange(parts_, {});
  if (group != nullptr) {
    struct Place {
      std::size_t first, count;
    };
    std::vector<Place> own;
    own.reserve(parts.size());
    for (const Part& part : parts) own.push_back({part.first, part.count});
    std::vector<std::vector<Place>> places;
    for (const std::string& text : gather_texts(*group, bytes_of<Place>(own)))
      places.push_back(values_in<Place>(text));
    std::vector<double> total(size_);
    for (std::size_t begin = 0; begin < size_; begin += kExchanged) {
      const std::size_t n = std::min(kExchanged, size_ - begin);
      std::string text;
      for (const Part& part : parts) text += bytes_of(std::span(part.values).subspan(begin, n));
      const std::vector<std::string> texts = gather_texts(*group, text);
      std::vector<Part> all;
      for (std::size_t rank = 0; rank < texts.size(); ++rank) {
        const std::vector<double> values = values_in<double>(texts[rank]);
        auto next = values.begin();
        for (const Place& place : places[rank]) {
          append(all, {place.first, place.count, {next, next + static_cast<std::ptrdiff_t>(n)}});
          next += static_cast<std::ptrdiff_t>(n);
        }
      }
      QALOF_CHECK(all.size() == 1 && all[0].count == kSegments, ErrorKind::kInternal,
                  "the processes' segments leave {} sums, expected 1 of {}", all.size(), kSegments);
      std::ranges::copy(all[0].values, total.begin() + static_cast<std::ptrdiff_t>(begin));
    }
    return total;
  }
  QALOF_CHECK(parts.size() == 1 && parts[0].count == kSegments, ErrorKind::kInternal,
              "{} sums are left, expected 1 of {} segments", parts.size(), kSegments);
  return std::move(parts[0].values);
}

}  // namespace qalof
