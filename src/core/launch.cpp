// Where a launcher's variables place this process. See process_group.h.
#include <cstdlib>
#include <optional>

#include "core/error.h"
#include "core/flag_values.h"
#include "core/process_group.h"

namespace qalof {

namespace {

constexpr std::uint16_t kSlurmPorts = 1000;  // jobs on one machine get ports of their own

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::size_t number(const char* name, std::size_t most) {
  const std::optional<std::string> text = variable(name);
  QALOF_CHECK(text.has_value(), ErrorKind::kUsage, "{}: is not set, but others of its launcher are",
              name);
  std::uint64_t value = 0;
  const std::string reason = read_value(*text, value);
  QALOF_CHECK(reason.empty(), ErrorKind::kUsage, "{}: {}", name, reason);
  QALOF_CHECK(value <= most, ErrorKind::kUsage, "{}: found {}, expected at most {}", name, value,
              most);
  return value;
}

struct Variables {
  const char *rank, *size, *local_rank, *local_size;
};

constexpr std::size_t kMostProcesses = 65'536;

Launch read(const Variables& names) {
  Launch launch;
  launch.size = number(names.size, kMostProcesses);
  QALOF_CHECK(launch.size >= 1, ErrorKind::kUsage, "{}: found 0, expected at least 1", names.size);
  launch.rank = number(names.rank, launch.size - 1);
  launch.local_size = number(names.local_size, launch.size);
  QALOF_CHECK(launch.local_size >= 1, ErrorKind::kUsage, "{}: found 0, expected at least 1",
              names.local_size);
  launch.local_rank = number(names.local_rank, launch.local_size - 1);
  return launch;
}

// Where the store is, for launchers that bring none.
void place_store(Launch& launch, std::uint16_t usual_port) {
  const std::optional<std::string> address = variable("MASTER_ADDR");
  QALOF_CHECK(
      address || launch.is_one_machine(), ErrorKind::kUsage,
      "MASTER_ADDR: is not set; with processes on several machines it names that of rank 0");
  if (address) launch.address = *address;
  launch.port = usual_port;
  if (variable("MASTER_PORT"))
    launch.port = static_cast<std::uint16_t>(number("MASTER_PORT", 65'535));
  launch.hosts_store = launch.rank == 0;
}

}  // namespace

Launch launch_of_environment() {
  constexpr std::uint16_t kUsualPort = 29500;
  if (variable("RANK") || variable("WORLD_SIZE")) {
    Launch launch = read({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"});
    place_store(launch, kUsualPort);
    if (variable("TORCHELASTIC_USE_AGENT_STORE") == "True") {
      launch.hosts_store = false;
      launch.prefix = "/worker/attempt_" + variable("TORCHELASTIC_RESTART_COUNT").value_or("0");
    }
    return launch;
  }
  if (variable("SLURM_STEP_NUM_TASKS")) {  // set by srun alone, not in a batch script
    Launch launch;
    launch.size = number("SLURM_STEP_NUM_TASKS", kMostProcesses);
    if (launch.size <= 1) return {};
    launch.rank = number("SLURM_PROCID", launch.size - 1);
    launch.local_rank = number("SLURM_LOCALID", launch.size - 1);
    const bool one_machine = number("SLURM_STEP_NUM_NODES", kMostProcesses) == 1;
    // How many share this machine is told in a form for people ("2(x3),1"): at least this many.
    launch.local_size = one_machine ? launch.size : launch.local_rank + 1;
    const std::size_t job = variable("SLURM_JOB_ID") ? number("SLURM_JOB_ID", SIZE_MAX) : 0;
    place_store(launch, static_cast<std::uint16_t>(kUsualPort + job % kSlurmPorts));
    return launch;
  }
  if (variable("OMPI_COMM_WORLD_SIZE")) {
    Launch launch = read({"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                          "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"});
    if (launch.size > 1) place_store(launch, kUsualPort);
    return launch;
  }
  return {};
}

}  // namespace qalof
