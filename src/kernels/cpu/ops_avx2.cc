#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/ops_body.h"

namespace baton::kernels {

const Ops kOpsAvx2 = make_ops<Avx2Lanes>();

}  // namespace baton::kernels
