// Sums that do not depend on who adds.
#include "train/torch/sum_tree.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace qalof::train {
namespace sum_tree_test {

// Terms whose sum depends on the order.
std::vector<at::Tensor> terms_of(std::size_t count) {
  std::vector<at::Tensor> terms;
  for (std::size_t i = 0; i < count; ++i) {
    const double scale = i % 3 == 0 ? 1e7 : 1.0;
    terms.push_back(at::sin(at::arange(64, at::kFloat) * 1.7 + static_cast<double>(i) * 0.9) *
                    scale);
  }
  return terms;
}

at::Tensor sum_in_tree(std::vector<at::Tensor> terms) {
  for (at::Tensor& term : terms) term = term.clone();
  sum_of(terms);
  return terms.front();
}

at::Tensor sum_one_by_one(const std::vector<at::Tensor>& terms) {
  at::Tensor buffer = at::empty({64}, at::kFloat);
  SumTree tree(buffer);
  for (const at::Tensor& term : terms) {
    buffer.copy_(term);
    tree.add();
  }
  tree.finish();
  return buffer.clone();
}

TEST(SumTree, IsTheTreeOfItsDefinition) {
  const std::vector<at::Tensor> t = terms_of(7);
  const at::Tensor expected = ((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + t[6]);
  EXPECT_TRUE(at::equal(sum_in_tree(t), expected));
  const at::Tensor in_order = ((((((t[0] + t[1]) + t[2]) + t[3]) + t[4]) + t[5]) + t[6]);
  EXPECT_FALSE(at::equal(in_order, expected));
}

TEST(SumTree, DoesNotDependOnWhoAddsWhat) {
  for (std::size_t count = 1; count <= 17; ++count) {
    const std::vector<at::Tensor> terms = terms_of(count);
    const at::Tensor expected = sum_in_tree(terms);
    EXPECT_TRUE(at::equal(sum_one_by_one(terms), expected)) << count;
    for (const std::size_t each : {1U, 2U, 4U, 8U, 16U}) {
      std::vector<at::Tensor> sums;
      for (std::size_t first = 0; first < count; first += each) {
        const auto at = terms.begin() + static_cast<std::ptrdiff_t>(first);
        sums.push_back(
            sum_one_by_one({at, at + static_cast<std::ptrdiff_t>(std::min(each, count - first))}));
      }
      EXPECT_TRUE(at::equal(sum_in_tree(sums), expected)) << count << " by " << each;
    }
  }
}

}  // namespace sum_tree_test
}  // namespace qalof::train
