#include "kernels/float_mode.h"

#include <xmmintrin.h>

namespace baton::kernels {
namespace {

// All exceptions masked, nearest even, DAZ (bit 6), FTZ (bit 15): Intel SDM volume 1, 10.2.3.
constexpr uint32_t kFlushingMode = 0x9FC0;

}  // namespace

FlushDenormals::FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(kFlushingMode); }
FlushDenormals::~FlushDenormals() { _mm_setcsr(before_); }

}  // namespace baton::kernels
