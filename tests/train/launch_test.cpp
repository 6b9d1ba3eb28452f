// Launchers' variables, and sums that do not depend on who adds.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cstdlib>
#include <map>

#include "support/error_of.h"
#include "train/process_group.h"
#include "train/torch/sum_tree.h"

namespace qalof::train {
namespace launch_test {

using qalof::testing::error_of;
using ::testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

constexpr const char* kKnown[] = {"RANK",
                                  "WORLD_SIZE",
                                  "LOCAL_RANK",
                                  "LOCAL_WORLD_SIZE",
                                  "MASTER_ADDR",
                                  "MASTER_PORT",
                                  "SLURM_STEP_NUM_TASKS",
                                  "SLURM_PROCID",
                                  "SLURM_LOCALID",
                                  "SLURM_JOB_ID",
                                  "SLURM_STEP_NUM_NODES",
                                  "OMPI_COMM_WORLD_SIZE",
                                  "OMPI_COMM_WORLD_RANK",
                                  "OMPI_COMM_WORLD_LOCAL_RANK",
                                  "OMPI_COMM_WORLD_LOCAL_SIZE",
                                  "TORCHELASTIC_USE_AGENT_STORE",
                                  "TORCHELASTIC_RESTART_COUNT"};

Launch launch_with(const Variables& variables) {
  for (const char* name : kKnown) ::unsetenv(name);
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  struct Clear {
    ~Clear() {
      for (const char* name : kKnown) ::unsetenv(name);
    }
  } const clear;
  return launch_of_environment();
}

TEST(Launch, WithoutVariablesTheProcessIsAlone) {
  const Launch launch = launch_with({});
  EXPECT_EQ(launch.size, 1U);
  EXPECT_EQ(launch.rank, 0U);
}

TEST(Launch, TorchrunBringsTheStoreAndCountsRestarts) {
  const Launch launch = launch_with({{"RANK", "5"},
                                     {"WORLD_SIZE", "8"},
                                     {"LOCAL_RANK", "1"},
                                     {"LOCAL_WORLD_SIZE", "4"},
                                     {"MASTER_ADDR", "node-a"},
                                     {"MASTER_PORT", "1234"},
                                     {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                     {"TORCHELASTIC_RESTART_COUNT", "2"}});
  EXPECT_EQ(launch.rank, 5U);
  EXPECT_EQ(launch.size, 8U);
  EXPECT_EQ(launch.local_rank, 1U);
  EXPECT_EQ(launch.local_size, 4U);
  EXPECT_EQ(launch.address, "node-a");
  EXPECT_EQ(launch.port, 1234);
  EXPECT_FALSE(launch.hosts_store);
  EXPECT_EQ(launch.prefix, "/worker/attempt_2");
  EXPECT_FALSE(launch.is_one_machine());
}

TEST(Launch, SlurmCountsOnlyInAStep) {
  Variables variables = {{"SLURM_PROCID", "0"}, {"SLURM_JOB_ID", "12345"}};
  EXPECT_EQ(launch_with(variables).size, 1U);  // a batch script
  variables["SLURM_STEP_NUM_TASKS"] = "4";
  variables["SLURM_STEP_NUM_NODES"] = "1";
  variables["SLURM_LOCALID"] = "3";
  variables["SLURM_PROCID"] = "3";
  const Launch launch = launch_with(variables);
  EXPECT_EQ(launch.rank, 3U);
  EXPECT_EQ(launch.size, 4U);
  EXPECT_TRUE(launch.is_one_machine());
  EXPECT_EQ(launch.port, 29500 + 345);
  EXPECT_FALSE(launch.hosts_store);
  variables["SLURM_STEP_NUM_NODES"] = "2";
  variables["SLURM_LOCALID"] = "1";
  const auto error = error_of([&] { launch_with(variables); });
  EXPECT_THAT(error.message, HasSubstr("MASTER_ADDR: is not set"));
}

TEST(Launch, OpenMpiOnOneMachineNeedsNoAddress) {
  const Launch launch = launch_with({{"OMPI_COMM_WORLD_SIZE", "2"},
                                     {"OMPI_COMM_WORLD_RANK", "0"},
                                     {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                                     {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  EXPECT_EQ(launch.size, 2U);
  EXPECT_EQ(launch.address, "127.0.0.1");
  EXPECT_TRUE(launch.hosts_store);
}

TEST(Launch, ContradictionsAreNamed) {
  const Variables good = {
      {"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "2"}};
  const auto message = [&](const char* name, const char* value) {
    Variables variables = good;
    variables[name] = value;
    return error_of([&] { launch_with(variables); }).message;
  };
  EXPECT_THAT(message("RANK", "2"), HasSubstr("RANK: found 2, expected at most 1"));
  EXPECT_THAT(message("WORLD_SIZE", "0"), HasSubstr("WORLD_SIZE: found 0, expected at least 1"));
  EXPECT_THAT(message("LOCAL_RANK", "2"), HasSubstr("LOCAL_RANK: found 2"));
  EXPECT_THAT(message("LOCAL_WORLD_SIZE", "3"), HasSubstr("LOCAL_WORLD_SIZE: found 3"));
  EXPECT_THAT(message("MASTER_PORT", "70000"), HasSubstr("MASTER_PORT: found 70000"));
  EXPECT_THAT(message("RANK", "first"), HasSubstr("RANK: "));
}

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

}  // namespace launch_test
}  // namespace qalof::train
