#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/ops_body.h"

namespace baton::kernels {
namespace {

// As AVX-512, with the two instructions whose arithmetic the others follow.
struct Avx512Bf16Lanes : Avx512Lanes {
  static F dot(F acc, Pairs x, Pairs w) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
  }
  static void store_bf16(uint16_t* p, F a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)));
  }
};

}  // namespace

const Ops kOpsAvx512Bf16 = make_ops<Avx512Bf16Lanes>();

}  // namespace baton::kernels
