// Sums that do not depend on who adds.
#include "train/torch/sum_tree.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <barrier>
#include <thread>
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

// Processes that are threads, whose tensors lie where all see them.
TEST(SumTree, PartsThatProcessesAddAreTheSameTree) {
  for (const std::size_t processes : {1U, 2U, 3U, 5U, 8U}) {
    for (const std::size_t contributors : {processes, (processes + 1) / 2}) {
      const std::vector<at::Tensor> terms = terms_of(processes);
      const at::Tensor expected =
          sum_in_tree({terms.begin(), terms.begin() + static_cast<std::ptrdiff_t>(contributors)});
      std::vector<at::Tensor> sent(processes);
      std::barrier<> all_here(static_cast<std::ptrdiff_t>(processes));
      // Its part, or the whole, of what each process sends.
      const auto exchange = [&](std::size_t rank, at::Tensor& received, at::Tensor& own,
                                bool parts) {
        const std::int64_t size = received.numel() / static_cast<std::int64_t>(processes);
        EXPECT_EQ(own.numel(), parts ? received.numel() : size);
        sent[rank] = own;
        all_here.arrive_and_wait();
        const at::Tensor copy = at::empty_like(received);
        for (std::size_t from = 0; from < processes; ++from) {
          const auto first = static_cast<std::int64_t>(parts ? rank : 0) * size;
          copy.narrow(0, static_cast<std::int64_t>(from) * size, size)
              .copy_(sent[from].narrow(0, first, size));
        }
        all_here.arrive_and_wait();
        received.copy_(copy);
        all_here.arrive_and_wait();
      };
      std::vector<at::Tensor> values(processes);
      std::vector<std::thread> threads;
      for (std::size_t rank = 0; rank < processes; ++rank) {
        threads.emplace_back([&, rank] {
          SumOfParts sums(processes);
          for (int again = 0; again < 2; ++again) {
            values[rank] = terms[rank].clone();
            sums.sum(
                values[rank], contributors,
                [&](at::Tensor& to, at::Tensor& own) { exchange(rank, to, own, true); },
                [&](at::Tensor& to, at::Tensor& own) { exchange(rank, to, own, false); });
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      for (const at::Tensor& sum : values)
        EXPECT_TRUE(at::equal(sum, expected)) << processes << " " << contributors;
    }
  }
}

}  // namespace sum_tree_test
}  // namespace qalof::train
