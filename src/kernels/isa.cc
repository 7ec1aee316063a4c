#include "kernels/isa.h"

#include <cpuid.h>

#include <fmt/format.h>

#include <array>

namespace baton::kernels {
namespace {

struct Named {
  Isa isa;
  std::string_view name;
};
constexpr std::array<Named, 4> kNames{{{Isa::kPortable, "portable"},
                                       {Isa::kAvx2, "avx2"},
                                       {Isa::kAvx512, "avx512"},
                                       {Isa::kAvx512Bf16, "avx512_bf16"}}};

// Bits of the Intel SDM, volume 2, CPUID, and of XCR0 (volume 1, 13.3).
struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
  bool has(unsigned reg, unsigned bit) const { return (reg >> bit & 1U) != 0; }
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}

// The register states that the operating system saves.
uint64_t saved_states() {
  unsigned low = 0;
  unsigned high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool has_avx2() {
  const Registers one = cpuid(1, 0);
  if (!one.has(one.c, 27) || !one.has(one.c, 28)) return false;  // OSXSAVE, AVX
  if ((saved_states() & 0x6U) != 0x6U) return false;             // XMM, YMM
  const Registers seven = cpuid(7, 0);
  return one.has(one.c, 12) && one.has(one.c, 29) && seven.has(seven.b, 5);  // FMA, F16C, AVX2
}

bool has_avx512() {
  if (!has_avx2() || (saved_states() & 0xE6U) != 0xE6U) return false;  // and opmask, both halves of ZMM
  const Registers seven = cpuid(7, 0);
  return seven.has(seven.b, 16) && seven.has(seven.b, 17) && seven.has(seven.b, 30) && seven.has(seven.b, 31);
}

bool has_avx512_bf16() {
  const Registers one = cpuid(7, 1);
  return has_avx512() && one.has(one.a, 5);
}

}  // namespace

std::string_view isa_name(Isa isa) {
  for (const Named& row : kNames) {
    if (row.isa == isa) return row.name;
  }
  return "unknown";
}

bool isa_available(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kAvx2:
      return has_avx2();
    case Isa::kAvx512:
      return has_avx512();
    case Isa::kAvx512Bf16:
      return has_avx512_bf16();
  }
  return false;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Named& row : kNames) {
    if (isa_available(row.isa)) isas.push_back(row.isa);
  }
  return isas;
}

Result<Isa> select_isa(std::string_view name) {
  if (name == "auto") return available_isas().back();
  for (const Named& row : kNames) {
    if (row.name != name) continue;
    if (isa_available(row.isa)) return row.isa;
    return fail(Code::kInvalid,
                fmt::format("--cpu-isa: {}: this processor lacks it, the best it has is {}", name,
                            isa_name(available_isas().back())),
                "cpu_isa");
  }
  return fail(Code::kInvalid,
              fmt::format("--cpu-isa: {}: expected auto, portable, avx2, avx512 or avx512_bf16", name),
              "cpu_isa");
}

}  // namespace baton::kernels
