// Detects what the CPU and the system support, and builds the kernel table of each instruction set.
#include "kernels/isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "core/error.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

#if defined(__x86_64__)
constexpr Isa kAll[] = {Isa::kPortable,   Isa::kAvx2,       Isa::kAvxVnni, Isa::kAvx512,
                        Isa::kAvx512Vnni, Isa::kAvx512Bf16, Isa::kAmx};
#elif defined(__aarch64__)
constexpr Isa kAll[] = {Isa::kPortable, Isa::kNeon, Isa::kNeonDotprod, Isa::kNeonI8mm};
#else
constexpr Isa kAll[] = {Isa::kPortable};
#endif

#if defined(__x86_64__)
// CPUID leaf 1; clang's run-time support has no name for this bit.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (ecx & bit_F16C) != 0;
}

// CPUID leaf 7, sub-leaf 1; not all supported compilers have a name for this bit.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (eax & (1U << 4)) != 0;
}

// CPUID leaf 7: tiles and their byte and bfloat16 products. Linux grants a process the tile
// registers on request.
bool has_amx() {
#if defined(__linux__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kNeeded = (1U << 22) | (1U << 24) | (1U << 25);
  if ((edx & kNeeded) != kNeeded) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool lent = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return lent;
#else
  return false;
#endif
}

bool x86_has(Isa isa) {
  // The compiler's run-time support also checks that the system saves the wide registers.
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
             __builtin_cpu_supports("bmi2");
    case Isa::kAvxVnni:
      return x86_has(Isa::kAvx2) && has_avx_vnni();
    case Isa::kAvx512:
      return x86_has(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case Isa::kAvx512Vnni:
      return x86_has(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni");
    case Isa::kAvx512Bf16:
      return x86_has(Isa::kAvx512Vnni) && __builtin_cpu_supports("avx512bf16");
    case Isa::kAmx:
      return x86_has(Isa::kAvx512Bf16) && has_amx();
    default:
      return false;
  }
}
#elif defined(__aarch64__)
bool arm_has(Isa isa) {
#if defined(__linux__)
  static const bool dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  static const bool i8mm = dotprod && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
  if (isa == Isa::kNeonDotprod) return dotprod;
  if (isa == Isa::kNeonI8mm) return i8mm;
#endif
  return isa == Isa::kPortable || isa == Isa::kNeon;
}
#endif

bool cpu_has(Isa isa) {
#if defined(QALOF_SIMULATE_SETS)  // tests: wider sets are compiled to AVX2
  return x86_has(std::min(isa, Isa::kAvx2));
#elif defined(__x86_64__)
  return x86_has(isa);
#elif defined(__aarch64__)
  return arm_has(isa);
#else
  return isa == Isa::kPortable;
#endif
}

// The table of a set: each function from the widest set included in it that supplies one.
KernelTable make_table(Isa isa) {
  KernelTable table = kPortableTable;
  // The functions below are compiled for their sets, so not even they may run on a CPU without
  // them.
  if (isa == Isa::kPortable || !cpu_has(isa)) return table;
#if defined(__x86_64__)
  set_avx2_quantize(table);
  set_avx2_gemm(table);
  set_avx2_int_gemm(table);
  set_avx2_ops(table);
  set_avx2_attention(table);
  set_avx2_hadamard(table);
  if (isa == Isa::kAvxVnni) set_avxvnni_int_gemm(table);
  if (isa >= Isa::kAvx512) {
    set_avx512_quantize(table);
    set_avx512_gemm(table);
    set_avx512_ops(table);
    set_avx512_attention(table);
    set_avx512_hadamard(table);
  }
  if (isa >= Isa::kAvx512Vnni) {
    set_avx512vnni_int_gemm(table);
    set_avx512vnni_attention(table);
  }
  if (isa >= Isa::kAvx512Bf16) set_avx512bf16_gemm(table);
  if (isa >= Isa::kAmx) set_amx_gemm(table);
#elif defined(__aarch64__)
  set_neon_quantize(table);
  set_neon_gemm(table);
  set_neon_int_gemm(table);
  set_neon_ops(table);
  set_neon_attention(table);
  set_neon_hadamard(table);
  if (isa >= Isa::kNeonDotprod) set_dotprod_int_gemm(table);
  if (isa >= Isa::kNeonI8mm) set_i8mm_int_gemm(table);
#endif
  return table;
}

struct Choice {
  Isa isa;
  KernelTable table;
};

Isa initial_isa() {
  const char* text = std::getenv("QALOF_ISA");
  if (text == nullptr || *text == '\0') return available_isas().back();
  const Isa isa = parse_isa(text);
  QALOF_CHECK(cpu_has(isa), ErrorKind::kUnsupported,
              "QALOF_ISA: this CPU does not support {}, expected at most {}", text,
              to_string(available_isas().back()));
  return isa;
}

// The choice of a set that this CPU has.
const Choice* choice_of(Isa isa) {
  static const std::vector<Choice> choices = [] {
    std::vector<Choice> result;
    for (const Isa each : kAll) result.push_back({each, make_table(each)});
    return result;
  }();
  return &*std::find_if(choices.begin(), choices.end(),
                        [isa](const Choice& choice) { return choice.isa == isa; });
}

std::atomic<const Choice*>& current() {
  static std::atomic<const Choice*> choice{choice_of(initial_isa())};
  return choice;
}

}  // namespace

const std::vector<Isa>& known_isas() {
  static const std::vector<Isa> all(std::begin(kAll), std::end(kAll));
  return all;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> result;
  for (const Isa isa : kAll) {
    if (cpu_has(isa)) result.push_back(isa);
  }
  return result;
}

Isa active_isa() { return current().load(std::memory_order_relaxed)->isa; }

const KernelTable& active_table() { return current().load(std::memory_order_relaxed)->table; }

void force_isa(Isa isa) {
  QALOF_CHECK(cpu_has(isa), ErrorKind::kUnsupported,
              "instruction set {}: this CPU does not support it", to_string(isa));
  current().store(choice_of(isa));
}

std::string_view to_string(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avxvnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
    case Isa::kAvx512Bf16:
      return "avx512bf16";
    case Isa::kAmx:
      return "amx";
    case Isa::kNeon:
      return "neon";
    case Isa::kNeonDotprod:
      return "neon_dotprod";
    case Isa::kNeonI8mm:
      return "neon_i8mm";
  }
  return "unknown";
}

Isa parse_isa(std::string_view text) {
  std::string known;
  for (const Isa isa : kAll) {
    if (text == to_string(isa)) return isa;
    known += known.empty() ? "" : ", ";
    known += to_string(isa);
  }
  fail(ErrorKind::kUsage, "instruction set \"{}\" is unknown, expected one of {}", text, known);
}

}  // namespace qalof::kernels
