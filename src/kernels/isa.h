// The instruction sets that the kernels are built for, and which of them this processor has. The choice never
// shows in a result: every path gives the same bits (ARCHITECTURE.md, "Arithmetic").
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::kernels {

// In ascending order of speed.
enum class Isa : uint8_t {
  kPortable,    // C++ with std::fma
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, DQ, VL: bf16 pairs by two FMAs
  kAvx512Bf16,  // the above and AVX512_BF16: bf16 pairs by VDPBF16PS
};

// The name that --cpu-isa takes: "portable", "avx2", "avx512", "avx512_bf16".
std::string_view isa_name(Isa isa);

// Whether this processor and operating system can run `isa` (CPUID leaves 1 and 7, XGETBV).
bool isa_available(Isa isa);

// All available ones, slowest first; never empty.
std::vector<Isa> available_isas();

// The value of --cpu-isa: one of the names above, or "auto" for the fastest available one. kInvalid for an
// unknown name or one that this processor lacks.
Result<Isa> select_isa(std::string_view name);

}  // namespace baton::kernels
