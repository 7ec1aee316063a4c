#include "kernels/cpu/tables.h"

namespace baton::kernels {

const Ops& ops_of(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return kOpsPortable;
    case Isa::kAvx2:
      return kOpsAvx2;
    case Isa::kAvx512:
      return kOpsAvx512;
    case Isa::kAvx512Bf16:
      return kOpsAvx512Bf16;
  }
  return kOpsPortable;
}

}  // namespace baton::kernels
