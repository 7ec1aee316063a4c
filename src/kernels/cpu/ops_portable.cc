#include "kernels/cpu/lanes_portable.h"
#include "kernels/cpu/ops_body.h"

namespace baton::kernels {

const Ops kOpsPortable = make_ops<PortableLanes>();

}  // namespace baton::kernels
