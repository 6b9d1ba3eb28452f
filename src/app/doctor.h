// qalof doctor: instruction sets, memory, threads and libraries of this machine, and why others
// were rejected.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qalof::app {

struct DoctorResult {
  std::string cpu;                     // model name, "" where unknown
  int threads = 0;                     // usable by this process
  std::string isa;                     // in use
  std::vector<std::string> isas;       // usable
  std::vector<std::string> rejected;   // "avx2: this CPU lacks it"
  std::vector<std::string> libraries;  // "fmt 9.1.0"
  std::string trainer;                 // path of qalof-train, or why it is missing
  std::uint64_t memory_bytes = 0;      // physical
  std::uint64_t available_bytes = 0;
};
/// Inspects this machine; values that it cannot find are "" or 0.
DoctorResult run_doctor();
/// The instruction set in use, by its name; at once, unlike run_doctor.
std::string active_isa();

}  // namespace qalof::app
