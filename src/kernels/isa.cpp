#include "kernels/isa.h"

#include <atomic>
#include <cstdlib>

#include "core/error.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

constexpr Isa kAll[] = {Isa::kPortable, Isa::kAvx2};

bool cpu_has(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kAvx2:
#if defined(__x86_64__)
      // The compiler's run-time support also asks whether the system saves the wide registers.
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
#else
      return false;
#endif
  }
  return false;
}

KernelTable make_avx2_table() {
  KernelTable table = kPortableTable;
#if defined(__x86_64__)
  // Even these assignments are compiled for AVX2.
  if (!cpu_has(Isa::kAvx2)) return table;
  set_avx2_quantize(table);
  set_avx2_gemm(table);
  set_avx2_int_gemm(table);
  set_avx2_ops(table);
  set_avx2_attention(table);
#endif
  return table;
}

const KernelTable& table_of(Isa isa) {
  static const KernelTable avx2 = make_avx2_table();
  return isa == Isa::kAvx2 ? avx2 : kPortableTable;
}

Isa initial_isa() {
  const char* text = std::getenv("QALOF_ISA");
  if (text == nullptr || *text == '\0') return available_isas().back();
  const Isa isa = parse_isa(text);
  QALOF_CHECK(cpu_has(isa), ErrorKind::kUnsupported,
              "QALOF_ISA: this CPU does not support {}, expected at most {}", text,
              to_string(available_isas().back()));
  return isa;
}

struct Choice {
  Isa isa;
  const KernelTable* table;
};

std::atomic<const Choice*>& current() {
  static const Choice choices[] = {{Isa::kPortable, &table_of(Isa::kPortable)},
                                   {Isa::kAvx2, &table_of(Isa::kAvx2)}};
  static std::atomic<const Choice*> choice{&choices[static_cast<int>(initial_isa())]};
  return choice;
}

}  // namespace

std::vector<Isa> available_isas() {
  std::vector<Isa> result;
  for (const Isa isa : kAll) {
    if (cpu_has(isa)) result.push_back(isa);
  }
  return result;
}

Isa active_isa() { return current().load(std::memory_order_relaxed)->isa; }

const KernelTable& active_table() { return *current().load(std::memory_order_relaxed)->table; }

void force_isa(Isa isa) {
  QALOF_CHECK(cpu_has(isa), ErrorKind::kUnsupported,
              "instruction set {}: this CPU does not support it", to_string(isa));
  // Choices lie in one array in the order of Isa.
  const Choice* now = current().load();
  current().store(now + (static_cast<int>(isa) - static_cast<int>(now->isa)));
}

std::string_view to_string(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
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
