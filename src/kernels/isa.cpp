#include "kernels/isa.h"

#include <atomic>
#include <cstdlib>
#include <iterator>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include "core/error.h"
#include "kernels/kernel_table.h"

namespace qalof::kernels {

namespace {

constexpr Isa kAll[] = {Isa::kPortable,   Isa::kAvx2,       Isa::kAvxVnni, Isa::kAvx512,
                        Isa::kAvx512Vnni, Isa::kAvx512Bf16, Isa::kAmx};

#if defined(__x86_64__)
// Leaf 1; clang's run-time support has no name for this bit.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (ecx & bit_F16C) != 0;
}

// Leaf 7, second part; compilers of our range do not all know a name for this bit.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (eax & (1U << 4)) != 0;
}

// Leaf 7: tiles, their products of bytes and of bfloat16; and Linux lends a process the registers
// when it asks.
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
  // The compiler's run-time support also asks whether the system saves the wide registers.
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
  }
  return false;
}
#endif

bool cpu_has(Isa isa) {
#if defined(__x86_64__)
  return x86_has(isa);
#else
  return isa == Isa::kPortable;
#endif
}

// What the set does best, each function from the widest set that has one.
KernelTable make_table(Isa isa) {
  KernelTable table = kPortableTable;
#if defined(__x86_64__)
  // Even these assignments are compiled for their sets.
  if (isa == Isa::kPortable || !cpu_has(isa)) return table;
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
  if (isa >= Isa::kAvx512Vnni) set_avx512vnni_int_gemm(table);
  if (isa >= Isa::kAvx512Bf16) set_avx512bf16_gemm(table);
  if (isa >= Isa::kAmx) set_amx_gemm(table);
#endif
  return table;
}

// PERTURB-HACK begin
struct Perturb {
  float eps = 0;
  std::uint32_t seed = 0;
};
const Perturb& perturb_options() {
  static const Perturb p = [] {
    Perturb r;
    if (const char* e = std::getenv("QALOF_PERTURB_EPS")) r.eps = static_cast<float>(std::atof(e));
    if (const char* e = std::getenv("QALOF_PERTURB_SEED"))
      r.seed = static_cast<std::uint32_t>(std::atoi(e));
    return r;
  }();
  return p;
}
float jitter(float v) {
  const Perturb& p = perturb_options();
  std::uint32_t b;
  __builtin_memcpy(&b, &v, 4);
  b ^= p.seed * 0x9E3779B9U;
  b ^= b >> 16;
  b *= 0x85ebca6bU;
  b ^= b >> 13;
  b *= 0xc2b2ae35U;
  b ^= b >> 16;
  const float u = static_cast<float>(static_cast<std::int32_t>(b)) * 0x1p-31F;
  return v * (1.0F + p.eps * u);
}
void jitter_row(float* x, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) x[i] = jitter(x[i]);
}
template <int I>
struct Wrap {
  static inline KernelTable base;
  static void block(const FloatGemmBlock& b) {
    for (std::size_t r = 0; r < b.rows; ++r) jitter_row(b.y + r * b.y_stride, b.n);
  }
  static void gemm_f32(const FloatGemmBlock& b) {
    base.gemm_f32(b);
    block(b);
  }
  static void gemm_narrow_f32(const FloatGemmBlock& b) {
    base.gemm_narrow_f32(b);
    block(b);
  }
  static void gemm_bf16(const FloatGemmBlock& b) {
    base.gemm_bf16(b);
    block(b);
  }
  static void layer_norm(const float* x, std::size_t c, const float* g, const float* be, float e,
                         float* d, float* s) {
    base.layer_norm(x, c, g, be, e, d, s);
    jitter_row(d, c);
  }
  static void layer_norm_dx(const float* dy, const float* x, const float* s, const float* g,
                            std::size_t c, float* dx) {
    base.layer_norm_dx(dy, x, s, g, c, dx);
    jitter_row(dx, c);
  }
  static void rms_norm(const float* x, std::size_t c, const float* g, float e, float* d, float* s) {
    base.rms_norm(x, c, g, e, d, s);
    jitter_row(d, c);
  }
  static void rms_norm_dx(const float* dy, const float* x, const float* s, const float* g,
                          std::size_t c, float* dx) {
    base.rms_norm_dx(dy, x, s, g, c, dx);
    jitter_row(dx, c);
  }
  static void gelu(const float* x, std::size_t n, float* d) {
    base.gelu(x, n, d);
    jitter_row(d, n);
  }
  static void gelu_dx(const float* dy, const float* x, std::size_t n, float* dx) {
    base.gelu_dx(dy, x, n, dx);
    jitter_row(dx, n);
  }
  static void swiglu(const float* a, const float* b, std::size_t n, float* d) {
    base.swiglu(a, b, n, d);
    jitter_row(d, n);
  }
  static void swiglu_dx(const float* dy, const float* a, const float* b, std::size_t n, float* da,
                        float* db) {
    base.swiglu_dx(dy, a, b, n, da, db);
    jitter_row(da, n);
    jitter_row(db, n);
  }
  static void dot_rows(const float* a, std::size_t ar, std::size_t as, const float* b,
                       std::size_t br, std::size_t bs, std::size_t dim, float scale, float* d,
                       std::size_t ds) {
    base.dot_rows(a, ar, as, b, br, bs, dim, scale, d, ds);
    for (std::size_t r = 0; r < ar; ++r) jitter_row(d + r * ds, br);
  }
  static void dot_stored(const float* a, std::size_t ar, std::size_t as, const StoredKv& b,
                         std::size_t br, std::size_t dim, float scale, float* d, std::size_t ds) {
    base.dot_stored(a, ar, as, b, br, dim, scale, d, ds);
    for (std::size_t r = 0; r < ar; ++r) jitter_row(d + r * ds, br);
  }
  static void softmax_dx(const float* p, std::size_t n, float shift, float scale, float* ds) {
    base.softmax_dx(p, n, shift, scale, ds);
    jitter_row(ds, n);
  }
  static KernelTable wrap(KernelTable t) {
    if (perturb_options().eps == 0) return t;
    base = t;
    t.adds_low_rank = t.adds_low_rank;
    t.gemm_f32 = gemm_f32;
    t.gemm_narrow_f32 = gemm_narrow_f32;
    t.gemm_bf16 = gemm_bf16;
    t.layer_norm = layer_norm;
    t.layer_norm_dx = layer_norm_dx;
    t.rms_norm = rms_norm;
    t.rms_norm_dx = rms_norm_dx;
    t.gelu = gelu;
    t.gelu_dx = gelu_dx;
    t.swiglu = swiglu;
    t.swiglu_dx = swiglu_dx;
    t.dot_rows = dot_rows;
    t.dot_stored = dot_stored;
    t.softmax_dx = softmax_dx;
    return t;
  }
};
// PERTURB-HACK end

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

std::atomic<const Choice*>& current() {
  static const Choice choices[] = {
      {Isa::kPortable, Wrap<0>::wrap(make_table(Isa::kPortable))},
      {Isa::kAvx2, Wrap<1>::wrap(make_table(Isa::kAvx2))},
      {Isa::kAvxVnni, Wrap<2>::wrap(make_table(Isa::kAvxVnni))},
      {Isa::kAvx512, Wrap<3>::wrap(make_table(Isa::kAvx512))},
      {Isa::kAvx512Vnni, Wrap<4>::wrap(make_table(Isa::kAvx512Vnni))},
      {Isa::kAvx512Bf16, Wrap<5>::wrap(make_table(Isa::kAvx512Bf16))},
      {Isa::kAmx, Wrap<6>::wrap(make_table(Isa::kAmx))},
  };
  static std::atomic<const Choice*> choice{&choices[static_cast<int>(initial_isa())]};
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
