// The floating-point mode of every kernel: round to nearest even, denormal inputs read as zero, denormal
// results flushed to zero. VDPBF16PS always works so (Intel SDM volume 2); the other paths need the MXCSR
// bits DAZ and FTZ. ThreadTeam sets the mode around all tasks; serial kernels set it themselves.
#pragma once

#include <cstdint>

namespace baton::kernels {

// Sets the mode for this thread; the destructor restores what was there. Nests.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  uint32_t before_;
};

}  // namespace baton::kernels
