// From an instruction set to its table of functions.
#pragma once

#include "kernels/cpu/ops.h"
#include "kernels/isa.h"

namespace baton::kernels {

// The table of `isa`; calling into it needs isa_available(isa).
const Ops& ops_of(Isa isa);

}  // namespace baton::kernels
