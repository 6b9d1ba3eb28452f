// Reads /proc, the kernels' instruction sets, library versions and the trainer's path.
#include "app/doctor.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/threads.h"
#include "io/hub/http.h"
#include "kernels/isa.h"

namespace qalof::app {

namespace {

// The value of the first "key : value" line of a /proc file, or "".
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t colon = line.find(':');
    const std::size_t start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

std::uint64_t proc_kilobytes(const std::string& key) {
  const std::string text = proc_value("/proc/meminfo", key);
  return text.empty() ? 0 : std::stoull(text) * 1024;
}

}  // namespace

std::string active_isa() { return std::string(kernels::to_string(kernels::active_isa())); }

DoctorResult run_doctor() {
  DoctorResult result;
  result.cpu = proc_value("/proc/cpuinfo", "model name");
  result.threads = available_threads();
  result.isa = active_isa();
  const std::vector<kernels::Isa> available = kernels::available_isas();
  for (const kernels::Isa isa : kernels::known_isas()) {
    const std::string name(kernels::to_string(isa));
    if (std::find(available.begin(), available.end(), isa) != available.end()) {
      result.isas.push_back(name);
    } else {
      result.rejected.push_back(name + ": this CPU or operating system lacks it");
    }
  }
  result.memory_bytes = proc_kilobytes("MemTotal");
  result.available_bytes = proc_kilobytes("MemAvailable");
  result.libraries = {
      fmt::format("fmt {}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100),
      fmt::format("nlohmann-json {}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                  NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH),
      OpenSSL_version(OPENSSL_VERSION)};
  bool can_download = false;
  const std::string http = io::http_library(&can_download);
  if (can_download) {
    result.libraries.push_back(http.substr(0, http.find(' ')));  // without its own libraries
  } else {
    result.rejected.push_back("downloads: " + http);
  }
  std::error_code error;
  const std::filesystem::path sibling =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "qalof-train";
  result.trainer =
      std::filesystem::exists(sibling)
          ? sibling.string()
          : sibling.string() + " is missing: train and demo are off (build with -DQALOF_TRAIN=ON)";
  return result;
}

}  // namespace qalof::app
