#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/ops_body.h"

namespace baton::kernels {

const Ops kOpsAvx512 = make_ops<Avx512Lanes>();

}  // namespace baton::kernels
