// Launchers' variables, and work that processes share.
#include <gmock/gmock.h>

#include <cstdlib>
#include <map>
#include <thread>

#include "core/process_group.h"
#include "support/error_of.h"
#include "support/group_of_threads.h"

namespace qalof {
namespace launch_test {

using qalof::testing::error_of;
using qalof::testing::GroupOfThreads;
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

TEST(ShareItems, EveryItemIsComputedOnceAndKnownToAll) {
  for (const std::size_t ranks : {1, 2, 3, 5}) {
    for (const std::size_t count : {0, 1, 3, 4, 17}) {
      GroupOfThreads::Meeting meeting(ranks);
      std::vector<int> computed(count);
      std::vector<std::vector<std::string>> results(ranks);
      std::vector<std::thread> threads;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        threads.emplace_back([&, rank] {
          GroupOfThreads group(meeting, rank);
          results[rank] = share_items(&group, count, [&](std::size_t item) {
            EXPECT_EQ(item % ranks, rank);
            ++computed[item];
            return std::string(item * 7 % 5, static_cast<char>('a' + item));  // some are empty
          });
        });
      }
      for (std::thread& thread : threads) thread.join();
      const std::vector<std::string> alone = share_items(nullptr, count, [](std::size_t item) {
        return std::string(item * 7 % 5, static_cast<char>('a' + item));
      });
      for (const auto& result : results) EXPECT_EQ(result, alone) << ranks << " of " << count;
      EXPECT_EQ(computed, std::vector<int>(count, 1));
    }
  }
}

}  // namespace launch_test
}  // namespace qalof
