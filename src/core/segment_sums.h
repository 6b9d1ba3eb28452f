// A sum of vectors, one for each segment of some data, that does not depend on which process adds
// which segments (docs/numerics.md, "GPTQ").
#pragma once

#include <cstddef>
#include <vector>

#include "core/process_group.h"

namespace qalof {

/// Segments of the data, however many processes there are. A power of two: their tree is whole.
inline constexpr std::size_t kSegments = 16;

/// Things that follow each other, first .. end - 1.
struct IndexRange {
  std::size_t first = 0, end = 0;
};
/// What belongs to one of `parts`, as equal as whole things allow.
inline IndexRange part_of(std::size_t count, std::size_t parts, std::size_t index) {
  return {index * count / parts, (index + 1) * count / parts};
}
/// What belongs to this process. A null group: everything.
inline IndexRange own_part(std::size_t count, const ProcessGroup* group) {
  if (group == nullptr) return {0, count};
  return part_of(count, group->size(), group->rank());
}

/// Neighbours are added as soon as both are known, so few vectors are held at a time.
class SegmentSums {
 public:
  explicit SegmentSums(std::size_t size) : size_(size) {}
  /// Of a segment; in ascending order those of own_part(kSegments, group).
  void add(std::size_t segment, std::vector<double> values);
  /// The sum of all segments, on every process of the group; null: this one added all of them.
  std::vector<double> finish(ProcessGroup* group);

 private:
  struct Part {
    std::size_t first, count;  // segments
    std::vector<double> values;
  };
  static void append(std::vector<Part>& parts, Part part);

  std::size_t size_;
  std::vector<Part> parts_;
};

}  // namespace qalof
